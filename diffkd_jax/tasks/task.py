"""What a student is for, as a value: a few functions that the trainer calls."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Evidence(NamedTuple):
    """What is kept of a batch to score a model.

    Attributes:
      sums: sums over the unmasked examples, added over batches, devices and processes;
        arrays by name.
      rows: arrays ``[b, ...]`` by name, gathered for all examples of a split in its
        order, padding left out.
    """

    sums: Mapping[str, Any]
    rows: Mapping[str, Any] = {}


class Evaluation(NamedTuple):
    """A further evaluation beside the task's own, of both models at once.

    Attributes:
      apply: ``(student, teacher, batch) -> outputs``; both are ``batch -> outputs``.
      evidence: ``(outputs, batch) -> Evidence``, compiled.
      score: ``(Evidence of a split) -> {name: float}``, on the host.
    """

    apply: Callable[..., Mapping]
    evidence: Callable[[Mapping, Mapping], Evidence]
    score: Callable[[Evidence], Mapping[str, float]]


class Task(NamedTuple):
    """A task, made by ``(meta, **options) -> Task``; ``meta`` is that of the data.

    Batches are dicts: ``image`` ``[b, h, w, c]``, normalised; ``index`` int ``[b]``,
    rows of the split; ``target``, a dict that the task and its data agree on; in
    evaluation ``mask`` float ``[b]``, 0 for padding.

    Attributes:
      loss: ``(outputs, batch) -> {name: scalar}``; names are ``task`` or
        ``task/<part>``.
      predict: ``(outputs, batch) -> {name: array [b, ...]}``, without looking at the
        target.
      evidence: ``(outputs, batch) -> Evidence``, compiled.
      score: ``(Evidence of a split) -> {name: float}``, on the host.
      headline: the score that chooses the checkpoint, heads the report and guards the
        teacher.
      higher_is_better: its direction.
      target: rank of each array that the target of one example must hold, by name; or
        None for whatever the data have.
      chance: ``(Evidence of a split) -> headline`` up to which a model is no better
        than a guess; or None where that is not known.
      prepare: ``(key, batch) -> batch``, what a training step does to a batch first,
        such as mixup; or None.
      infer: ``(apply, batch) -> outputs`` where one call ``apply(batch)`` is not
        enough; or None.
      draw: ``(folder, Evidence of a split, meta) -> [PNG file]``; or None.
      show: ``(folder, examples, meta) -> [PNG file]``, of a few examples: ``image``
        uint8, ``target``, and ``predicted``, what ``predict`` says by name of a model;
        or None.
      write: ``(folder, predictions, meta) -> None``, where ``predictions`` yields
        ``(name, what predict says of one example, the example)``: name is a path below
        the folder, without an ending; the arrays are without their batch axis, and the
        example has ``id``, where its file has one. Or None.
      check: ``(source, meta of a model, meta of the data, taps) -> None``, ValueError
        where the model cannot serve; ``taps`` is None for a student, for a teacher
        ``{name: (student output, teacher output, whether the distance reads the
        target)}``; or None.
    """

    loss: Callable[[Mapping, Mapping], Mapping[str, Any]]
    predict: Callable[[Mapping, Mapping], Mapping[str, Any]]
    evidence: Callable[[Mapping, Mapping], Evidence]
    score: Callable[[Evidence], Mapping[str, float]]
    headline: str
    higher_is_better: bool = True
    target: Mapping[str, int] | None = None
    chance: Callable[[Evidence], float] | None = None
    prepare: Callable[[Any, Mapping], Mapping] | None = None
    infer: Callable[..., Mapping] | None = None
    draw: Callable[..., list] | None = None
    show: Callable[..., list] | None = None
    write: Callable[..., None] | None = None
    check: Callable[..., None] | None = None

    def goodness(self, scores: Mapping[str, Any]) -> float:
        """The headline, larger for better; no value that is not finite is any good.

        >>> task = Task(None, None, None, None, "error", higher_is_better=False)
        >>> max([{"error": float("nan")}, {"error": 0.5}], key=task.goodness)
        {'error': 0.5}
        """
        value = scores.get(self.headline)
        if value is None or not math.isfinite(value):
            return -math.inf
        return value if self.higher_is_better else -value
