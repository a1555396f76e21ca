"""Object detection: losses by part, average precision as COCO has it."""

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from ...bounds import Part, Share, Weight
from ..classes import check_classes
from ..task import Evidence, Task
from . import one_stage, two_stage
from .average_precision import LIMITS, Curves, by_class, curves, figures, warn_of_limit
from .one_stage import Kept
from .plots import draw, show, stored_boxes, write

# As torchvision keeps them, but for 100 of RetinaNet in place of 300, and without boxes
# of no area in one stage.
KEPT = {
    "retinanet": Kept(0.05, 1000, 0.5, 100),
    "fcos": Kept(0.2, 1000, 0.6, 100),
    "two_stage": Kept(0.05, 0, 0.5, 100),
}
OF_KIND = {"by_batch": "retinanet", "to_truth": "retinanet", "beta": "two_stage"}
Number = Annotated[int, Field(ge=1, le=100_000)]
NEEDED = ("box_codes", "anchors")
DETECTIONS = ("boxes", "scores", "classes", "valid")
CHANCE = 1e-3  # AP of boxes that are drawn at random, at most
TARGET = {"boxes": 2, "classes": 1, "valid": 1}  # rank of each array of an example


def detection(
    meta: Mapping[str, Any],
    *,
    box_weight: Weight = 1.0,
    by_batch: bool = False,
    beta: Weight | None = None,
    to_truth: Share | None = None,
    clamp_below: bool = False,
    score: Part | None = None,
    candidates: Number | None = None,
    nms: Share | None = None,
    most: Number | None = None,
    size_limits: tuple[Weight, Weight] = (32.0, 96.0),
) -> Task:
    """Boxes and their classes, from the outputs of RetinaNet, FCOS or Faster R-CNN.

    What a model gives says which it is: ``roi`` is of two stages, ``centreness`` of
    FCOS. Targets hold ``boxes`` float ``[b, m, 4]`` (x1 y1 x2 y2 in pixels of the
    picture as it is given to the model), ``classes`` ints ``[b, m]`` and ``valid`` bool
    ``[b, m]``; where they are scored on stored pictures of another size also
    ``stored``, ``scale``, ``stored_size``, ``ignored`` and ``area``. Scores are the
    twelve figures of COCO, ``ap`` the headline; those that are undefined are NaN.

    Args:
      meta: of the data, with ``num_classes``.
      box_weight: of the losses of boxes.
      by_batch: RetinaNet's losses by the objects of the whole batch, as MMDetection,
        else by those of each picture, as torchvision.
      beta: Faster R-CNN's, of the smooth L1 loss of boxes, 1/9 by default as in
        torchvision; 0 for L1, as MMDetection.
      to_truth: RetinaNet's; intersection over union from which the best anchor of an
        object stands for that one, as MMDetection (0); None for torchvision's rule.
      clamp_below: box codes are limited on both sides (MMDetection), not FCOS's.
      score: that detections are above, None for the usual of the network.
      candidates: of a level that are looked at, likewise.
      nms: intersection over union, likewise.
      most: detections of a picture, likewise.
      size_limits: sides in pixels of the stored picture, from which an object is medium
        and large.

    Raises:
      ValueError: no classes, or an option out of range.

    >>> detection({"num_classes": 80}).headline
    'ap'
    """
    classes = meta["num_classes"]
    if classes < 1:
        raise ValueError("detection: found data without classes, expected at least 1")
    own = {"score": score, "candidates": candidates, "nms": nms, "most": most}
    given: dict[str, Any] = {k: value for k, value in own.items() if value is not None}
    limits = tuple(size_limits)
    if limits[0] > limits[1]:
        raise ValueError(
            f"task.options.size_limits: found {size_limits}, expected two sides in "
            "pixels, the smaller one first"
        )
    given_of = {"by_batch": by_batch or None, "beta": beta, "to_truth": to_truth}
    only = {
        name: OF_KIND[name] for name, value in given_of.items() if value is not None
    }
    kept = {name: usual._replace(**given) for name, usual in KEPT.items()}

    def losses(outputs, batch):
        kind, target = name_detector(outputs, classes), batch["target"]
        for name, its in only.items():
            if its != kind:
                raise ValueError(f"task.options.{name}: found it for {kind}")
        if kind == "two_stage":
            own = {} if beta is None else {"beta": beta}
            found = two_stage.losses(outputs, target, **own)
        elif kind == "fcos":
            found = one_stage.fcos_losses(outputs, target)
        else:
            found = one_stage.retinanet_losses(
                outputs, target, by_batch=by_batch, to_truth=to_truth
            )
        factor = lambda name: box_weight if name.endswith("box") else 1.0
        return {f"task/{name}": factor(name) * x for name, x in found.items()}

    def predict(outputs, batch):
        kind, image = name_detector(outputs, classes), batch["image"]
        whole = jnp.broadcast_to(jnp.array(image.shape[1:3]), (len(image), 2))
        size = batch.get("size", whole)
        stage = two_stage if kind == "two_stage" else one_stage
        return stage.detect(outputs, size, kept[kind], clamp_below=clamp_below)

    def evidence(outputs, batch):
        return evidence_of(predict(outputs, batch), batch)

    matched = functools.partial(
        curves_of,
        classes=classes,
        size_limits=limits,
        most=max(one.most for one in kept.values()),
    )

    return Task(
        loss=losses,
        predict=predict,
        evidence=evidence,
        score=lambda seen: figures(matched(seen)),
        headline="ap",
        target=TARGET,
        chance=lambda seen: CHANCE,
        draw=lambda folder, seen, meta: draw(folder, *each(matched(seen)), meta),
        show=show,
        write=write,
        check=check_classes,
    )


