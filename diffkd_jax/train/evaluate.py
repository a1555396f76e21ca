"""Scores models on a split: sums and gathers the evidence of its batches."""

import functools
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ..config import sections
from ..config.data import DataConfig
from ..data import Data, Split
from ..data.pipeline import batches as pipeline
from ..data.pipeline.unreadable import note_skipped
from ..data.transforms import TargetTransform
from ..models.model import Model
from ..named import find
from ..tasks import EVALUATIONS, Evaluation, Evidence, Task
from .cluster import sharding
from .cluster.signals import Asked, never, stop_here, while_waiting
from .components import missing_output_named
from .plan import Plan


class Other(NamedTuple):
    """A further evaluation, of student and teacher together.

    Attributes:
      every: number of steps between two of these evaluations.
      evaluate: ``(student variables, teacher variables, *, asked) -> scores``.
    """

    every: int
    evaluate: Callable[..., dict[str, float]]


def compile_evidence(
    evidence: Callable, apply: Callable, normalise: Callable, mesh: jax.sharding.Mesh
) -> Callable:
    """Compiles ``(variables, batch) -> (sums, rows)``; all devices get all results.

    ``sums`` also holds ``mask``, the number of unmasked examples. If the task has rows,
    ``rows`` also holds ``index`` and ``mask`` of the batch.

    Args:
      evidence: ``(outputs, batch) -> Evidence``.
      apply: ``(variables, batch) -> outputs``.
      normalise: ``batch -> batch``, normalises the images on the device.
      mesh: the devices.

    Returns:
      The compiled function.
    """

    def forward(variables: PyTree, batch: Any) -> tuple[dict, dict]:
        batch = normalise(batch)
        outputs = apply(variables, batch)
        with missing_output_named(outputs):
            batch_evidence = evidence(outputs, batch)
        rows = dict(batch_evidence.rows)
        if rows:
            rows |= {"index": batch["index"], "mask": batch["mask"]}
        return {**batch_evidence.sums, "mask": batch["mask"].sum()}, rows

    return sharding.jit_forward(forward, mesh)


def gather(
    forward: Callable,
    variables: PyTree,
    batches: Callable[[Asked], Generator[Mapping]],
    mesh: jax.sharding.Mesh,
    asked: Asked = never,
) -> Evidence | None:
    """Returns the evidence of all batches, with rows in the order of ``index``.

    Args:
      forward: a function from :func:`compile_evidence`.
      variables: its first argument.
      batches: ``asked -> generator`` of this process's batches, from
        :func:`make_batches`.
      mesh: the devices.
      asked: whether to stop, see :mod:`diffkd_jax.train.cluster.signals`.

    Returns:
      The evidence, with sums as float64 or int64. None if all examples are masked.

    Raises:
      Stopped: a stop was requested; it takes effect between two batches.
    """
    parts: list[Any] = []
    with closing(batches(asked)) as process_batches:
        for batch in process_batches:
            stop_here(asked)
            parts.append(forward(variables, sharding.put_batch(batch, mesh)))
            # Otherwise batches would pile up on the device.
            jax.block_until_ready(parts[-2:-1])
    sums, rows = zip(*jax.device_get(parts), strict=True)
    total = jax.tree.map(_sum, *sums)
    if not total.pop("mask"):
        return None
    all_rows = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    if all_rows:
        unmasked = np.flatnonzero(all_rows.pop("mask"))
        order = unmasked[np.argsort(all_rows.pop("index")[unmasked], kind="stable")]
        all_rows = jax.tree.map(lambda x: x[order], all_rows)
    return Evidence(total, all_rows)


def _sum(*values: np.ndarray) -> np.ndarray:
    """Returns the sum as int64 for integers and as float64 otherwise."""
    is_integer = np.issubdtype(values[0].dtype, np.integer)
    return np.sum(np.asarray(values, np.int64 if is_integer else np.float64), 0)


