"""Accuracy of a model on the evaluation split."""

from collections.abc import Callable
from typing import Any

import jax

from ..data import pipeline, transforms
from ..tasks import classification
from . import setup, sharding


def make_evaluator(config, data: setup.Data, mesh) -> Callable[..., dict[str, float]]:
    """``(module, variables) -> {top1, top5, loss}`` on the evaluation split."""
    transform = transforms.eval_transform(config.data)
    forwards: dict[Any, Callable] = {}

    def evaluate(module, variables):
        if module not in forwards:
            apply = setup.frozen_apply(module)
            forwards[module] = sharding.jit_forward(
                lambda v, batch: classification.metrics(apply(v, batch), batch), mesh
            )
        batches = pipeline.eval_batches(
            data.evaluation,
            transform,
            batch_size=config.data.eval_batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        sums = [
            forwards[module](variables, sharding.put_batch(batch, mesh))
            for batch in batches
        ]
        totals = jax.tree.map(lambda *x: float(sum(x)), *jax.device_get(sums))
        count = totals.pop("count")
        return {name: value / count for name, value in totals.items()}

    return evaluate
