"""Semantic segmentation: cross-entropy of pixels, mean intersection over union."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Num, UInt8

from ...bounds import Size, Weight
from ...ops.resize import bilinear
from ..classes import check_classes
from ..task import Batch, Evidence, Meta, Outputs, Task
from .plots import class_iou, draw, show, write
from .windows import slide

IGNORED = 255
TARGET = {"label": 2}  # rank of each array of an example


def segmentation(
    meta: Meta,
    *,
    aux_weight: Weight = 0.4,
    align_corners: bool = True,
    window: Size = (),
    stride: Size = (),
    write_ids: bool = False,
) -> Task:
    """Returns the task of naming the class of each pixel.

    The model's outputs hold ``logits`` ``[b, h', w', classes]``, which are resized to
    the image. Targets hold ``label`` uint8 ``[b, h, w]``; pixels labelled 255 do not
    count. Scores are ``miou`` (the headline), ``accuracy`` of pixels, and ``loss``.

    Args:
      meta: description of the data, with ``num_classes`` and, for ``write_ids``,
        ``ids``.
      aux_weight: weight of the loss of ``aux_logits``, 0 or more; not used for models
        without them.
      align_corners: how logits are resized to the image, see
        :func:`diffkd_jax.ops.resize.bilinear`: true for the networks of the paper,
        false for those of torchvision.
      window: height and width in pixels of the windows that slide over an image in
        evaluation; () for the whole image at once.
      stride: vertical and horizontal distance between neighbouring windows, in pixels;
        () for two thirds of a window.
      write_ids: if true, masks are written in the ids of the data's own files, as
        evaluation servers expect them (``labelIds`` for Cityscapes); otherwise in
        classes from 0.

    Raises:
      ValueError: the data have no class or more than 255; ``stride`` without
        ``window``, or larger than it; ``write_ids`` for data without ids.

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
        raise ValueError(
            f"task.options.stride: found {stride} without a window, expected "
            "task.options.window as well, or ()"
        )
    if any(s > w for s, w in zip(stride, window, strict=False)):
        raise ValueError(
            f"task.options.stride: found {stride}, expected at most the window {window}"
        )
    ids = np.asarray(meta.get("ids") or range(classes), np.uint8)
    if write_ids and not meta.get("ids"):
        raise ValueError(
            "task.options.write_ids: found true for data without ids of their own, "
            "expected false"
        )
    resize = functools.partial(bilinear, align_corners=align_corners)
    infer = None
    if window:
        step = stride or tuple(-(-2 * side // 3) for side in window)
        infer = functools.partial(slide, window=window, stride=step, resize=resize)
    full_size = functools.partial(_full_size, resize=resize, classes=classes)

    def losses(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        label = batch["target"]["label"]
        parts = {"task/main": pixel_loss(full_size(outputs, "logits", batch), label)}
        if aux_weight and "aux_logits" in outputs:
            aux = pixel_loss(full_size(outputs, "aux_logits", batch), label)
            parts["task/aux"] = aux_weight * aux
        return parts

    return Task(
        loss=losses,
        predict=lambda outputs, batch: predict(full_size(outputs, "logits", batch)),
        evidence=lambda outputs, batch: evidence(
            full_size(outputs, "logits", batch), batch
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
    outputs: Outputs,
    name: str,
    batch: Batch,
    *,
    resize: Callable[[jax.Array, tuple[int, int]], jax.Array],
    classes: int,
) -> Float[Array, "b h w classes"]:
    """Returns logits of the image's size, in float32 or wider."""
    logits = outputs[name]
    if logits.ndim != 4 or logits.shape[-1] != classes:
        raise ValueError(
            f"found {name} of shape {logits.shape}, expected [b, h, w, {classes}], a "
            "channel for each class of the data"
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    size = batch["image"].shape[1:3]
    return logits if logits.shape[1:3] == size else resize(logits, size)


def pixel_loss(
    logits: Float[Array, "b h w classes"], label: Num[Array, "b h w"]
) -> Float[Array, ""]:
    """Computes the mean cross-entropy over all pixels of a batch that count.

    Args:
      logits: ``[b, h, w, classes]``.
      label: ``[b, h, w]``, classes, 255 for pixels that do not count.

    Returns:
      A scalar; 0 if no pixel counts.

    >>> logits = jnp.zeros((1, 1, 2, 4))
    >>> round(float(pixel_loss(logits, jnp.array([[[3, 255]]], jnp.uint8))), 4)
    1.3863
    """
    nll, counts = _pixels(logits, label)
    return nll.sum() / jnp.maximum(counts.sum(), 1)


def _pixels(
    logits: Float[Array, "b h w classes"], label: Num[Array, "b h w"]
) -> tuple[Float[Array, "b h w"], Bool[Array, "b h w"]]:
    """Returns the loss of each pixel, 0 if it does not count, and which ones count."""
    counts = label != IGNORED
    # A label out of range would give NaN, which a mask applied later does not remove
    # from gradients.
    safe = jnp.where(counts, label, 0).astype(jnp.int32)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
    return jnp.where(counts, nll, 0.0), counts


def predict(
    logits: Float[Array, "b h w classes"],
) -> dict[str, UInt8[Array, "b h w"]]:
    """Returns the class with the largest logit for each pixel.

    Args:
      logits: ``[b, h, w, classes]``.

    Returns:
      ``label`` uint8 ``[b, h, w]``.

    >>> predict(jnp.array([[[[0.0, 1.0]]]]))["label"].tolist()
    [[[1]]]
    """
    return {"label": logits.argmax(-1).astype(jnp.uint8)}


def evidence(logits: Float[Array, "b h w classes"], batch: Batch) -> Evidence:
    """Counts pixels by label and prediction, and sums their losses.

    Args:
      logits: ``[b, h, w, classes]``.
      batch: ``target`` with ``label`` ``[b, h, w]``, and ``mask`` ``[b]``, 0 for
        padding.

    Returns:
      Two sums. ``confusion`` int32 ``[classes, classes + 1]``: rows are labels, columns
      predictions; the last column counts pixels without a finite largest logit.
      ``loss``: the cross-entropy of all pixels that count.

    >>> logits = jnp.array([[[[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]]]])
    >>> target = {"label": jnp.array([[[1, 1, 255]]], jnp.uint8)}
    >>> sums = evidence(logits, {"target": target, "mask": jnp.ones(1)}).sums
    >>> sums["confusion"].tolist()
    [[0, 0, 0], [1, 1, 0]]
    """
    real = batch["mask"][:, None, None] > 0
    label = jnp.where(real, batch["target"]["label"], IGNORED)
    nll, counts = _pixels(logits, label)
    classes = logits.shape[-1]
    has_largest = jnp.isfinite(logits.max(-1))
    predicted = jnp.where(has_largest, logits.argmax(-1), classes)
    cells = classes * (classes + 1)
    cell = label.astype(jnp.int32) * (classes + 1) + predicted
    cell = jnp.where(counts, cell, cells)
    # Each example is counted on its own, so that each device counts its own examples.
    # int32 is exact, floats are not.
    count = jax.vmap(lambda row: jnp.bincount(row, length=cells + 1))
    confusion = count(cell.reshape(len(cell), -1)).sum(0)[:-1].astype(jnp.int32)
    confusion = confusion.reshape(classes, classes + 1)
    return Evidence({"confusion": confusion, "loss": nll.sum()})


def chance(split: Evidence) -> float:
    """Returns the mean IoU that guessing can reach.

    A model up to this mean IoU is not better than a guess.

    It is 1.02 times the mean IoU of always naming the most frequent class.

    Args:
      split: results of :func:`evidence`, added up over the split.

    >>> chance(Evidence({"confusion": np.array([[0, 6, 0], [0, 2, 0]])}))
    0.3825
    """
    counts = np.asarray(split.sums["confusion"]).sum(1)
    share = float(counts.max()) / max(int(counts.sum()), 1)
    return 1.02 * share / max(int((counts > 0).sum()), 1)


def score(split: Evidence) -> dict[str, float]:
    """Returns the scores of a split; NaN if undefined.

    Args:
      split: results of :func:`evidence`, added up over the split.

    Returns:
      ``miou``, the mean IoU over the classes that are a label or predicted, in [0, 1];
      ``accuracy``, the share of pixels that are right, in [0, 1]; and ``loss``, the
      mean over the pixels.

    >>> split = Evidence({"confusion": np.array([[3, 1, 0], [0, 4, 0]]), "loss": 8.0})
    >>> score(split)
    {'miou': 0.775, 'accuracy': 0.875, 'loss': 1.0}
    """
    counts = np.asarray(split.sums["confusion"])
    iou, pixels = class_iou(counts), int(counts.sum())
    defined = iou[np.isfinite(iou)]
    hits = int(np.trace(counts[:, :-1]))
    return {
        "miou": float(defined.mean()) if defined.size else float("nan"),
        "accuracy": hits / pixels if pixels else float("nan"),
        "loss": float(split.sums["loss"]) / pixels if pixels else float("nan"),
    }
