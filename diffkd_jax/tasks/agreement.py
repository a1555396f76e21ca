"""A second evaluation: how often student and teacher choose the same class."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from .task import Evaluation, Evidence


def agreement(meta: Mapping[str, Any]) -> Evaluation:
    """Share of the examples, or of their pixels, whose largest logit is the same.

    Args:
      meta: of the data; not read.

    >>> agreement({}).score(Evidence({"count": 4.0, "same": 3.0}))
    {'same': 0.75}
    """
    del meta
    return Evaluation(_both, _evidence, _score)


def _both(student: Callable, teacher: Callable, batch: Mapping) -> dict[str, Any]:
    return {"student": student(batch), "teacher": teacher(batch)}


def _evidence(outputs: Mapping, batch: Mapping) -> Evidence:
    chosen = [outputs[side]["logits"].argmax(-1) for side in ("student", "teacher")]
    same, mask = (chosen[0] == chosen[1]), batch["mask"]
    same = same.reshape(len(mask), -1).mean(-1)
    return Evidence({"count": mask.sum(), "same": jnp.sum(mask * same)})


def _score(seen: Evidence) -> dict[str, float]:
    return {"same": float(seen.sums["same"]) / float(seen.sums["count"])}
