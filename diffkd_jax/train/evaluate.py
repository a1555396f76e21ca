"""Accuracy of a model on the evaluation split."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..data import pipeline, transforms
from ..tasks import classification
from . import setup, sharding


def make_evaluator(config, data: setup.Data, mesh) -> Callable[..., dict[str, float]]:
    """``(module, variables) -> {top1, top5, loss}`` on the evaluation split."""
    forwards: dict[Any, Callable] = {}
    unreadable: set[int] = set()

    def evaluate(module, variables):
        if module not in forwards:
            forwards[module] = _compile(module, data, classification.metrics, mesh)
        totals = _sums(config, data, mesh, forwards[module], variables, unreadable)
        count = float(totals.pop("count"))
        return {name: float(value) / count for name, value in totals.items()}

    return evaluate


def confusion(config, data: setup.Data, mesh, module, variables) -> np.ndarray:
    """Counts ``[classes, classes]`` of the evaluation split: label, prediction."""
    forward = _compile(module, data, classification.confusion, mesh)
    return _sums(config, data, mesh, forward, variables, set())


def _compile(module, data: setup.Data, metrics: Callable, mesh) -> Callable:
    apply = setup.frozen_apply(module)

    def forward(variables, batch):
        batch = batch | {"image": data.normalise(batch["image"])}
        return metrics(apply(variables, batch), batch)

    return sharding.jit_forward(forward, mesh)


def _sums(
    config, data: setup.Data, mesh, forward: Callable, variables, unreadable: set[int]
) -> Any:
    batches = pipeline.eval_batches(
        data.evaluation,
        transforms.eval_transform(config.data),
        batch_size=config.data.eval_batch_size,
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
