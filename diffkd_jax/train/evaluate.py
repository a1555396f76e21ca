"""Scores models on a split.

A task turns a batch into ``Evidence``: sums over the batch, and rows for each example.
The evidence of all batches is summed and gathered, and the task computes the scores
from it.
"""

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from ..config.sections import Config
from ..data import Data
from ..models.model import Model
from ..named import find
from ..tasks import EVALUATIONS, Evaluation, Evidence, Task
from .batches import evaluation_batches
from .cluster import sharding
from .cluster.signals import ShouldStop, never, stop_if_requested
from .components import report_missing_output
from .plan import Plan
from .run import FurtherEvaluation, Scoring


def compile_evidence(
    evidence: Callable[..., Any],
    apply: Callable[..., Any],
    normalise: Callable[..., Any],
    mesh: Mesh,
) -> Callable[..., Any]:
    """Compiles ``(variables, batch) -> (sums, rows)``, the evidence of a batch.

    All devices get all results. To the entries of the task it adds ``mask`` in
    ``sums``, the number of unmasked examples, and ``index`` and ``mask`` of the batch
    in ``rows``, unless the task has no rows.

    Args:
      evidence: ``(outputs, batch) -> Evidence``.
      apply: ``(variables, batch) -> outputs``.
      normalise: ``batch -> batch``, normalises the images on the device.
      mesh: the devices.

    Returns:
      The compiled function.
    """

    def forward(variables: PyTree, batch: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        batch = normalise(batch)
        outputs = apply(variables, batch)
        with report_missing_output(outputs):
            batch_evidence = evidence(outputs, batch)
        rows = dict(batch_evidence.rows)
        if rows:
            rows |= {"index": batch["index"], "mask": batch["mask"]}
        return {**batch_evidence.sums, "mask": batch["mask"].sum()}, rows

    return sharding.jit_forward(forward, mesh)


def gather_evidence(
    forward: Callable[..., Any],
    variables: PyTree,
    batches: Callable[[ShouldStop], Generator[Mapping[str, Any]]],
    mesh: Mesh,
    should_stop: ShouldStop = never,
) -> Evidence | None:
    """Returns the evidence of all batches, with rows in the order of ``index``.

    Args:
      forward: a function from :func:`compile_evidence`.
      variables: variables of the model or the models, its first argument.
      batches: ``should_stop -> generator of this process's batches``, from
        :func:`diffkd_jax.train.batches.evaluation_batches`.
      mesh: the devices.
      should_stop: returns the number of the signal to stop for, or 0.

    Returns:
      The evidence, with sums as float64 or int64. None if all examples are masked.

    Raises:
      Stopped: a stop was requested; it takes effect between two batches.
    """
    parts: list[Any] = []
    with closing(batches(should_stop)) as process_batches:
        for batch in process_batches:
            stop_if_requested(should_stop)
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


def make_infer(task: Task, model: Model) -> Callable[..., Any]:
    """Returns ``(variables, batch) -> outputs``, which infers as the task wants it.

    Args:
      task: the task. Its ``infer``, if it has one, calls the model, once or
        several times.
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
    config: Config, data: Data, task: Task, mesh: Mesh
) -> Callable[..., Any]:
    """Returns a function that scores models on the evaluation split.

    The function is ``(model, variables, *, should_stop) -> (scores, Evidence)``. It
    compiles each model once, and logs each unreadable image once.

    Args:
      config: a resolved config.
      data: the data.
      task: the task, which computes the scores.
      mesh: the devices.

    Returns:
      The function.

    Raises:
      ValueError: later, when it is called: no image decodes, or the scores are not a
        dict with the headline.
    """
    forwards: dict[Any, Callable[..., Any]] = {}
    batches = evaluation_batches(config.data, data, data.evaluation, mesh)

    def evaluate(
        model: Model, variables: PyTree, *, should_stop: ShouldStop = never
    ) -> tuple[dict[str, float], Evidence]:
        apply = make_infer(task, model)
        if model.apply not in forwards:
            forwards[model.apply] = compile_evidence(
                task.evidence, apply, data.normalise, mesh
            )
        evidence = gather_evidence(
            forwards[model.apply], variables, batches, mesh, should_stop
        )
        if evidence is None:
            raise ValueError(
                f"data.eval_split: found {config.data.eval_split!r} with no image that "
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


def make_further_evaluations(
    scoring: Scoring, student: Model, teacher: Model | None, plan: Plan
) -> dict[str, FurtherEvaluation]:
    """Builds the evaluations that a config names beside the task's own.

    Args:
      scoring: the parts that score a model.
      student: the student.
      teacher: the teacher; without one there are no further evaluations.
      plan: the plan, for the number of steps between two evaluations.

    Returns:
      The evaluations by name.

    Raises:
      ValueError: there is no such evaluation.
    """
    config, data, task, devices, _ = scoring
    evaluations: dict[str, FurtherEvaluation] = {}
    if teacher is None:
        return evaluations
    for name, options in config.evaluations.items():
        evaluation = find(options.of or name, EVALUATIONS, "evaluations")(data.meta)
        split = data.splits[options.split] if options.split else data.evaluation
        epochs = options.every_epochs
        every = max(1, round(epochs * plan.steps_per_epoch)) if epochs else 0
        infers = (make_infer(task, student), make_infer(task, teacher))
        batches = evaluation_batches(config.data, data, split, devices.mesh)
        evaluate = _make_further_evaluation(
            evaluation, infers, data, batches, devices.mesh
        )
        evaluations[name] = FurtherEvaluation(every or plan.eval_every, evaluate)
    return evaluations


def _make_further_evaluation(
    evaluation: Evaluation,
    infers: Sequence[Callable[..., Any]],
    data: Data,
    batches: Callable[[ShouldStop], Generator[Mapping[str, Any]]],
    mesh: Mesh,
) -> Callable[..., Any]:
    """Returns ``(student variables, teacher variables, *, should_stop) -> scores``."""

    def apply(variables: Sequence[PyTree], batch: Any) -> Any:
        pairs = zip(infers, variables, strict=True)
        models = [functools.partial(infer, values) for infer, values in pairs]
        return evaluation.apply(*models, batch)

    forward = compile_evidence(evaluation.evidence, apply, data.normalise, mesh)

    def evaluate(
        *variables: PyTree, should_stop: ShouldStop = never
    ) -> dict[str, float]:
        evidence = gather_evidence(forward, variables, batches, mesh, should_stop)
        return {} if evidence is None else dict(evaluation.score(evidence))

    return evaluate
