"""Augmentation of training examples, and what evaluation does in its place.

There is one value for each kind of target; the kind of a data set is recognised once,
when it is opened. A data set of one's own may bring a kind of its own, see
:class:`diffkd_jax.data.transforms.target.TargetTransform`.
"""

from collections.abc import Mapping
from typing import Any

from .boxes import BOXES
from .labels import LABELS
from .masks import MASKS
from .target import TargetTransform
from .viewed_targets import follow_views

__all__ = [
    "BOXES",
    "LABELS",
    "MASKS",
    "TargetTransform",
    "follow_views",
    "recognise_target",
]


def recognise_target(target: Mapping[str, Any]) -> TargetTransform:
    """Returns the transform for a target: of boxes, of masks, or of labels.

    Args:
      target: target of some examples, as a split returns it.

    >>> import numpy as np
    >>> recognise_target({"label": np.zeros((2, 4, 4), np.uint8)}).name
    'masks'
    """
    return next((kind for kind in (BOXES, MASKS) if kind.is_of(target)), LABELS)
