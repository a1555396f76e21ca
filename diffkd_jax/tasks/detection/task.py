"""Object detection: losses by part, and average precision as in COCO.

Between a file of annotations and its average precision, a box takes five forms. Each
line says which functions make the form; all modules are below ``diffkd_jax``.

1. Left, top, width and height, in pixels of the stored image: the form of COCO. Files
   of annotations hold it, ``tasks.detection.average_precision.curves`` passes it to the
   evaluator, and detections are written in it. With the option ``corners`` of the data
   set, the file of annotations holds the numbers of form 2.
2. The corners ``x1 y1 x2 y2`` in pixels of the stored image, ``[m, 4]``, all images in
   one array of ``data.images.objects.Objects``.
   ``data.formats.coco_json.read_coco_table`` reads them in the order of the file;
   ``data.images.object_checks.clean_objects`` clips them and sorts them by image.
3. The same corners as ``[n, m, 4]``, the boxes of each image padded with zeros to the
   same number: ``data.images.objects.pad_objects``. Evaluation keeps them as
   ``stored``, and ``tasks.detection.plots.stored_boxes`` converts detections to this
   form.
4. Corners ``[b, m, 4]`` in pixels of the image that the model sees:
   ``data.transforms.boxes.boxes_to_train`` and
   ``data.transforms.boxes.boxes_to_evaluate``.
5. Numbers ``[b, n, 4]`` relative to anchors: ``ops.boxes.encode_boxes`` or, for FCOS,
   ``ops.boxes.encode_distances``. Models predict this form, and ``detect`` decodes it
   to form 4.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num
from pydantic import Field

from ...bounds import Part, Share, Weight
from ..classes import check_classes
from ..task import Batch, Evidence, Meta, Outputs, Task
from . import one_stage, two_stage
from .average_precision import LIMITS, Curves, by_class, coco_scores, curves
from .detection_limits import warn_of_limit
from .plots import draw, show, stored_boxes, write
from .selection import Selection

# The values of torchvision, with two deviations: at most 100 detections of an image for
# RetinaNet (300 there), and no boxes without area from detectors in one stage.
SELECTIONS = {
    "retinanet": Selection(0.05, 1000, 0.5, 100),
    "fcos": Selection(0.2, 1000, 0.6, 100),
    "two_stage": Selection(0.05, 0, 0.5, 100),
}
# Options that only one kind of detector has.
DETECTOR_OF_OPTION = {
    "by_batch": "retinanet",
    "to_truth": "retinanet",
    "beta": "two_stage",
}
Number = Annotated[int, Field(ge=1, le=100_000)]
NEEDED = ("box_codes", "anchors")
DETECTIONS = ("boxes", "scores", "classes", "valid")
CHANCE = 1e-3  # largest AP of boxes that are drawn at random
TARGET = {"boxes": 2, "classes": 1, "valid": 1}  # rank of each array of an example


def detection(
    meta: Meta,
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
    """Returns the task of finding objects with RetinaNet, FCOS or Faster R-CNN.

    The outputs of a model tell which of them it is: ``roi`` stands for Faster R-CNN,
    ``centreness`` for FCOS. Targets hold ``boxes`` float ``[b, m, 4]`` (``x1 y1 x2 y2``
    in pixels of the image that the model sees), ``classes`` int ``[b, m]`` and
    ``valid`` bool ``[b, m]``. If boxes are scored on stored images of another size,
    targets also hold ``stored``, ``scale``, ``stored_size``, ``ignored`` and ``area``.
    Scores are the twelve of COCO, with ``ap`` as the headline; undefined ones
    are NaN.

    Args:
      meta: description of the data, with ``num_classes``.
      box_weight: weight of the losses of boxes, 0 or more.
      by_batch: for RetinaNet: if true, losses are divided by the mean number of
        anchors that are assigned to an object, over the images of the batch, as in
        mmdetection; otherwise by that number of each image, as in torchvision.
      beta: for Faster R-CNN: the ``beta`` of the smooth L1 loss of boxes, 0 or more.
        None stands for 1/9, as in torchvision; 0 gives L1, as in mmdetection.
      to_truth: for RetinaNet: IoU in [0, 1] from which the best anchor of an object is
        assigned to that object; mmdetection uses 0. None gives torchvision's rule, see
        :func:`diffkd_jax.ops.assign.match`.
      clamp_below: if true, box codes are limited on both sides, as in mmdetection. Not
        read for FCOS.
      score: score in [0, 1) above which a detection is kept; None for the detector's
        usual value, as for ``candidates``, ``nms`` and ``most``.
      candidates: largest number of boxes of each level that enter non-maximum
        suppression; not read for Faster R-CNN.
      nms: IoU in [0, 1] above which the lower-scored box of the same class is dropped.
      most: largest number of detections of each image.
      size_limits: sides of two squares, in pixels of the stored image. An object whose
        area is below that of the first is small, above that of the second large, and
        between them medium.

    Raises:
      ValueError: the data have no classes, or the first of ``size_limits`` is the
        larger one. The loss raises it if ``by_batch``, ``beta`` or ``to_truth`` is set
        for another detector than the one named here.

    >>> detection({"num_classes": 80}).headline
    'ap'
    """
    classes = meta["num_classes"]
    if classes < 1:
        raise ValueError("detection: found data without classes, expected at least 1")
    options = {"score": score, "candidates": candidates, "nms": nms, "most": most}
    changes: dict[str, Any] = {k: x for k, x in options.items() if x is not None}
    limits = tuple(size_limits)
    if limits[0] > limits[1]:
        raise ValueError(
            f"task.options.size_limits: found {size_limits}, expected two sides in "
            "pixels, the smaller one first"
        )
    special = {"by_batch": by_batch or None, "beta": beta, "to_truth": to_truth}
    special = {name: value for name, value in special.items() if value is not None}
    selections = {name: usual._replace(**changes) for name, usual in SELECTIONS.items()}

    def losses(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        detector, target = _name_detector(outputs, classes), batch["target"]
        for name in special:
            if DETECTOR_OF_OPTION[name] != detector:
                raise ValueError(
                    f"task.options.{name}: found it for {detector}, expected it for "
                    f"{DETECTOR_OF_OPTION[name]} alone"
                )
        if detector == "two_stage":
            usual = two_stage.BETA if beta is None else beta
            parts = two_stage.losses(outputs, target, beta=usual)
        elif detector == "fcos":
            parts = one_stage.fcos_losses(outputs, target)
        else:
            parts = one_stage.retinanet_losses(
                outputs, target, by_batch=by_batch, to_truth=to_truth
            )
        factor = lambda name: box_weight if name.endswith("box") else 1.0
        return {f"task/{name}": factor(name) * x for name, x in parts.items()}

    def predict(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        detector, image = _name_detector(outputs, classes), batch["image"]
        full_size = jnp.broadcast_to(jnp.array(image.shape[1:3]), (len(image), 2))
        size = batch.get("size", full_size)
        stage = two_stage if detector == "two_stage" else one_stage
        return stage.detect(
            outputs, size, selections[detector], clamp_below=clamp_below
        )

    def evidence(outputs: Outputs, batch: Batch) -> Evidence:
        return collect_evidence(predict(outputs, batch), batch)

    match_split = functools.partial(
        _match_split,
        classes=classes,
        size_limits=limits,
        most=max(selection.most for selection in selections.values()),
    )

    return Task(
        loss=losses,
        predict=predict,
        evidence=evidence,
        score=lambda split: coco_scores(match_split(split)),
        headline="ap",
        target=TARGET,
        chance=lambda split: CHANCE,
        draw=lambda folder, split, meta: draw(
            folder, *_values_to_draw(match_split(split)), meta
        ),
        show=show,
        write=write,
        check=check_classes,
    )


def _name_detector(outputs: Outputs, classes: int) -> str:
    """Names the kind of detector that has such outputs.

    Raises:
      ValueError: the outputs have another number of classes than the data.
      KeyError: an output is missing; the key names it.
    """
    if "roi" in outputs:
        columns, expected = outputs["roi"]["class_logits"].shape[-1], classes + 1
    else:
        levels, _, _ = (outputs[name] for name in ("class_logits", *NEEDED))
        columns, expected = next(iter(levels.values())).shape[-1], classes
    if columns != expected:
        raise ValueError(
            f"found class_logits of {columns} columns, expected {expected}, for "
            f"{classes} classes"
        )
    if "roi" in outputs:
        return "two_stage"
    return "fcos" if "centreness" in outputs else "retinanet"


def collect_evidence(
    detections: Mapping[str, Num[jax.Array, "b ..."]], batch: Batch
) -> Evidence:
    """Collects detections and true objects of each image, in pixels as stored.

    Args:
      detections: ``boxes`` ``[b, d, 4]`` in pixels of the image that the model saw,
        ``scores`` float, ``classes`` int and ``valid`` bool ``[b, d]``.
      batch: a batch with ``target`` and ``mask``.

    Returns:
      Rows ``boxes``, ``scores``, ``classes`` and ``valid`` for the detections, and
      ``true/boxes``, ``true/classes``, ``true/valid``, ``true/ignored`` and
      ``true/area`` for the objects.

    >>> box = jnp.array([[[0.0, 0.0, 4.0, 2.0]]])
    >>> target = {"boxes": box, "classes": jnp.zeros((1, 1), int),
    ...     "valid": jnp.ones((1, 1), bool)}
    >>> detections = {**target, "scores": jnp.ones((1, 1))}
    >>> batch = {"target": target, "mask": jnp.ones(1)}
    >>> collect_evidence(detections, batch).rows["true/area"].tolist()
    [[8.0]]
    """
    target = batch["target"]
    boxes = stored_boxes(detections["boxes"], target)
    true_boxes = target.get("stored", target["boxes"])
    sides = true_boxes[..., 2:] - true_boxes[..., :2]
    rows = {name: detections[name] for name in DETECTIONS} | {"boxes": boxes}
    rows |= {
        "true/boxes": true_boxes,
        "true/classes": target["classes"],
        "true/valid": target["valid"],
        "true/ignored": target.get("ignored", jnp.zeros_like(target["valid"])),
        "true/area": target.get("area", sides.prod(-1)),
    }
    return Evidence({"images": batch["mask"].sum()}, rows)


def _match_split(
    split: Evidence, classes: int, size_limits: Sequence[float], most: int
) -> Curves:
    """Returns precision and recall of the detections of a split."""
    rows = {name: np.asarray(x) for name, x in split.rows.items()}
    detections = {name: rows[name] for name in DETECTIONS}
    truth = {
        name.removeprefix("true/"): x
        for name, x in rows.items()
        if name.startswith("true/")
    }
    warn_of_limit(truth, LIMITS[-1], most, "evaluation")
    return curves(truth, detections, classes=classes, size_limits=size_limits)


def _values_to_draw(
    split: Curves,
) -> tuple[
    Float[np.ndarray, " K"], Float[np.ndarray, " K"], Float[np.ndarray, "10 101 K"]
]:
    """Returns AP and AP50 of each class, and the curves of precision."""
    ap50 = by_class(split, threshold=0)
    return by_class(split), ap50, split.precision[..., 0, -1]
