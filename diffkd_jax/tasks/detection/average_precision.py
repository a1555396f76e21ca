"""Average precision as COCO has it (Lin et al. 2014), counted by hotcoco."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LOG = logging.getLogger(__name__)
LIMITS = (1, 10, 100)  # detections of a class in a picture
SIZE_LIMITS = (32.0, 96.0)  # sides of a square between small, medium and large
SIZES = ("small", "medium", "large")
MOST_AREA = 1e10
THRESHOLDS = np.linspace(0.5, 0.95, 10)
LEVELS = np.linspace(0.0, 1.0, 101)  # of recall, at which precision is read


class Curves(NamedTuple):
    """Precision and recall of a split; NaN for a class without an object.

    Attributes:
      precision: float64 ``[10, 101, K, A, L]``: by threshold of the intersection over
        union, .50 to .95; level of recall, 0 to 1; class; size (all, small, medium,
        large); and limit of the detections of a class in a picture.
      recall: float64 ``[10, K, A, L]``, the largest that is reached.
      limits: ``L`` numbers, the last one is that of the average precision.
    """

    precision: np.ndarray
    recall: np.ndarray
    limits: tuple[int, ...]


def curves(
    truth: Mapping[str, Any],
    detections: Mapping[str, Any],
    *,
    classes: int = 0,
    limits: Sequence[int] = LIMITS,
    size_limits: Sequence[float] = SIZE_LIMITS,
) -> Curves:
    """Matches detections with the truth of a split, each picture once.

    An object that is ignored is a crowd: what lies in it, by the share of its own area,
    is neither hit nor miss.

    Args:
      truth: ``stored`` (or ``boxes``) float ``[n, M, 4]``, left, top, right and bottom
        in pixels of the stored picture; ``classes`` int ``[n, M]`` from 0; ``valid``
        and ``ignored`` bool ``[n, M]``; ``area`` float ``[n, M]``, by which objects are
        small or large; the box's own where it is not above 0.
      detections: ``boxes`` float ``[n, D, 4]`` likewise, ``scores`` float ``[n, D]``,
        ``classes`` and ``valid`` ``[n, D]``. Of equal scores the first goes first.
      classes: how many there are, at least; 0 for as many as are seen.
      limits: rising; detections of a class in a picture that count.
      size_limits: sides of a square between small, medium and large objects, pixels.

    Raises:
      ValueError: shapes that do not fit, boxes or scores that are not finite.

    >>> box = np.array([[[10.0, 10, 30, 40]]])
    >>> truth = {"stored": box, "classes": np.zeros((1, 1), int),
    ...     "valid": np.ones((1, 1), bool), "ignored": np.zeros((1, 1), bool),
    ...     "area": np.full((1, 1), 600.0)}
    >>> found = curves(truth, {**truth, "boxes": box, "scores": np.ones((1, 1))})
    >>> [round(figures(found)[k], 6) for k in ("ap", "ap_small", "ap_large")]
    [1.0, 1.0, nan]
    """
    import hotcoco  # only evaluation needs it

    name = "stored" if "stored" in truth else "boxes"
    found = _flat(truth, name, "truth", ("ignored", "area"))
    seen = _flat(detections, "boxes", "detections", ("scores",))
    pictures = len(truth["valid"])
    if len(detections["valid"]) != pictures:
        raise ValueError(
            f"detections: found {len(detections['valid'])} pictures, expected those "
            f"{pictures} of the truth"
        )
    valid = np.asarray(truth["valid"], bool)
    area = np.asarray(truth["area"], np.float64)[valid]
    own = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    scores = np.asarray(detections["scores"], np.float64)[
        np.asarray(detections["valid"], bool)
    ]
    if not np.isfinite(scores).all():
        raise ValueError("detections: found scores that are not finite")
    most = max(classes, 1, *(int(x.classes.max(initial=-1)) + 1 for x in (found, seen)))
    # All numbers are ours, from 1: evaluators take an id of 0 for no match.
    reference = hotcoco.COCO.from_arrays(
        [{"id": i + 1} for i in range(pictures)],
        [{"id": k + 1, "name": str(k)} for k in range(most)],
        found.pictures + 1,
        found.classes + 1,
        _with_sides(found.boxes),
        ids=np.arange(len(found.boxes)) + 1,
        area=np.where(area > 0, area, own),
        iscrowd=np.asarray(truth["ignored"], bool)[valid].astype(np.int64),
    )
    table = np.column_stack(
        [seen.pictures + 1, _with_sides(seen.boxes), scores, seen.classes + 1]
    )
    small, large = (float(side) ** 2 for side in size_limits)
    evaluator = hotcoco.COCOeval(reference, reference.load_res(table), "bbox")
    params = evaluator.params
    params.img_ids = list(range(1, pictures + 1))
    params.cat_ids = list(range(1, most + 1))
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
    counted = evaluator.eval or {}
    precision = np.array(counted["precision"], np.float64)
    recall = np.array(counted["recall"], np.float64)
    # It says -1 for what is undefined.
    precision[precision < 0], recall[recall < 0] = np.nan, np.nan
    return Curves(precision, recall, tuple(params.max_dets))


class _Boxes(NamedTuple):
    pictures: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def _flat(
    given: Mapping[str, Any], name: str, where: str, others: Sequence[str]
) -> _Boxes:
    valid = np.asarray(given["valid"], bool)
    boxes = np.asarray(given[name], np.float64)
    for key in ("classes", *others):
        if np.shape(given[key]) != valid.shape:
            raise ValueError(
                f"{where}: found {key} of shape {np.shape(given[key])}, expected that "
                f"of valid, {valid.shape}"
            )
    if boxes.shape != (*valid.shape, 4) or valid.ndim != 2:
        raise ValueError(
            f"{where}: found {name} of shape {boxes.shape} beside valid of "
            f"{valid.shape}, expected [n, m, 4] and [n, m]"
        )
    boxes, classes = boxes[valid], np.asarray(given["classes"])[valid].astype(np.int64)
    if not np.isfinite(boxes).all():
        raise ValueError(f"{where}: found boxes that are not finite")
    if (classes < 0).any():
        raise ValueError(f"{where}: found class {classes.min()}, expected 0 or more")
    return _Boxes(np.nonzero(valid)[0].astype(np.int64), boxes, classes)


def _with_sides(boxes: np.ndarray) -> np.ndarray:
    """Left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def figures(found: Curves) -> dict[str, float]:
    """The twelve figures of COCO; NaN for what is undefined.

    Returns:
      ``ap``, the mean over thresholds and the classes with truth; ``ap50``, ``ap75``;
      ``ap_small``, ``ap_medium``, ``ap_large``; ``ar_<limit>``, the mean recall by
      limit of detections; ``ar_small``, ``ar_medium``, ``ar_large``.

    >>> one = Curves(np.ones((10, 101, 2, 4, 3)), np.ones((10, 2, 4, 3)), (1, 10, 100))
    >>> one.precision[:, :, 1] = np.nan
    >>> figures(one)["ap"], figures(one)["ar_100"]
    (1.0, 1.0)
    """
    precision = found.precision[..., -1]
    result = {
        "ap": _mean(precision[:, :, :, 0]),
        "ap50": _mean(precision[0, :, :, 0]),
        "ap75": _mean(precision[5, :, :, 0]),
    }
    for a, size in enumerate(SIZES, 1):
        result[f"ap_{size}"] = _mean(precision[:, :, :, a])
    for i, limit in enumerate(found.limits):
        result[f"ar_{limit}"] = _mean(found.recall[:, :, 0, i])
    for a, size in enumerate(SIZES, 1):
        result[f"ar_{size}"] = _mean(found.recall[:, :, a, -1])
    return result


