"""Accuracy, loss and confusion matrix of classifiers, as sums over a batch."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Num

from ..task import Batch, Outputs


def confusion(outputs: Outputs, batch: Batch) -> Float[Array, "classes classes"]:
    """Counts the unmasked examples by label and predicted class.

    Args:
      outputs: ``logits`` ``[b, classes]``.
      batch: see :func:`metrics`.

    Returns:
      Counts, one row for each label and one column for each prediction. An example
      without a finite largest logit predicts no class and is not counted.

    >>> out = {"logits": jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    >>> label, mask = jnp.array([1, 1]), jnp.array([1.0, 1.0])
    >>> confusion(out, {"target": {"label": label}, "mask": mask}).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    classes = outputs["logits"].shape[-1]
    label = jax.nn.one_hot(batch["target"]["label"], classes) * batch["mask"][:, None]
    prediction = jax.nn.one_hot(outputs["logits"].argmax(-1), classes)
    return label.T @ (prediction * _has_largest(outputs["logits"])[:, None])


def metrics(outputs: Outputs, batch: Batch) -> dict[str, Float[Array, ""]]:
    """Sums accuracy and loss over the unmasked examples of a batch.

    Args:
      outputs: ``logits`` ``[b, classes]``.
      batch: ``target`` with ``label`` int ``[b]``, and ``mask`` float ``[b]``, 0 for
        padding.

    Returns:
      ``count``, the number of unmasked examples, and the sums of ``top1``, ``loss``
      and, from 6 classes on, ``top5``. An example whose logits are not finite counts as
      wrong, and its loss is not finite.

    >>> out = {"logits": jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    >>> label, mask = jnp.array([1, 1]), jnp.array([1.0, 0.0])
    >>> sums = metrics(out, {"target": {"label": label}, "mask": mask})
    >>> float(sums["top1"]), float(sums["count"])
    (1.0, 1.0)
    """
    logits = outputs["logits"].astype(jnp.float32)
    label, mask = batch["target"]["label"], batch["mask"]
    label_logit = jnp.take_along_axis(logits, label[:, None], -1)
    # Ties count against the example. Otherwise constant logits would always be right.
    rank = jnp.sum(logits >= label_logit, -1) - 1
    valid = _has_largest(logits) & jnp.isfinite(label_logit[:, 0])
    rank = jnp.where(valid, rank, logits.shape[-1])
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    sums = {
        "count": mask.sum(),
        "top1": jnp.sum(mask * (rank < 1)),
        "loss": jnp.sum(mask * nll),
    }
    if logits.shape[-1] > 5:
        sums["top5"] = jnp.sum(mask * (rank < 5))
    return sums


def _has_largest(logits: Num[Array, "b classes"]) -> Bool[Array, " b"]:
    """Marks rows with a finite largest logit; -inf only rules its own class out."""
    return jnp.isfinite(logits.max(-1))
