"""Scores of a model on a split: evidence of its batches, added up and gathered."""

import functools
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np

from ..config import sections
from ..config.data import DataConfig
from ..data import Data, Split
from ..data.pipeline import batches as pipeline
from ..data.pipeline.unreadable import note_skipped
from ..data.transforms import TargetTransform
from ..models.model import Model
from ..named import find
from ..tasks import EVALUATIONS, Evidence, Task
from .cluster import sharding
from .cluster.signals import Asked, never, stop_here, while_waiting
from .components import missing_output_named
from .plan import Plan


class Other(NamedTuple):
    """A further evaluation.

    Attributes:
      every: steps between two of them.
      evaluate: ``(student variables, teacher variables, *, asked) -> scores``.
    """

    every: int
    evaluate: Callable[..., dict[str, float]]


def compile_evidence(
    evidence: Callable, apply: Callable, normalise: Callable, mesh
) -> Callable:
    """``(variables, batch) -> (sums, rows)``, the same on every device.

    Args:
      evidence: ``(outputs, batch) -> Evidence``.
      apply: ``(variables, batch) -> outputs``.
      normalise: of a batch, on the device.
      mesh: of the devices.

    ``sums`` hold ``mask`` too, the examples that count; ``rows`` hold ``index`` and
    ``mask`` of the batch, if the task has any.
    """

    def forward(variables, batch):
        batch = normalise(batch)
        outputs = apply(variables, batch)
        with missing_output_named(outputs):
            seen = evidence(outputs, batch)
        rows = dict(seen.rows)
        if rows:
            rows |= {"index": batch["index"], "mask": batch["mask"]}
        return {**seen.sums, "mask": batch["mask"].sum()}, rows

    return sharding.jit_forward(forward, mesh)


def gather(
    forward: Callable,
    variables: Any,
    batches: Callable[[Asked], Generator[Mapping]],
    mesh,
    asked: Asked = never,
) -> Evidence | None:
    """The evidence of all batches, rows in the order of ``index``.

    Args:
      forward: from :func:`compile_evidence`.
      variables: what it is applied to.
      batches: of this process, from :func:`make_batches`.
      mesh: of the devices.
      asked: see :mod:`diffkd_jax.train.cluster.signals`.

    Returns:
      Sums as float64 or int64, or None where no example counts.

    Raises:
      Stopped: between two batches.
    """
    parts: list[Any] = []
    with closing(batches(asked)) as own:
        for batch in own:
            stop_here(asked)
            parts.append(forward(variables, sharding.put_batch(batch, mesh)))
            jax.block_until_ready(parts[-2:-1])  # else batches pile up on the device
    sums, rows = zip(*jax.device_get(parts), strict=True)
    total = jax.tree.map(_sum, *sums)
    if not total.pop("mask"):
        return None
    joined = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    if joined:
        counted = np.flatnonzero(joined.pop("mask"))
        order = counted[np.argsort(joined.pop("index")[counted], kind="stable")]
        joined = jax.tree.map(lambda x: x[order], joined)
    return Evidence(total, joined)


def _sum(*values: np.ndarray) -> np.ndarray:
    whole = np.issubdtype(values[0].dtype, np.integer)
    return np.sum(np.asarray(values, np.int64 if whole else np.float64), 0)