def batch_size(requested: int, examples: int, devices: int) -> int:
    """Returns the batch size for evaluation.

    Args:
      requested: ``data.eval_batch_size``.
      examples: number of examples; a batch need not be larger.
      devices: number of devices, of which the result is a multiple.

    Returns:
      The smaller of the first two, rounded up to a multiple of ``devices``.

    >>> batch_size(100, 2000, 8), batch_size(256, 5, 8)
    (104, 8)
    """
    return -(-min(requested, examples) // devices) * devices


def reading(options: DataConfig, asked: Asked) -> dict[str, Any]:
    """Returns arguments of :mod:`diffkd_jax.data.pipeline` by which a process reads.

    Args:
      options: the section ``data`` of a config.
      asked: whether to stop; it is called while no batch comes.

    Returns:
      The arguments by name.
    """
    return {
        "num_threads": options.num_threads,
        "num_workers": options.num_workers,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
        "waiting": while_waiting(asked, options.stalled_seconds),
    }


def inferring(task: Task, model: Model) -> Callable:
    """Returns ``(variables, batch) -> outputs``: a model, called as the task needs it.

    Args:
      task: the task. Without ``task.infer`` the model infers in one call.
      model: the model.

    Returns:
      The function, not compiled.
    """
    if task.infer is None:
        return model.infer
    infer = task.infer
    return lambda variables, batch: infer(
        functools.partial(model.infer, variables), batch
    )


def make_evaluate(
    options: DataConfig, data: Data, mesh: jax.sharding.Mesh, task: Task
) -> Callable:
    """Returns a function that scores models on the evaluation split.

    It is ``(model, variables, *, asked) -> (scores, Evidence)``. It compiles each model
    once, and logs each unreadable image once.

    Args:
      options: the section ``data`` of a config.
      data: the data.
      mesh: the devices.
      task: the task, which computes the scores.

    Returns:
      The function.

    Raises:
      ValueError: later, when it is called: no image decodes, or the scores are not a
        dict with the headline.
    """
    forwards: dict[Any, Callable] = {}
    batches = make_batches(options, data.evaluation, mesh, data.transform)

    def evaluate(
        model: Model, variables: PyTree, *, asked: Asked = never
    ) -> tuple[dict[str, float], Evidence]:
        apply = inferring(task, model)
        if model.apply not in forwards:
            forwards[model.apply] = compile_evidence(
                task.evidence, apply, data.normalise, mesh
            )
        evidence = gather(forwards[model.apply], variables, batches, mesh, asked)
        if evidence is None:
            raise ValueError(
                f"data.eval_split: found {options.eval_split!r} with no image that "
                "decodes, expected at least one"
            )
        scores = task.score(evidence)
        if not isinstance(scores, Mapping) or task.headline not in scores:
            raise ValueError(
                f"task.name: found scores {scores!r}, expected a dict of numbers with "
                f"the headline {task.headline!r} among them"
            )
        return dict(scores), evidence

    return evaluate


def make_others(
    evaluations: Mapping[str, sections.EvaluationConfig],
    options: DataConfig,
    data: Data,
    mesh: jax.sharding.Mesh,
    infers: tuple,
    plan: Plan,
) -> dict[str, Other]:
    """Builds the further evaluations that a config names.

    Args:
      evaluations: the section ``evaluations`` of a config.
      options: the section ``data``.
      data: the data.
      mesh: the devices.
      infers: functions of student and teacher from :func:`inferring`; None in place of
        the second if there is no teacher.
      plan: the plan, for the number of steps between two evaluations.

    Returns:
      The evaluations by name.

    Raises:
      ValueError: there is no such evaluation or split, or no teacher.
    """
    others = {}
    for name, evaluation_options in evaluations.items():
        field = f"evaluations.{name}"
        make = find(evaluation_options.of or name, EVALUATIONS, "evaluations")
        evaluation = make(data.meta)
        if infers[1] is None:
            raise ValueError(
                f"{field}: found a method without a teacher, expected one with taps"
            )
        epochs, split = evaluation_options.every_epochs, evaluation_options.split
        if split not in ("", *data.splits):
            raise ValueError(
                f"{field}.split: found {split!r}, expected one of {list(data.splits)}"
            )
        eval_split = data.splits[split] if split else data.evaluation
        batches = make_batches(options, eval_split, mesh, data.transform)

        def apply(
            variables: tuple, batch: Any, evaluation: Evaluation = evaluation
        ) -> Any:
            pairs = zip(infers, variables, strict=True)
            models = [functools.partial(infer, values) for infer, values in pairs]
            return evaluation.apply(*models, batch)

        forward = compile_evidence(evaluation.evidence, apply, data.normalise, mesh)

        def evaluate(
            *variables: PyTree,
            asked: Asked = never,
            evaluation: Evaluation = evaluation,
            forward: Callable = forward,
            batches: Callable = batches,
        ) -> dict[str, float]:
            evidence = gather(forward, variables, batches, mesh, asked)
            return {} if evidence is None else dict(evaluation.score(evidence))

        every = max(1, round(epochs * plan.steps_per_epoch)) if epochs else 0
        others[name] = Other(every or plan.eval_every, evaluate)
    return others


def make_batches(
    options: DataConfig,
    split: Split,
    mesh: jax.sharding.Mesh,
    transform: TargetTransform,
) -> Callable[[Asked], Generator[Mapping]]:
    """Returns ``asked -> generator``, over batches in which every example occurs once.

    Each process gets its own part of the batches.

    Args:
      options: the section ``data`` of a config.
      split: the split to evaluate on.
      mesh: the devices.
      transform: changes targets along with their images.

    Returns:
      The function.
    """
    evaluate = lambda batch: transform.evaluate(batch, options)
    unreadable = dict[int, str]()

    def batches(asked: Asked) -> Generator[Mapping]:
        size = batch_size(
            options.eval_batch_size,
            split.size,
            len(mesh.local_devices) * jax.process_count(),
        )
        process_batches = pipeline.eval_batches(
            split,
            evaluate,
            batch_size=size,
            **reading(options, asked),
        )
        with closing(process_batches):
            for batch in process_batches:
                skipped = batch.pop("skipped")
                note_skipped(skipped, unreadable, split, options.max_unreadable)
                yield batch

    return batches
