"""Average precision as in COCO (Lin et al. 2014), counted by hotcoco."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64
from numpy.typing import ArrayLike

LIMITS = (1, 10, 100)  # detections of a class in an image that count
SIZE_LIMITS = (32.0, 96.0)  # sides of a square between small, medium and large, pixels
SIZES = ("small", "medium", "large")
MOST_AREA = 1e10  # square pixels


class Curves(NamedTuple):
    """The precision and recall of a split; NaN for a class without an object.

    Attributes:
      precision: ``[10, 101, K, A, L]``, in [0, 1], by threshold of the IoU (0.50 to
        0.95), level of recall (0 to 1), class ``K``, size ``A`` (all, small, medium,
        large), and limit ``L``. With a limit of 10, only the 10 detections of highest
        score count for each class in each image.
      recall: ``[10, K, A, L]``, in [0, 1], the largest recall that the detections
        reach.
      limits: the ``L`` limits, in ascending order. Average precision uses the last one.

    >>> Curves(np.ones((10, 101, 2, 4, 1)), np.ones((10, 2, 4, 1)), (100,)).limits
    (100,)
    """

    precision: Float64[np.ndarray, "10 101 K A L"]
    recall: Float64[np.ndarray, "10 K A L"]
    limits: tuple[int, ...]


def curves(
    truth: Mapping[str, ArrayLike],
    detections: Mapping[str, ArrayLike],
    *,
    classes: int = 0,
    limits: Sequence[int] = LIMITS,
    size_limits: Sequence[float] = SIZE_LIMITS,
) -> Curves:
    """Matches the detections of a split with its objects, as COCO does.

    An ignored object is treated as a crowd. A detection that lies in it counts neither
    as a hit nor as a miss. The overlap with a crowd is the intersection divided by the
    area of the detection.

    Args:
      truth: the objects of each image. ``stored`` (or ``boxes``) float ``[n, M, 4]``:
        left, top, right, bottom in pixels of the stored image. ``classes`` int
        ``[n, M]``, from 0. ``valid`` and ``ignored`` bool ``[n, M]``. ``area`` float
        ``[n, M]``, in square pixels: the area that decides whether an object is small,
        medium or large. An area of 0 or less is replaced by that of the box.
      detections: the detections of each image. ``boxes`` float ``[n, D, 4]`` as in
        ``truth``; ``scores`` float ``[n, D]``; ``classes`` int and ``valid`` bool
        ``[n, D]``. Among detections with equal scores, the one in
        the lower row comes first.
      classes: number of classes. It is raised if a larger class number occurs; 0 uses
        the class numbers that occur.
      limits: limits in ascending order, see :class:`Curves`.
      size_limits: sides of two squares, in pixels. An object whose area is below that
        of the first is small, above that of the second large, and between them medium.

    Raises:
      ValueError: shapes that do not fit, or boxes or scores that are not finite.

    >>> box = np.array([[[10.0, 10, 30, 40]]])
    >>> truth = {"stored": box, "classes": np.zeros((1, 1), int),
    ...     "valid": np.ones((1, 1), bool), "ignored": np.zeros((1, 1), bool),
    ...     "area": np.full((1, 1), 600.0)}
    >>> split = curves(truth, {**truth, "boxes": box, "scores": np.ones((1, 1))})
    >>> [round(coco_scores(split)[k], 6) for k in ("ap", "ap_small", "ap_large")]
    [1.0, 1.0, nan]
    """
    import hotcoco  # only evaluation needs it

    name = "stored" if "stored" in truth else "boxes"
    objects = _flatten(truth, name, "truth", ("ignored", "area"))
    detected = _flatten(detections, "boxes", "detections", ("scores",))
    valid = np.asarray(truth["valid"], bool)
    detection_valid = np.asarray(detections["valid"], bool)
    images = len(valid)
    if len(detection_valid) != images:
        raise ValueError(
            f"detections: found {len(detection_valid)} images, expected {images}, as "
            "in the truth"
        )
    area = np.asarray(truth["area"], np.float64)[valid]
    box_area = np.prod(objects.boxes[:, 2:] - objects.boxes[:, :2], axis=1)
    scores = np.asarray(detections["scores"], np.float64)[detection_valid]
    if not np.isfinite(scores).all():
        raise ValueError("detections: found scores that are not finite")
    num_classes = max(
        classes, 1, *(int(x.classes.max(initial=-1)) + 1 for x in (objects, detected))
    )
    # All ids are given here and count from 1: evaluators take an id of 0 for no match.
    reference = hotcoco.COCO.from_arrays(
        [{"id": i + 1} for i in range(images)],
        [{"id": k + 1, "name": str(k)} for k in range(num_classes)],
        objects.images + 1,
        objects.classes + 1,
        _with_sides(objects.boxes),
        ids=np.arange(len(objects.boxes)) + 1,
        area=np.where(area > 0, area, box_area),
        iscrowd=np.asarray(truth["ignored"], bool)[valid].astype(np.int64),
    )
    table = np.column_stack(
        [
            detected.images + 1,
            _with_sides(detected.boxes),
            scores,
            detected.classes + 1,
        ]
    )
    small, large = (float(side) ** 2 for side in size_limits)
    evaluator = hotcoco.COCOeval(reference, reference.load_res(table), "bbox")
    params = evaluator.params
    params.img_ids = list(range(1, images + 1))
    params.cat_ids = list(range(1, num_classes + 1))
    params.max_dets = [int(limit) for limit in limits]
    params.area_rng = [
        [0.0, MOST_AREA],
        [0.0, small],
        [small, large],
        [large, MOST_AREA],
    ]
    evaluator.params = params
    evaluator.evaluate()
    evaluator.accumulate()
    results = evaluator.eval or {}
    precision = np.array(results["precision"], np.float64)
    recall = np.array(results["recall"], np.float64)
    # hotcoco marks undefined values with -1.
    precision[precision < 0], recall[recall < 0] = np.nan, np.nan
    return Curves(precision, recall, tuple(params.max_dets))


class _Boxes(NamedTuple):
    """The boxes of all images, one image after the other, without padding."""

    images: Int64[np.ndarray, " m"]
    boxes: Float64[np.ndarray, "m 4"]
    classes: Int64[np.ndarray, " m"]


def _flatten(
    arrays: Mapping[str, ArrayLike], boxes_key: str, label: str, others: Sequence[str]
) -> _Boxes:
    """Checks padded arrays, and returns their valid rows; ``label`` is for messages."""
    valid = np.asarray(arrays["valid"], bool)
    boxes = np.asarray(arrays[boxes_key], np.float64)
    for key in ("classes", *others):
        if np.shape(arrays[key]) != valid.shape:
            raise ValueError(
                f"{label}: found {key} of shape {np.shape(arrays[key])}, expected "
                f"{valid.shape}, the shape of valid"
            )
    if boxes.shape != (*valid.shape, 4) or valid.ndim != 2:
        raise ValueError(
            f"{label}: found {boxes_key} of shape {boxes.shape} and valid of shape "
            f"{valid.shape}, expected [n, m, 4] and [n, m]"
        )
    boxes, classes = boxes[valid], np.asarray(arrays["classes"])[valid].astype(np.int64)
    if not np.isfinite(boxes).all():
        raise ValueError(f"{label}: found boxes that are not finite")
    if (classes < 0).any():
        raise ValueError(f"{label}: found class {classes.min()}, expected 0 or more")
    return _Boxes(np.nonzero(valid)[0].astype(np.int64), boxes, classes)


def _with_sides(boxes: Float64[np.ndarray, "m 4"]) -> Float64[np.ndarray, "m 4"]:
    """Returns boxes as left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def coco_scores(split: Curves) -> dict[str, float]:
    """Returns the twelve scores of COCO, in [0, 1]; NaN if undefined.

    Args:
      split: precision and recall of the split.

    Returns:
      ``ap``, the mean over IoU thresholds and the classes that have objects; ``ap50``
      and ``ap75``, at one threshold; ``ap_small``, ``ap_medium``, ``ap_large``;
      ``ar_<limit>``, the mean recall at each limit of detections; and ``ar_small``,
      ``ar_medium``, ``ar_large``.

    >>> split = Curves(
    ...     np.ones((10, 101, 2, 4, 3)), np.ones((10, 2, 4, 3)), (1, 10, 100))
    >>> split.precision[:, :, 1] = np.nan
    >>> coco_scores(split)["ap"], coco_scores(split)["ar_100"]
    (1.0, 1.0)
    """
    precision = split.precision[..., -1]
    result = {
        "ap": _mean(precision[:, :, :, 0]),
        "ap50": _mean(precision[0, :, :, 0]),
        "ap75": _mean(precision[5, :, :, 0]),
    }
    for a, size in enumerate(SIZES, 1):
        result[f"ap_{size}"] = _mean(precision[:, :, :, a])
    for i, limit in enumerate(split.limits):
        result[f"ar_{limit}"] = _mean(split.recall[:, :, 0, i])
    for a, size in enumerate(SIZES, 1):
        result[f"ar_{size}"] = _mean(split.recall[:, :, a, -1])
    return result


def by_class(split: Curves, threshold: int | None = None) -> Float[np.ndarray, " K"]:
    """Returns the average precision of each class, NaN for a class without an object.

    Args:
      split: precision and recall of the split.
      threshold: index of one IoU threshold, such as 0 for 0.50 or 5 for 0.75; None for
        the mean over all ten.

    >>> split = Curves(np.ones((10, 101, 2, 4, 1)), np.ones((10, 2, 4, 1)), (100,))
    >>> by_class(split).tolist()
    [1.0, 1.0]
    """
    precision = split.precision[..., 0, -1]
    if threshold is not None:
        precision = precision[threshold : threshold + 1]
    return np.array([_mean(precision[:, :, k]) for k in range(precision.shape[2])])


def _mean(values: Float[np.ndarray, "*dims"]) -> float:
    """Returns the mean of the values that are not NaN, or NaN."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
