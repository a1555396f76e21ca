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

    def evaluate(module, variables):
        if module not in forwards:
            forwards[module] = _compile(module, classification.metrics, mesh)
        totals = _sums(config, data, mesh, forwards[module], variables)
        count = float(totals.pop("count"))
        return {name: float(value) / count for name, value in totals.items()}

    return evaluate


def confusion(config, data: setup.Data, mesh, module, variables) -> np.ndarray:
    """Counts ``[classes, classes]`` of the evaluation split: label, prediction."""
    forward = _compile(module, classification.confusion, mesh)
    return _sums(config, data, mesh, forward, variables)


def _compile(module, metrics: Callable, mesh) -> Callable:
    apply = setup.frozen_apply(module)
    return sharding.jit_forward(lambda v, batch: metrics(apply(v, batch), batch), mesh)


def _sums(config, data: setup.Data, mesh, forward: Callable, variables) -> Any:
    batches = pipeline.eval_batches(
        data.evaluation,
        transforms.eval_transform(config.data),
        batch_size=config.data.eval_batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    parts = [forward(variables, sharding.put_batch(batch, mesh)) for batch in batches]
    return jax.tree.map(lambda *x: np.sum(x, 0), *jax.device_get(parts))