def batch_size(asked: int, examples: int, devices: int) -> int:
    """Examples a batch: as asked, no more than there are, a multiple of the devices.

    >>> batch_size(100, 2000, 8), batch_size(256, 5, 8)
    (104, 8)
    """
    return -(-min(asked, examples) // devices) * devices


def reading(options: DataConfig, asked: Asked) -> dict[str, Any]:
    """How this process reads batches: arguments of :mod:`diffkd_jax.data.pipeline`.

    Args:
      options: the section ``data`` of a config.
      asked: whether to stop, looked at where no batch comes.
    """
    return {
        "num_threads": options.num_threads,
        "num_workers": options.num_workers,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
        "waiting": while_waiting(asked, options.stalled_seconds),
    }


def inferring(task: Task, model: Model) -> Callable:
    """``(variables, batch) -> outputs`` of a model, as its task has it inferred."""
    if task.infer is None:
        return model.infer
    infer = task.infer
    return lambda variables, batch: infer(
        functools.partial(model.infer, variables), batch
    )


def make_evaluate(options: DataConfig, data: Data, mesh, task: Task) -> Callable:
    """``(model, variables, *, asked) -> (scores, Evidence)``, on the evaluation split.

    Each model is compiled once, and an unreadable picture is named once.

    Args:
      options: the section ``data`` of a config.
      data: of the run.
      mesh: of the devices.
      task: of the run.
    """
    forwards: dict[Any, Callable] = {}
    batches = make_batches(options, data.evaluation, mesh, data.transform)

    def evaluate(model, variables, *, asked=never):
        apply = inferring(task, model)
        if model.apply not in forwards:
            forwards[model.apply] = compile_evidence(
                task.evidence, apply, data.normalise, mesh
            )
        seen = gather(forwards[model.apply], variables, batches, mesh, asked)
        if seen is None:
            raise ValueError(
                f"data.eval_split: found {options.eval_split!r} with no picture "
                "that decodes, expected at least one"
            )
        scores = task.score(seen)
        if not isinstance(scores, Mapping) or task.headline not in scores:
            raise ValueError(
                f"task.name: found scores {scores!r}, expected a dict of numbers with "
                f"the headline {task.headline!r} among them"
            )
        return dict(scores), seen

    return evaluate


def make_others(
    named: Mapping[str, sections.EvaluationConfig],
    options: DataConfig,
    data: Data,
    mesh,
    infers: tuple,
    plan: Plan,
) -> dict[str, Other]:
    """The further evaluations that a config names.

    Args:
      named: the section ``evaluations``.
      options: the section ``data``.
      data: of the run.
      mesh: of the devices.
      infers: of student and teacher, from :func:`inferring`; None for no teacher.
      plan: of the run.

    Raises:
      ValueError: no such evaluation, a split that is not there, or no teacher.
    """
    others = {}
    for name, own in named.items():
        where = f"evaluations.{name}"
        made = find(own.of or name, EVALUATIONS, "evaluations")(data.meta)
        if infers[1] is None:
            raise ValueError(
                f"{where}: found a method without a teacher, expected one with taps"
            )
        epochs, split = own.every_epochs, own.split
        if split not in ("", *data.splits):
            raise ValueError(
                f"{where}.split: found {split!r}, expected one of {list(data.splits)}"
            )
        chosen = data.splits[split] if split else data.evaluation
        batches = make_batches(options, chosen, mesh, data.transform)

        def apply(variables, batch, made=made):
            pairs = zip(infers, variables, strict=True)
            both = [functools.partial(infer, own) for infer, own in pairs]
            return made.apply(*both, batch)

        forward = compile_evidence(made.evidence, apply, data.normalise, mesh)

        def evaluate(
            *variables, asked=never, made=made, forward=forward, batches=batches
        ):
            seen = gather(forward, variables, batches, mesh, asked)
            return {} if seen is None else dict(made.score(seen))

        every = max(1, round(epochs * plan.steps_per_epoch)) if epochs else 0
        others[name] = Other(every or plan.eval_every, evaluate)
    return others


def make_batches(
    options: DataConfig, split: Split, mesh, transform: TargetTransform
) -> Callable[[Asked], Generator[Mapping]]:
    """``asked -> generator`` over batches of this process, every example once.

    Args:
      options: the section ``data`` of a config.
      split: to evaluate on.
      mesh: of the devices.
      transform: how targets follow their images.
    """
    evaluate = lambda batch: transform.evaluate(batch, options)
    unreadable = dict[int, str]()

    def batches(asked):
        size = batch_size(
            options.eval_batch_size,
            split.size,
            len(mesh.local_devices) * jax.process_count(),
        )
        made = pipeline.eval_batches(
            split,
            evaluate,
            batch_size=size,
            **reading(options, asked),
        )
        with closing(made):
            for batch in made:
                skipped = batch.pop("skipped")
                note_skipped(skipped, unreadable, split, options.max_unreadable)
                yield batch

    return batches
