"""Semantic segmentation: cross-entropy of pixels, mean intersection over union."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...bounds import Size, Weight
from ...ops.resize import bilinear
from ..classes import check_classes
from ..task import Evidence, Task
from .plots import class_iou, draw, show, write

IGNORED = 255
TARGET = {"label": 2}  # rank of each array of an example


def segmentation(
    meta: Mapping[str, Any],
    *,
    aux_weight: Weight = 0.4,
    align_corners: bool = True,
    window: Size = (),
    stride: Size = (),
    write_ids: bool = False,
) -> Task:
    """The class of each pixel, from ``outputs["logits"]`` ``[b, h', w', classes]``.

    Targets hold ``label``, uint8 ``[b, h, w]``, 255 where a pixel does not count.
    Logits of smaller maps are resized to the picture. Scores are ``miou``, the
    headline, ``accuracy`` of pixels and ``loss``.

    Args:
      meta: of the data, with ``num_classes``.
      aux_weight: of the loss of ``aux_logits``, where a model has them.
      align_corners: how logits are resized; of the family of the paper's networks,
        false for torchvision's.
      window: height and width of the windows that slide over a picture in evaluation,
        pixels; () for the whole picture at once.
      stride: pixels between two windows, down and right; two thirds of a window by
        default.
      write_ids: masks are written in the ids of the data's own files, as servers want
        them (of Cityscapes ``labelIds``), else in classes from 0 on.

    Raises:
      ValueError: no classes, or more than 255; a window of other than two numbers;
        ids to write of data that has none.

    >>> segmentation({"num_classes": 19}).headline
    'miou'
    """
    classes = meta["num_classes"]
    if not 0 < classes <= IGNORED:
        raise ValueError(
            f"segmentation: found data of {classes} classes, expected 1 to {IGNORED}"
        )
    window, stride = tuple(window), tuple(stride)
    if stride and not window:
        raise ValueError("task.options.stride: found it without a window")
    if any(s > w for s, w in zip(stride, window, strict=False)):
        raise ValueError(
            f"task.options.stride: found {stride}, expected at most the window {window}"
        )
    ids = np.asarray(meta.get("ids") or range(classes), np.uint8)
    if write_ids and not meta.get("ids"):
        raise ValueError(
            "task.options.write_ids: found it for data without ids of their own"
        )
    resize = functools.partial(bilinear, align_corners=align_corners)
    infer = None
    if window:
        step = stride or tuple(-(-2 * side // 3) for side in window)
        infer = functools.partial(slide, window=window, stride=step, resize=resize)
    whole = functools.partial(_full_size, resize=resize, classes=classes)

    def losses(outputs, batch):
        label = batch["target"]["label"]
        found = {"task/main": pixel_loss(whole(outputs, "logits", batch), label)}
        if aux_weight and "aux_logits" in outputs:
            aux = pixel_loss(whole(outputs, "aux_logits", batch), label)
            found["task/aux"] = aux_weight * aux
        return found

    return Task(
        loss=losses,
        predict=lambda outputs, batch: predict(whole(outputs, "logits", batch)),
        evidence=lambda outputs, batch: evidence(
            whole(outputs, "logits", batch), batch
        ),
        score=score,
        headline="miou",
        target=TARGET,
        chance=chance,
        infer=infer,
        draw=draw,
        show=show,
        write=functools.partial(write, ids=ids if write_ids else None),
        check=check_classes,
    )


def _full_size(
    outputs: Mapping, name: str, batch: Mapping, *, resize: Callable, classes: int
) -> jax.Array:
    """Logits of the picture's size, float32."""
    logits = outputs[name]
    if logits.ndim != 4 or logits.shape[-1] != classes:
        raise ValueError(
            f"found {name} of shape {logits.shape}, expected [b, h, w, {classes}], the "
            "classes of the data"
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    size = batch["image"].shape[1:3]
    return logits if logits.shape[1:3] == size else resize(logits, size)


def pixel_loss(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Mean cross-entropy over the pixels that count, of the whole batch; 0 if none do.

    Args:
      logits: ``[b, h, w, classes]``.
      label: integers ``[b, h, w]``, 255 for a pixel that does not count.

    >>> logits = jnp.zeros((1, 1, 2, 4))
    >>> round(float(pixel_loss(logits, jnp.array([[[3, 255]]], jnp.uint8))), 4)
    1.3863
    """
    nll, counts = _pixels(logits, label)
    return nll.sum() / jnp.maximum(counts.sum(), 1)


def _pixels(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each pixel, 0 where it does not count; and which ones do."""
    counts = label != IGNORED
    # A label out of range gives NaN, which no mask takes away again.
    safe = jnp.where(counts, label, 0).astype(jnp.int32)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
    return jnp.where(counts, nll, 0.0), counts


def predict(logits: jax.Array) -> dict[str, jax.Array]:
    """``label`` uint8 ``[b, h, w]``: the class of the largest logit of each pixel."""
    return {"label": logits.argmax(-1).astype(jnp.uint8)}


def evidence(logits: jax.Array, batch: Mapping) -> Evidence:
    """Counts of pixels, and the sum of their losses.

    Args:
      logits: ``[b, h, w, classes]``.
      batch: ``target`` with ``label``; ``mask`` ``[b]``, 0 for padding.

    Returns:
      Sums ``confusion``, int32 ``[classes, classes + 1]``: rows are labels, columns
      predictions, the last one for pixels whose logits are not finite; and ``loss``.

    >>> logits = jnp.array([[[[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]]]])
    >>> target = {"label": jnp.array([[[1, 1, 255]]], jnp.uint8)}
    >>> seen = evidence(logits, {"target": target, "mask": jnp.ones(1)})
    >>> seen.sums["confusion"].tolist()
    [[0, 0, 0], [1, 1, 0]]
    """
    real = batch["mask"][:, None, None] > 0
    label = jnp.where(real, batch["target"]["label"], IGNORED)
    nll, counts = _pixels(logits, label)
    classes = logits.shape[-1]
    decided = jnp.isfinite(logits.max(-1))
    chosen = jnp.where(decided, logits.argmax(-1), classes)
    cells = classes * (classes + 1)
    place = jnp.where(counts, label.astype(jnp.int32) * (classes + 1) + chosen, cells)
    # By example, so that every device counts its own; int32 is exact, floats are not.
    count = jax.vmap(lambda at: jnp.bincount(at, length=cells + 1))
    found = count(place.reshape(len(place), -1)).sum(0)[:-1].astype(jnp.int32)
    return Evidence(
        {"confusion": found.reshape(classes, classes + 1), "loss": nll.sum()}
    )


def chance(seen: Evidence) -> float:
    """Returns 1.02 times the mean IoU that naming one class everywhere has, at best.

    >>> chance(Evidence({"confusion": np.array([[0, 6, 0], [0, 2, 0]])}))
    0.3825
    """
    counts = np.asarray(seen.sums["confusion"]).sum(1)
    share = float(counts.max()) / max(int(counts.sum()), 1)
    return 1.02 * share / max(int((counts > 0).sum()), 1)


def score(seen: Evidence) -> dict[str, float]:
    """Scores of the counts of a split; what is undefined is NaN.

    >>> seen = Evidence({"confusion": np.array([[3, 1, 0], [0, 4, 0]]), "loss": 8.0})
    >>> score(seen)
    {'miou': 0.775, 'accuracy': 0.875, 'loss': 1.0}
    """
    counts = np.asarray(seen.sums["confusion"])
    each, pixels = class_iou(counts), int(counts.sum())
    there = each[np.isfinite(each)]
    hits = int(np.trace(counts[:, :-1]))
    return {
        "miou": float(there.mean()) if there.size else float("nan"),
        "accuracy": hits / pixels if pixels else float("nan"),
        "loss": float(seen.sums["loss"]) / pixels if pixels else float("nan"),
    }


def slide(
    apply: Callable[[Mapping], Mapping],
    batch: Mapping,
    *,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    resize: Callable,
) -> dict[str, jax.Array]:
    """Mean logits of windows that slide over the pictures.

    The last window of a row or column ends with the picture; a picture smaller than the
    window is taken whole.

    Args:
      apply: ``batch -> outputs`` with ``logits`` ``[b, h', w', classes]``.
      batch: ``image`` ``[b, h, w, c]``, and what else the model reads.
      window: height and width, pixels.
      stride: pixels between two windows, down and right.
      resize: ``(logits, size) -> logits``, to the size of a window.

    Returns:
      ``logits`` ``[b, h, w, classes]``, float32.
    """
    image = batch["image"]
    b, h, w, channels = image.shape
    size = (min(window[0], h), min(window[1], w))
    starts = [
        sorted({*range(0, length - side, step), length - side})
        for length, side, step in zip((h, w), size, stride, strict=True)
    ]
    corners = jnp.array([(y, x) for y in starts[0] for x in starts[1]])

    def part(corner):
        y, x = corner
        cut = jax.lax.dynamic_slice(image, (0, y, x, 0), (b, *size, channels))
        logits = apply({**batch, "image": cut})["logits"].astype(jnp.float32)
        return logits if logits.shape[1:3] == size else resize(logits, size)

    def add(carried, corner):
        total, times = carried
        place = (0, corner[0], corner[1], 0)
        own = jax.lax.dynamic_slice(total, place, (b, *size, total.shape[-1]))
        total = jax.lax.dynamic_update_slice(total, own + part(corner), place)
        seen = jax.lax.dynamic_slice(times, place[1:], (*size, 1))
        times = jax.lax.dynamic_update_slice(times, seen + 1, place[1:])
        return (total, times), None

    classes = jax.eval_shape(part, corners[0]).shape[-1]
    zeros = jnp.zeros((b, h, w, classes)), jnp.zeros((h, w, 1))
    (total, times), _ = jax.lax.scan(add, zeros, corners)
    return {"logits": total / times}
