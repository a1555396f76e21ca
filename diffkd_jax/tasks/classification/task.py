"""Image classification: cross-entropy, top-1 and top-5 accuracy, confusion."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Num

from ...bounds import Alpha, Part, Share
from ..classes import check_classes
from ..task import Batch, Evidence, Meta, Outputs, Task
from .metrics import confusion, metrics
from .mix import make_prepare
from .plots import draw, write

MOST_CLASSES_DRAWN = 30
TARGET = {"label": 0}  # rank of each array of an example


def classification(
    meta: Meta,
    *,
    label_smoothing: Part = 0.0,
    mixup: Alpha = 0.0,
    cutmix: Alpha = 0.0,
    switch: Share = 0.5,
    erase: Share = 0.0,
) -> Task:
    """Returns the task of naming the class of each image.

    The model's outputs hold ``logits`` ``[b, classes]``, the targets ``label`` int
    ``[b]``. Scores are ``top1`` (the headline), ``loss`` and, from 6 classes on,
    ``top5``.

    Args:
      meta: description of the data, with ``num_classes``.
      label_smoothing: share of the label that is spread evenly over all classes, in
        [0, 1).
      mixup: alpha of the Beta distribution from which mixup draws its share; 0 turns
        mixup off.
      cutmix: alpha of the Beta distribution of the share for CutMix; 0 turns CutMix
        off.
      switch: probability of CutMix if both are on, in [0, 1].
      erase: probability that an image is randomly erased, in [0, 1].

    Raises:
      ValueError: the data have no classes.

    >>> classification({"num_classes": 3}).headline
    'top1'
    """
    classes, prepare = meta["num_classes"], None
    if not classes:
        raise ValueError("classification: found data without classes, expected some")
    if mixup or cutmix or erase:
        prepare = make_prepare(
            classes, mixup=mixup, cutmix=cutmix, switch=switch, erase=erase
        )

    def checked_loss(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        _check_logits(outputs, classes)
        return loss(outputs, batch, label_smoothing=label_smoothing)

    def checked_evidence(outputs: Outputs, batch: Batch) -> Evidence:
        _check_logits(outputs, classes)
        return evidence(outputs, batch, with_confusion=classes <= MOST_CLASSES_DRAWN)

    return Task(
        loss=checked_loss,
        predict=predict,
        evidence=checked_evidence,
        score=score,
        headline="top1",
        target=TARGET,
        chance=functools.partial(chance, classes=classes),
        prepare=prepare,
        draw=draw,
        write=write,
        check=check_classes,
    )


def _check_logits(outputs: Outputs, classes: int) -> None:
    """Raises ValueError if the logits do not have one column for each class."""
    shape = outputs["logits"].shape
    if len(shape) != 2 or shape[-1] != classes:
        raise ValueError(
            f"found logits of shape {shape}, expected [b, {classes}], a column for "
            "each class of the data"
        )


def loss(
    outputs: Outputs, batch: Batch, *, label_smoothing: float = 0.0
) -> dict[str, Float[Array, ""]]:
    """Computes the mean cross-entropy of the logits with the labels.

    Args:
      outputs: ``logits`` ``[b, classes]``.
      batch: ``target`` with ``label`` int ``[b]``. If the target also holds ``mixed``,
        shares of the classes ``[b, classes]``, they replace the label.
      label_smoothing: share of the label that is spread evenly over all classes, in
        [0, 1).

    Returns:
      ``task``, a scalar.

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


def predict(outputs: Outputs, batch: Batch) -> dict[str, Num[Array, "..."]]:
    """Returns the probability of each class, and the most probable class.

    Args:
      outputs: ``logits`` ``[b, classes]``.
      batch: not read.

    Returns:
      ``probability`` float32 ``[b, classes]`` and ``label`` int ``[b]``.

    >>> predict({"logits": jnp.array([[0.0, 2.0]])}, {})["label"].tolist()
    [1]
    """
    del batch
    logits = outputs["logits"].astype(jnp.float32)
    return {"probability": jax.nn.softmax(logits), "label": logits.argmax(-1)}


def evidence(
    outputs: Outputs, batch: Batch, *, with_confusion: bool = False
) -> Evidence:
    """Computes the sums over a batch that :func:`score` needs.

    Args:
      outputs: ``logits`` ``[b, classes]``.
      batch: see :func:`metrics`.
      with_confusion: if true, add the confusion matrix.

    Returns:
      The sums of :func:`metrics` and, with ``with_confusion``, the matrix ``confusion``
      of :func:`confusion`.

    >>> batch = {"target": {"label": jnp.array([1])}, "mask": jnp.ones(1)}
    >>> sorted(evidence({"logits": jnp.array([[0.0, 1.0]])}, batch).sums)
    ['count', 'loss', 'top1']
    """
    sums = metrics(outputs, batch)
    if with_confusion:
        sums["confusion"] = confusion(outputs, batch)
    return Evidence(sums)


def score(split: Evidence) -> dict[str, float]:
    """Returns the mean scores of a split.

    Args:
      split: results of :func:`evidence`, added up over the split.

    Returns:
      ``top1``, ``top5`` (from 6 classes on) and ``loss``, means over the examples.

    >>> score(Evidence({"count": 4.0, "top1": 3.0, "loss": 2.0}))
    {'top1': 0.75, 'loss': 0.5}
    """
    sums = split.sums
    names = [name for name in ("top1", "top5", "loss") if name in sums]
    return {name: float(sums[name]) / float(sums["count"]) for name in names}


def chance(split: Evidence, *, classes: int) -> float:
    """Returns the top-1 accuracy that guessing can reach.

    A model up to this accuracy is not better than a guess.

    It is the accuracy of always naming the most frequent class, plus two standard
    deviations of its sampling error, at most 1. Without a confusion matrix, all classes
    are assumed to be equally frequent.

    Args:
      split: results of :func:`evidence`, added up over the split.
      classes: number of classes.

    >>> counts = np.array([[30, 20], [10, 40]])
    >>> round(chance(Evidence({"count": 100.0, "confusion": counts}), classes=2), 3)
    0.6
    """
    count, counts = float(split.sums["count"]), split.sums.get("confusion")
    share = 1 / classes
    if counts is not None and count:
        share = float(np.asarray(counts).sum(1).max()) / count
    return min(share + 2 * math.sqrt(share * (1 - share) / max(count, 1.0)), 1.0)
