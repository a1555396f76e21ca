"""Masks that follow their images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...config.data import DataConfig
from ..images.decoding import decode_image
from ..images.encoded import ImageLike
from ..images.exif import turn_upright
from ..images.headers import read_orientation
from ..images.mask_rules import VOID, WrongMask
from ..images.masks import EncodedMask, read_mask
from ..split import Split
from . import mask_survey, views
from .draws import Draws
from .target import Batch, SplitInfo, TargetTransform
from .viewed import ExampleView, evaluate_views, name_image, train_views
from .viewed_targets import check_views
from .views import Size


def has_masks(target: Mapping[str, Any]) -> bool:
    """Returns whether a target holds a mask for each image.

    Args:
      target: target of some examples.

    >>> has_masks({"label": np.zeros(2)})
    False
    """
    label = target.get("label", ())
    if isinstance(label, np.ndarray):
        return label.ndim == 3
    return len(label) > 0 and isinstance(label[0], EncodedMask | np.ndarray)


def _check_masked(options: DataConfig) -> None:
    """Refuses options that images with masks cannot follow.

    Args:
      options: the section ``data`` of a config.

    Raises:
      ValueError: names the field.
    """
    check_views(
        options,
        "for images with masks",
        ("scale_crop_flip",),
        {
            "image_size": "data.train_size is the size to train on",
            "eval_size": "data.canvas is the size to evaluate on",
            "resize": "",
        },
    )


class _Masks:
    """The masks of a batch, each decoded together with its image."""

    def __init__(self, labels: Sequence[EncodedMask | np.ndarray]) -> None:
        self.labels = labels
        self.classes: list[np.ndarray | None] = [None] * len(labels)

    def decode(self, row: int, image: ImageLike) -> np.ndarray:
        """Decodes an image and its mask."""
        pixels, self.classes[row] = decode_pair(image, self.labels[row])
        return pixels

    def follow(
        self, target: Any, example_views: Sequence[ExampleView | None], size: Size
    ) -> Any:
        """Returns the masks as their views show them; void if an example failed."""
        mask = np.full((len(example_views), *size), VOID, np.uint8)
        for row, (example, classes) in enumerate(
            zip(example_views, self.classes, strict=True)
        ):
            if example is not None and classes is not None:
                mask[row] = views.view_mask(example.view, classes)
        return {**target, "label": mask}


def _train(batch: Batch, draws: Draws, options: DataConfig) -> Batch:
    """Augments a batch with masks."""
    masks = _Masks(batch["target"]["label"])
    return train_views(batch, draws, options, masks.follow, decode=masks.decode)


def _evaluate(batch: Batch, options: DataConfig) -> Batch:
    """Pads a batch with masks."""
    masks = _Masks(batch["target"]["label"])
    return evaluate_views(batch, options, masks.follow, decode=masks.decode)


def _inspect(split: Split, options: DataConfig, about: SplitInfo) -> Split:
    """Inspects some masks of a split, and makes it check those that are arrays."""
    if about.train or about.evaluate:
        canvas = options.canvas if about.evaluate else None
        mask_survey.inspect_masks(split, about.class_names, about.name, canvas)
    return check_arrays(split, len(about.class_names))


def check_arrays(split: Split, classes: int) -> Split:
    """Returns a split whose masks are checked when they are read, if they are arrays.

    Args:
      split: a split with masks.
      classes: number of classes.

    Raises:
      WrongMask: by its ``fetch``, a value that is not a class.
    """

    def fetch(rows: np.ndarray) -> dict[str, Any]:
        batch = split.fetch(rows)
        for row, mask in zip(rows, batch["target"]["label"], strict=True):
            if isinstance(mask, np.ndarray):
                wrong = mask[(mask >= classes) & (mask != VOID)]
                if wrong.size:
                    raise WrongMask(
                        f"{split.name(int(row))}: found the value {wrong.max()} in its "
                        f"mask, expected 0 to {classes - 1} for {classes} classes, or "
                        "255 for void"
                    )
        return batch

    return split._replace(fetch=fetch)


def decode_pair(
    image: ImageLike, mask: EncodedMask | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the image and the mask of one example, which must be of one size.

    An image with an EXIF orientation is turned as a viewer shows it if its mask then
    has its size. If the mask fits both ways, the rule of the mask decides.

    Args:
      image: array or file.
      mask: uint8 ``[h, w]``, or a file.

    Returns:
      uint8 ``[h, w, c]`` and ``[h, w]``.

    Raises:
      UnreadableImage: a file does not decode.
      WrongMask: the mask has another size, or values that are not classes.

    >>> pixels, classes = decode_pair(
    ...     np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8))
    >>> pixels.shape, classes.shape
    ((2, 3, 3), (2, 3))
    """
    if isinstance(mask, EncodedMask):
        classes, name, turn = read_mask(mask), mask.name, mask.rule.turn
    else:
        classes, name, turn = mask, "mask", True
        if mask.dtype != np.uint8 or mask.ndim != 2:
            raise WrongMask(
                f"mask of {name_image(image)}: found {mask.dtype} {mask.shape}, "
                "expected uint8 [h, w]"
            )
    pixels = turn_upright(
        decode_image(image), read_orientation(image), classes.shape, turn
    )
    if pixels.shape[:2] != classes.shape:
        raise WrongMask(
            f"{name}: found {classes.shape[1]}x{classes.shape[0]} pixels for "
            f"{name_image(image)} of {pixels.shape[1]}x{pixels.shape[0]}, expected one "
            "size (width x height)"
        )
    return pixels, classes


MASKS = TargetTransform("masks", has_masks, _train, _evaluate, _check_masked, _inspect)
