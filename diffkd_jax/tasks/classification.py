"""Image classification: cross-entropy, top-1 and top-5 accuracy."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax


def loss(
    outputs: Mapping, batch: Mapping, *, label_smoothing: float = 0.0
) -> dict[str, jax.Array]:
    """Mean cross-entropy of ``outputs["logits"]`` with the labels.

    Args:
      outputs: ``logits`` ``[b, classes]``.
      batch: ``target`` with ``label`` int ``[b]``, or, if that is there, ``mixed``,
        shares of the classes ``[b, classes]``.
      label_smoothing: share spread evenly over all classes, in [0, 1).

    >>> out = {"logits": jnp.zeros((1, 4))}
    >>> batch = {"target": {"label": jnp.array([0])}}
    >>> round(float(loss(out, batch)["task"]), 4)
    1.3863
    """
    logits = outputs["logits"].astype(jnp.float32)
    shares = batch["target"].get("mixed")
    if shares is None:
        shares = jax.nn.one_hot(batch["target"]["label"], logits.shape[-1])
    shares = optax.smooth_labels(shares, label_smoothing)
    return {"task": optax.softmax_cross_entropy(logits, shares).mean()}


def confusion(outputs: Mapping, batch: Mapping) -> jax.Array:
    """Counts ``[classes, classes]`` of unmasked examples: row label, column prediction.

    An example whose logits are not finite predicts nothing and is in no column.

    >>> out = {"logits": jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    >>> label, mask = jnp.array([1, 1]), jnp.array([1.0, 1.0])
    >>> batch = {"target": {"label": label}, "mask": mask}
    >>> confusion(out, batch).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    classes = outputs["logits"].shape[-1]
    label = jax.nn.one_hot(batch["target"]["label"], classes) * batch["mask"][:, None]
    prediction = jax.nn.one_hot(outputs["logits"].argmax(-1), classes)
    return label.T @ (prediction * _decides(outputs["logits"])[:, None])


def metrics(outputs: Mapping, batch: Mapping) -> dict[str, jax.Array]:
    """Sums over the unmasked examples of a batch, to be added up and divided.

    Args:
      outputs: ``logits`` ``[b, classes]``.
      batch: ``target`` with ``label`` int ``[b]``, and ``mask`` float ``[b]``, 0 for
        padding.

    Returns:
      ``count``, and sums of ``top1``, ``loss`` and, from 6 classes on, ``top5``.
      An example whose logits are not finite is wrong, and its loss not finite.

    >>> out = {"logits": jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    >>> label, mask = jnp.array([1, 1]), jnp.array([1.0, 0.0])
    >>> batch = {"target": {"label": label}, "mask": mask}
    >>> sums = metrics(out, batch)
    >>> float(sums["top1"]), float(sums["count"])
    (1.0, 1.0)
    """
    logits = outputs["logits"].astype(jnp.float32)
    label, mask = batch["target"]["label"], batch["mask"]
    own = jnp.take_along_axis(logits, label[:, None], -1)
    # Ties count against the example, so that constant logits score nothing.
    rank = jnp.sum(logits >= own, -1) - 1
    rank = jnp.where(_decides(logits), rank, logits.shape[-1])
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    sums = {
        "count": mask.sum(),
        "top1": jnp.sum(mask * (rank < 1)),
        "loss": jnp.sum(mask * nll),
    }
    if logits.shape[-1] > 5:
        sums["top5"] = jnp.sum(mask * (rank < 5))
    return sums


def _decides(logits: jax.Array) -> jax.Array:
    """Whether there is a largest logit; -inf beside it rules a class out, no more."""
    return jnp.isfinite(logits.max(-1))
