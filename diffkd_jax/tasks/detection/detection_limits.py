"""The loss of average precision by limits on the number of detections."""

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

LOG = logging.getLogger(__name__)
LEVELS = np.linspace(0.0, 1.0, 101)  # of recall, at which precision is read


def best_ap(truth: Mapping[str, ArrayLike], limit: int) -> tuple[float, int]:
    """Returns the AP that a perfect detector reaches under a limit of detections.

    Args:
      truth: the objects of a split, see
        :func:`diffkd_jax.tasks.detection.average_precision.curves`.
      limit: largest number of detections that count for each class in each image.

    Returns:
      The average precision, NaN without an object; and the number of images with more
      than ``limit`` objects of a class.

    >>> many = {"classes": np.zeros((1, 130), int), "valid": np.ones((1, 130), bool),
    ...     "ignored": np.zeros((1, 130), bool)}
    >>> best = best_ap(many, 100)
    >>> round(best[0], 5), best[1]
    (0.76238, 1)
    """
    image_rows, columns = np.nonzero(_scored(truth))
    classes = np.asarray(truth["classes"])[image_rows, columns]
    pairs, counts = np.unique([image_rows, classes], axis=1, return_counts=True)
    reached = np.bincount(pairs[1], np.minimum(counts, limit))
    total = np.bincount(pairs[1], counts)
    recall = reached[total > 0] / total[total > 0]
    # Precision is 1 at each level of recall that is reached, and 0 above.
    share = (LEVELS[None] <= recall[:, None]).mean(1)
    crowded_images = len(np.unique(pairs[0][counts > limit]))
    return (float(share.mean()) if share.size else float("nan")), crowded_images


def warn_of_limit(
    truth: Mapping[str, ArrayLike], limit: int, most: int | None, split: str
) -> None:
    """Logs warnings if images have more objects than a limit of detections allows.

    The first limit is that of COCO, the second that of the task.

    Args:
      truth: the objects of a split, see
        :func:`diffkd_jax.tasks.detection.average_precision.curves`.
      limit: largest number of detections that count for each class in each image.
      most: largest number of detections that the task keeps for each image, over all
        classes; None if it keeps all.
      split: name of the split.

    >>> few = {"classes": np.zeros((1, 2), int), "valid": np.ones((1, 2), bool),
    ...     "ignored": np.zeros((1, 2), bool)}
    >>> warn_of_limit(few, 100, None, "val")
    """
    best, crowded_images = best_ap(truth, limit)
    if crowded_images:
        LOG.warning(
            "%s: %d images have more than %d objects of a class; only %d detections of "
            "a class in an image count, so that the best possible ap is %.5f",
            split,
            crowded_images,
            limit,
            limit,
            best,
        )
    objects = _scored(truth).sum(1)
    if most is not None and (objects > most).any():
        LOG.warning(
            "%s: %d images have more than %d objects of all classes, up to %d; at most "
            "%d detections of an image are kept (task.options.most)",
            split,
            (objects > most).sum(),
            most,
            objects.max(),
            most,
        )


def _scored(truth: Mapping[str, ArrayLike]) -> np.ndarray:
    """Marks the objects that a detector should find: bool ``[n, M]``."""
    return np.asarray(truth["valid"], bool) & ~np.asarray(truth["ignored"], bool)
