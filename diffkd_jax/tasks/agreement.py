"""A second evaluation: how often student and teacher choose the same class."""

from collections.abc import Callable

import jax.numpy as jnp

from .task import Batch, Evaluation, Evidence, Meta, Outputs


def agreement(meta: Meta) -> Evaluation:
    """Returns the evaluation of how often both models choose the same class.

    Its score ``same`` is the share of examples, or of their pixels, for which the same
    class has the largest logit, in [0, 1].

    Args:
      meta: description of the data; not read, but every evaluation takes it.

    >>> agreement({}).score(Evidence({"count": 4.0, "same": 3.0}))
    {'same': 0.75}
    """
    del meta
    return Evaluation(_apply_both, _compare_classes, _score)


def _apply_both(
    student: Callable[[Batch], Outputs],
    teacher: Callable[[Batch], Outputs],
    batch: Batch,
) -> Outputs:
    """Returns the outputs of both models."""
    return {"student": student(batch), "teacher": teacher(batch)}


def _compare_classes(outputs: Outputs, batch: Batch) -> Evidence:
    """Counts the examples, and sums the share of each for which both models agree."""
    chosen = [outputs[side]["logits"].argmax(-1) for side in ("student", "teacher")]
    same, mask = (chosen[0] == chosen[1]), batch["mask"]
    same = same.reshape(len(mask), -1).mean(-1)
    return Evidence({"count": mask.sum(), "same": jnp.sum(mask * same)})


def _score(split: Evidence) -> dict[str, float]:
    """Returns the mean share over a split."""
    return {"same": float(split.sums["same"]) / float(split.sums["count"])}