def by_class(found: Curves, at: int | None = None) -> np.ndarray:
    """Average precision of each class, float64 ``[K]``; NaN without an object.

    Args:
      found: of a split.
      at: one threshold alone, 0 for .50, 5 for .75; all by default.
    """
    precision = found.precision[..., 0, -1]
    precision = precision if at is None else precision[at : at + 1]
    return np.array([_mean(precision[:, :, k]) for k in range(precision.shape[2])])


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")


def best_ap(truth: Mapping[str, Any], limit: int) -> tuple[float, int]:
    """What a perfect detector has where only so many of its detections count.

    Args:
      truth: as of :func:`curves`.
      limit: detections of a class in a picture.

    Returns:
      Average precision, NaN without an object, and the number of pictures with more
      objects of a class than ``limit``.

    >>> many = {"classes": np.zeros((1, 130), int), "valid": np.ones((1, 130), bool),
    ...     "ignored": np.zeros((1, 130), bool)}
    >>> best = best_ap(many, 100)
    >>> round(best[0], 5), best[1]
    (0.76238, 1)
    """
    counted = np.asarray(truth["valid"], bool) & ~np.asarray(truth["ignored"], bool)
    pictures, columns = np.nonzero(counted)
    classes = np.asarray(truth["classes"])[pictures, columns]
    each, counts = np.unique([pictures, classes], axis=1, return_counts=True)
    reached = np.bincount(each[1], np.minimum(counts, limit))
    total = np.bincount(each[1], counts)
    recall = reached[total > 0] / total[total > 0]
    # Precision is 1 at each level of recall that is reached, and 0 above.
    share = (LEVELS[None] <= recall[:, None]).mean(1)
    over = len(np.unique(each[0][counts > limit]))
    return (float(share.mean()) if share.size else float("nan")), over


def warn_of_limit(
    truth: Mapping[str, Any], limit: int, most: int | None, where: str
) -> None:
    """Says in the log where pictures have more objects than detections count.

    Args:
      truth: as of :func:`curves`.
      limit: detections of a class in a picture.
      most: those of all classes in a picture that a task keeps; None for any number.
      where: name of the split.
    """
    best, over = best_ap(truth, limit)
    if over:
        LOG.warning(
            "%s: %d pictures have more than %d objects of a class; figures count %d "
            "detections, so that the best ap is %.5f",
            where,
            over,
            limit,
            limit,
            best,
        )
    counted = np.asarray(truth["valid"], bool) & ~np.asarray(truth["ignored"], bool)
    each = counted.sum(1)
    if most is not None and (each > most).any():
        LOG.warning(
            "%s: %d pictures have more than %d objects of all classes, up to %d; no "
            "more than %d detections of a picture are kept (task.options.most)",
            where,
            (each > most).sum(),
            most,
            each.max(),
            most,
        )
