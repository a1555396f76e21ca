"""The value that describes a task: a few functions that the trainer calls."""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
from jaxtyping import PyTree

# Arrays by name; an entry may itself be a dict, such as "target" of a batch.
Outputs: TypeAlias = Mapping[str, PyTree]
Batch: TypeAlias = Mapping[str, PyTree]
# Description of a data set or a model in the types of JSON, with "num_classes".
Meta: TypeAlias = Mapping[str, Any]


class Evidence(NamedTuple):
    """The values computed from a batch or a split that are needed to score a model.

    Attributes:
      sums: arrays by name, sums over the unmasked examples. They are added up over
        batches, devices and processes.
      rows: arrays ``[b, ...]`` by name, one row for each example. For a split they are
        gathered in the order of its examples, without padding.

    >>> Evidence({"count": 4.0}).rows
    {}
    """

    sums: Mapping[str, PyTree]
    rows: Mapping[str, PyTree] = {}


class Evaluation(NamedTuple):
    """A further evaluation beside the task's own, of student and teacher together.

    Attributes:
      apply: ``(student, teacher, batch) -> outputs``; both models are functions
        ``batch -> outputs``.
      evidence: ``(outputs, batch) -> Evidence``; it is compiled.
      score: ``(Evidence of a split) -> {name: float}``; it runs on the host.

    >>> both = lambda student, teacher, batch: {"gap": student(batch) - teacher(batch)}
    >>> gap = Evaluation(both, lambda outputs, batch: Evidence(outputs), dict)
    >>> gap.apply(lambda x: 3 * x, lambda x: x, 2.0)
    {'gap': 4.0}
    """

    apply: Callable[..., Outputs]
    evidence: Callable[[Outputs, Batch], Evidence]
    score: Callable[[Evidence], Mapping[str, float]]


class Task(NamedTuple):
    """A task: what a student learns, and how it is scored.

    Tasks are made by functions ``(meta, **options) -> Task``, where ``meta`` describes
    the data. Batches are dicts: ``image`` ``[b, h, w, c]``, normalised; ``index`` int
    ``[b]``, rows of the split; ``target``, a dict on which the task and its data agree;
    and in evaluation ``mask`` float ``[b]``, 0 for padding.

    Attributes:
      loss: ``(outputs, batch) -> {name: scalar}``; names are ``task`` or
        ``task/<part>``.
      predict: ``(outputs, batch) -> {name: array [b, ...]}``; it does not read the
        target.
      evidence: ``(outputs, batch) -> Evidence``; it is compiled.
      score: ``(Evidence of a split) -> {name: float}``; it runs on the host.
      headline: name of the score that chooses the checkpoint, heads the report and
        guards against a bad teacher.
      higher_is_better: whether a larger headline is better.
      target: rank of each array that the target of one example must hold, by name.
        None accepts any target.
      chance: ``(Evidence of a split) -> float``, the headline up to which a model is no
        better than a guess. None if that is not known.
      prepare: ``(key, batch) -> batch``, the first thing that a training step does to a
        batch, such as mixup; or None.
      infer: ``(apply, batch) -> outputs``, for tasks that need more than one call
        ``apply(batch)``; or None.
      draw: ``(folder, Evidence of a split, meta) -> [PNG file]``; or None.
      show: ``(folder, examples, meta) -> [PNG file]``, draws a few examples:
        ``image`` uint8, ``target``, and ``predicted``, the results of ``predict`` by
        name of a model; or None.
      write: ``(folder, predictions, meta) -> None``, writes predictions to files; or
        None. ``predictions`` yields triples ``(name, result of predict, example)``, one
        for each example. The name is a path below the folder, without a file ending.
        The arrays have no batch axis. The example has ``id`` if its file gives one.
      check: ``(source, meta of a model, meta of the data, taps) -> None``, raises
        ValueError if the model cannot serve; or None. ``taps`` is None for a student.
        For a teacher it is ``{name: (student output, teacher output, whether the
        distance reads the target)}``.

    >>> from diffkd_jax.tasks import TASKS
    >>> TASKS["classification"]({"num_classes": 3}).headline
    'top1'
    """

    loss: Callable[[Outputs, Batch], Mapping[str, PyTree]]
    predict: Callable[[Outputs, Batch], Mapping[str, PyTree]]
    evidence: Callable[[Outputs, Batch], Evidence]
    score: Callable[[Evidence], Mapping[str, float]]
    headline: str
    higher_is_better: bool = True
    target: Mapping[str, int] | None = None
    chance: Callable[[Evidence], float] | None = None
    prepare: Callable[[jax.Array, Batch], Batch] | None = None
    infer: Callable[..., Outputs] | None = None
    draw: Callable[..., list[pathlib.Path]] | None = None
    show: Callable[..., list[pathlib.Path]] | None = None
    write: Callable[..., None] | None = None
    check: Callable[..., None] | None = None

    def goodness(self, scores: Mapping[str, Any]) -> float:
        """Returns the headline score, negated if a lower one is better.

        Args:
          scores: scores by name.

        Returns:
          A number that is larger for a better model; -inf if the headline is missing or
          not finite.

        >>> task = Task(None, None, None, None, "error", higher_is_better=False)
        >>> max([{"error": float("nan")}, {"error": 0.5}], key=task.goodness)
        {'error': 0.5}
        """
        value = scores.get(self.headline)
        if value is None or not math.isfinite(value):
            return -math.inf
        return value if self.higher_is_better else -value
