"""The sections of a training recipe: train, mix, optimizer and schedule."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from ..bounds import Alpha, Part, Share, Words
from .section import Count, Epochs, Free, NotNegative, Section, Texts

OPTIMIZERS = ("sgd", "rmsprop", "adamw")

AboveZero = Annotated[float, Field(gt=0, le=1)]


def _named_or_path(names: tuple[str, ...], value: str) -> str:
    """Returns a name, if it is one of a list or an import path.

    Args:
      names: the list.
      value: the name.

    Raises:
      ValueError: It is neither.
    """
    module, _, attribute = value.partition(":")
    if value not in names and not (module and attribute):
        raise ValueError
    return value


def _rising(epochs: tuple[float, ...]) -> tuple[float, ...]:
    if list(epochs) != sorted(set(epochs)):
        raise ValueError
    return epochs


OptimizerName = Annotated[
    str,
    AfterValidator(lambda name: _named_or_path(OPTIMIZERS, name)),
    Words(f"one of {list(OPTIMIZERS)} or 'package.module:name'"),
]
Boundaries = Annotated[
    tuple[NotNegative, ...],
    Strict(False),
    AfterValidator(_rising),
    Words("epochs, numbers from 0 on that rise"),
]


class Train(Section):
    """The length of the student's training, its moving average and skipped steps."""

    epochs: Epochs = 0.0
    """Passes over the training images."""
    max_steps: Count = 0
    """Steps after which training ends; 0 for all of epochs."""
    label_smoothing: Part = 0.0
    """Share of a label that is spread over all classes."""
    norm_group_size: Count = 0
    """Consecutive images that share batch norm statistics; 0 for the whole batch."""
    ema_decay: Part = 0.0
    """Decay of the student's moving average, which is evaluated too; 0 for none."""
    max_skipped: Annotated[int, Field(ge=0, le=10**9), Free] = 0
    """Steps that may be skipped because a number is not finite."""
    distill_every: Annotated[int, Field(ge=1, le=10**9)] = 1
    """Distil at the first of so many steps; train on the task alone at the others."""
    diagnose_every: Annotated[int, Field(ge=0, le=10**9), Free] = 0
    """Steps between two comparisons of the losses' gradients; 0 for never."""
    distill_warmup_epochs: Epochs = 0.0
    """Epochs in which the weights of all distances rise from 0; 0 for none."""
    chance_evaluations: Annotated[int, Field(ge=0, le=10**9), Free] = 3
    """Evaluations in a row no better than chance before a warning; 0 for never."""


class Mix(Section):
    """The mixing and erasing of training images."""

    mixup: Alpha = 0.0
    """Alpha of mixup; 0 for never."""
    cutmix: Alpha = 0.0
    """Alpha of CutMix; 0 for never."""
    switch: Share = 0.5
    """Probability of CutMix if mixup is on too."""
    erase: Share = 0.0
    """Probability of random erasing."""


class Optimizer(Section):
    """The optimizer, which turns gradients into updates."""

    name: OptimizerName = "sgd"
    """Optimizer; one of your own is a function of the schedule."""
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    """Largest learning rate, at the end of the warm-up."""
    momentum: Part = 0.9
    """Momentum of sgd and rmsprop."""
    nesterov: bool = False
    """Use Nesterov's momentum in sgd."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 5e-4
    """Weight decay: added to the gradient, in adamw to the update."""
    decay_norms_and_biases: bool = True
    """Let parameters of one dimension decay too."""
    frozen: Texts = ()
    """Patterns of the student's parameters that do not train."""
    clip_norm: NotNegative = 0.0
    """Largest norm of the whole gradient; 0 for any."""
    decay: Part = 0.9
    """Decay of rmsprop's average of squares."""
    epsilon: AboveZero = 1e-3
    """Epsilon of rmsprop, inside the root."""


class Schedule(Section):
    """The schedule of the learning rate."""

    name: Literal["constant", "step", "exponential", "cosine", "poly"] = "step"
    """Shape of the schedule."""
    boundaries: Boundaries = ()
    """Epochs at which step multiplies the learning rate by factor."""
    factor: AboveZero = 0.1
    """Factor of step and exponential."""
    every_epochs: Epochs = 0.0
    """Epochs between two changes of exponential."""
    end: NotNegative = 0.0
    """Last learning rate of cosine and poly."""
    power: Annotated[float, Field(gt=0, le=100)] = 0.9
    """Power of poly."""
    warmup_epochs: Epochs = 0.0
    """Epochs in which the learning rate rises at first."""
    warmup_start: NotNegative = 0.0
    """First learning rate of the warm-up."""


def recipe_faults(
    schedule: Schedule, optimizer: Optimizer, epochs: float, at: str, of: str
) -> Iterator[str]:
    """Yields an error line for each value of a schedule that does not fit the training.

    Args:
      schedule: the schedule; each of its fields is valid by itself.
      optimizer: its ``learning_rate`` is the largest rate of the schedule.
      epochs: length of the training; 0 if it is not known.
      at: prefix of the sections' names in the lines, such as ``teacher.``.
      of: path of the field that holds ``epochs``, for the lines.
    """
    name, warmup = schedule.name, schedule.warmup_epochs
    if name == "exponential" and not schedule.every_epochs:
        yield (
            f"{at}schedule.every_epochs: found 0, expected above 0 for the schedule "
            "'exponential'"
        )
    if epochs and warmup > epochs:
        yield (
            f"{at}schedule.warmup_epochs: found {warmup}, expected at most {epochs}, "
            f"{of}"
        )
    rate = optimizer.learning_rate
    ends = {"end": name in ("cosine", "poly"), "warmup_start": warmup > 0}
    for field, counts in ends.items():
        value = getattr(schedule, field)
        if counts and value > rate:
            yield (
                f"{at}schedule.{field}: found {value}, expected at most {rate}, "
                f"{at}optimizer.learning_rate"
            )
