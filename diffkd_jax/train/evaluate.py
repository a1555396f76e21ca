"""Accuracy of a model on the evaluation split."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..data import pipeline, transforms
from ..tasks import classification
from . import setup, sharding


class Evaluator(NamedTuple):
    """Two functions of a module and its variables, over the evaluation split.

    Attributes:
      metrics: to ``{top1, top5, loss}``, means over what can be read.
      confusion: to counts ``[classes, classes]``, label by prediction.
    """

    metrics: Callable[..., dict[str, float]]
    confusion: Callable[..., np.ndarray]


def make_evaluator(config, data: setup.Data, mesh) -> Evaluator:
    """Compiles a module once, and names an unreadable picture once."""
    forwards: dict[Any, Callable] = {}
    unreadable: set[int] = set()

    def sums(measure, module, variables):
        if (measure, module) not in forwards:
            forwards[measure, module] = _compile(module, data, measure, mesh)
        forward = forwards[measure, module]
        return _sums(config, data, mesh, forward, variables, unreadable)

    def metrics(module, variables):
        totals = sums(classification.metrics, module, variables)
        count = float(totals.pop("count"))
        if not count:
            raise ValueError(
                f"data.eval_split: found {config.data.eval_split!r} with no picture "
                "that decodes, expected at least one"
            )
        return {name: float(value) / count for name, value in totals.items()}

    return Evaluator(metrics, functools.partial(sums, classification.confusion))


def _compile(module, data: setup.Data, metrics: Callable, mesh) -> Callable:
    apply = setup.frozen_apply(module)

    def forward(variables, batch):
        batch = batch | {"image": data.normalise(batch["image"])}
        return metrics(apply(variables, batch), batch)

    return sharding.jit_forward(forward, mesh)


def batch_size(asked: int, examples: int, devices: int) -> int:
    """Examples a batch: as asked, no more than there are, a multiple of the devices.

    >>> batch_size(100, 2000, 8), batch_size(256, 5, 8)
    (104, 8)
    """
    return -(-min(asked, examples) // devices) * devices


def _sums(
    config, data: setup.Data, mesh, forward: Callable, variables, unreadable: set[int]
) -> Any:
    batches = pipeline.eval_batches(
        data.evaluation,
        transforms.eval_transform(config.data),
        batch_size=batch_size(
            config.data.eval_batch_size,
            data.evaluation.size,
            len(mesh.local_devices) * jax.process_count(),
        ),
        num_threads=config.data.num_threads,
        num_workers=config.data.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    parts = []
    for batch in batches:
        skipped, most = batch.pop("skipped"), config.data.max_unreadable
        pipeline.note_skipped(skipped, unreadable, data.evaluation, most)
        parts.append(forward(variables, sharding.put_batch(batch, mesh)))
        jax.block_until_ready(parts[-2:-1])  # else batches pile up on the device
    return jax.tree.map(lambda *x: np.sum(x, 0), *jax.device_get(parts))