def name_detector(outputs: Mapping, classes: int) -> str:
    """Names the kind of detector that has such outputs.

    Raises:
      ValueError: another number of classes than the data's.
      KeyError: the output that is missing.
    """
    if "roi" in outputs:
        found, expected = outputs["roi"]["class_logits"].shape[-1], classes + 1
    else:
        levels, _, _ = (outputs[name] for name in ("class_logits", *NEEDED))
        found, expected = next(iter(levels.values())).shape[-1], classes
    if found != expected:
        raise ValueError(
            f"found class_logits of {found} columns, expected {expected}, for "
            f"{classes} classes"
        )
    if "roi" in outputs:
        return "two_stage"
    return "fcos" if "centreness" in outputs else "retinanet"


def evidence_of(found: Mapping[str, jax.Array], batch: Mapping) -> Evidence:
    """Detections and the truth of each picture, in pixels of the stored one.

    Args:
      found: detections in pixels of the picture that the model saw.
      batch: with ``target`` and ``mask``.

    Returns:
      Rows ``boxes``, ``scores``, ``classes``, ``valid`` of detections, and those of the
      truth as ``true/boxes`` and so on.
    """
    target = batch["target"]
    boxes = stored_boxes(found["boxes"], target)
    true = target.get("stored", target["boxes"])
    sides = true[..., 2:] - true[..., :2]
    rows = {name: found[name] for name in DETECTIONS} | {"boxes": boxes}
    rows |= {
        "true/boxes": true,
        "true/classes": target["classes"],
        "true/valid": target["valid"],
        "true/ignored": target.get("ignored", jnp.zeros_like(target["valid"])),
        "true/area": target.get("area", sides.prod(-1)),
    }
    return Evidence({"pictures": batch["mask"].sum()}, rows)


def curves_of(
    seen: Evidence, classes: int, size_limits: Sequence[float], most: int
) -> Curves:
    """Precision and recall of the detections of a split."""
    rows = {name: np.asarray(x) for name, x in seen.rows.items()}
    found = {name: rows[name] for name in DETECTIONS}
    true = {
        name.removeprefix("true/"): x
        for name, x in rows.items()
        if name.startswith("true/")
    }
    warn_of_limit(true, LIMITS[-1], most, "evaluation")
    return curves(true, found, classes=classes, size_limits=size_limits)


def each(found: Curves) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By class the average precision and that at an intersection of half; curves."""
    return by_class(found), by_class(found, at=0), found.precision[..., 0, -1]
