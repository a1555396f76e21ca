"""Image classification: cross-entropy, top-1 and top-5 accuracy, confusion."""

import csv
import functools
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...bounds import Alpha, Part, Share
from ...io import drawing
from ..classes import check_classes
from ..task import Evidence, Task
from .mix import make_prepare

MOST_CLASSES_DRAWN = 30
TARGET = {"label": 0}  # rank of each array of an example


def classification(
    meta: Mapping[str, Any],
    *,
    label_smoothing: Part = 0.0,
    mixup: Alpha = 0.0,
    cutmix: Alpha = 0.0,
    switch: Share = 0.5,
    erase: Share = 0.0,
) -> Task:
    """The class of each picture, from ``outputs["logits"]`` ``[b, classes]``.

    Targets hold ``label``, int ``[b]``. Scores are ``top1``, the headline, ``loss``
    and, from 6 classes on, ``top5``.

    Args:
      meta: of the data, with ``num_classes``.
      label_smoothing: share spread evenly over all classes, in [0, 1).
      mixup: alpha of the Beta distribution of mixup, 0 for never.
      cutmix: likewise, of CutMix.
      switch: probability of CutMix where both are on.
      erase: probability of random erasing.

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

    def checked_loss(outputs, batch):
        _check_logits(outputs, classes)
        return loss(outputs, batch, label_smoothing=label_smoothing)

    def checked_evidence(outputs, batch):
        _check_logits(outputs, classes)
        return evidence(outputs, batch, confused=classes <= MOST_CLASSES_DRAWN)

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


def _check_logits(outputs: Mapping, classes: int) -> None:
    found = outputs["logits"].shape
    if len(found) != 2 or found[-1] != classes:
        raise ValueError(
            f"found logits of shape {found}, expected [b, {classes}], the classes of "
            "the data"
        )


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


def predict(outputs: Mapping, batch: Mapping) -> dict[str, jax.Array]:
    """``probability`` ``[b, classes]``, and ``label`` int ``[b]``, the largest."""
    del batch
    logits = outputs["logits"].astype(jnp.float32)
    return {"probability": jax.nn.softmax(logits), "label": logits.argmax(-1)}


def evidence(outputs: Mapping, batch: Mapping, *, confused: bool = False) -> Evidence:
    """Sums of :func:`metrics`, and ``confusion`` where it is asked for."""
    sums = metrics(outputs, batch)
    if confused:
        sums["confusion"] = confusion(outputs, batch)
    return Evidence(sums)


def confusion(outputs: Mapping, batch: Mapping) -> jax.Array:
    """Counts ``[classes, classes]`` of unmasked examples: row label, column prediction.

    An example whose logits are not finite predicts nothing and is in no column.

    >>> out = {"logits": jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    >>> label, mask = jnp.array([1, 1]), jnp.array([1.0, 1.0])
    >>> confusion(out, {"target": {"label": label}, "mask": mask}).tolist()
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
    >>> sums = metrics(out, {"target": {"label": label}, "mask": mask})
    >>> float(sums["top1"]), float(sums["count"])
    (1.0, 1.0)
    """
    logits = outputs["logits"].astype(jnp.float32)
    label, mask = batch["target"]["label"], batch["mask"]
    own = jnp.take_along_axis(logits, label[:, None], -1)
    # Ties count against the example, so that constant logits score nothing.
    rank = jnp.sum(logits >= own, -1) - 1
    known = _decides(logits) & jnp.isfinite(own[:, 0])
    rank = jnp.where(known, rank, logits.shape[-1])
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


def score(seen: Evidence) -> dict[str, float]:
    """Means of the sums of :func:`evidence`.

    >>> score(Evidence({"count": 4.0, "top1": 3.0, "loss": 2.0}))
    {'top1': 0.75, 'loss': 0.5}
    """
    names = [name for name in ("top1", "top5", "loss") if name in seen.sums]
    return {name: float(seen.sums[name]) / float(seen.sums["count"]) for name in names}


def chance(seen: Evidence, *, classes: int) -> float:
    """Returns the top-1 that naming the commonest class has, and its sampling error.

    Two standard deviations are added. Without counts by class, all are as common.

    Args:
      seen: of a split.
      classes: of the data.

    >>> counts = np.array([[30, 20], [10, 40]])
    >>> round(chance(Evidence({"count": 100.0, "confusion": counts}), classes=2), 3)
    0.6
    """
    count, counts = float(seen.sums["count"]), seen.sums.get("confusion")
    share = 1 / classes
    if counts is not None and count:
        share = float(np.asarray(counts).sum(1).max()) / count
    return min(share + 2 * math.sqrt(share * (1 - share) / max(count, 1.0)), 1.0)


def draw(
    folder: pathlib.Path, seen: Evidence, meta: Mapping[str, Any]
) -> list[pathlib.Path]:
    """The confusion, if there are few classes."""
    counts, names = seen.sums.get("confusion"), meta.get("class_names")
    if counts is None:
        return []
    names = names or [str(k) for k in range(len(counts))]
    return [draw_confusion(folder / "confusion.png", np.asarray(counts), names)]


def write(
    folder: pathlib.Path,
    predictions: Iterable[tuple[str, Mapping, Mapping]],
    meta: Mapping[str, Any],
) -> None:
    """``predictions.csv``: name, class and its probability, one line an example."""
    names = meta.get("class_names") or range(meta["num_classes"])
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "class", "probability"))
        for name, found, _ in predictions:
            label = int(found["label"])
            writer.writerow((name, names[label], float(found["probability"][label])))


@drawing.defaults()
def draw_confusion(path: pathlib.Path, counts: np.ndarray, names) -> pathlib.Path:
    """Share of each label's examples by prediction, in percent."""
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(counts)
    figure, axis = drawing.subplots(figsize=(side, side))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            colour = "white" if share > 60 else "black"
            text = f"{share:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=colour, size=8)
    ticks, names = range(len(names)), drawing.labels(names)
    axis.set_xticks(ticks, names, rotation=60, ha="right")
    axis.set_yticks(ticks, names)
    axis.set(xlabel="predicted", ylabel="label", title="confusion, % of each label")
    return drawing.save_figure(figure, path)
