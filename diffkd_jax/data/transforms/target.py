"""The value that says how one kind of target follows its images."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...config.data import DataConfig
from ..split import Split
from .draws import Draws

Batch = dict[str, Any]


def _any(options: DataConfig) -> None:
    """Accepts all fields."""


def _unchanged(split: Split, options: DataConfig, about: "SplitInfo") -> Split:
    """Returns the split."""
    del options, about
    return split


class SplitInfo(NamedTuple):
    """The name, classes and use of a split that a transform inspects.

    Attributes:
      name: name of the split, for messages.
      class_names: names of the classes, or their numbers as text.
      train: whether the split is trained on.
      evaluate: whether the split is evaluated on.
    """

    name: str
    class_names: tuple[str, ...]
    train: bool
    evaluate: bool


class TargetTransform(NamedTuple):
    """A way in which one kind of target follows its images in training and evaluation.

    :func:`diffkd_jax.data.transforms.follow_views` makes one for a kind of
    target that can be computed from the view of each image, such as keypoints.

    Attributes:
      name: plural noun for messages, such as ``boxes``.
      is_of: ``target -> bool``, whether a target of a split is of this kind.
      train: ``(batch, draws, options) -> batch``. It takes a batch of a split, and
        returns it augmented: ``image`` uint8 ``[n, h, w, c]``, ``target`` as arrays
        ``[n, ...]``, and ``failed`` bool ``[n]``, true for images that do not decode.
        If images are padded, ``size`` int32 ``[n, 2]`` is height and width without
        padding. All randomness comes from ``draws``.
      evaluate: ``(batch, options) -> batch``, the same without randomness.
      check: ``options -> None``, raises a ValueError for fields of the section ``data``
        that this kind cannot follow.
      inspect: ``(split, options, about) -> split``, looks at a split before a run, logs
        what is unusual, and raises a ValueError for what cannot be right.
      own_size: whether the size of training images is measured on an example that
        ``train`` returns. If false, they have ``data.image_size`` or else the size of
        evaluation images, unless ``data.train_size`` or ``data.canvas`` is set.
    """

    name: str
    is_of: Callable[[Mapping[str, Any]], bool]
    train: Callable[[Batch, Draws, DataConfig], Batch]
    evaluate: Callable[[Batch, DataConfig], Batch]
    check: Callable[[DataConfig], None] = _any
    inspect: Callable[[Split, DataConfig, SplitInfo], Split] = _unchanged
    own_size: bool = True
