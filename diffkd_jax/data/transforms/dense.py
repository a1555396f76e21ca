"""Transforms of pictures with a mask or boxes, and of those that are padded."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...config.data import Data as Options
from ..images.decoding import (
    Encoded,
    ImageLike,
    UnreadableImage,
    decode_image,
    read_orientation,
)
from ..images.exif import upright
from ..images.masks import VOID, EncodedMask, WrongMask, read_mask
from ..split import Split
from . import boxes as boxed
from . import views as geometry
from .draws import Draws
from .views import Size, View

Batch = dict[str, Any]


def has_masks(batch: Mapping[str, Any]) -> bool:
    """Whether the target of a batch holds a mask a picture.

    >>> has_masks({"target": {"label": np.zeros(2)}})
    False
    """
    label = batch.get("target", {}).get("label", ())
    if isinstance(label, np.ndarray):
        return label.ndim == 3
    return len(label) > 0 and isinstance(label[0], EncodedMask | np.ndarray)


def check_masked(data: Options) -> None:
    """Refuses what is for pictures with one class each.

    Args:
      data: section ``data`` of a config.

    Raises:
      ValueError: names the field.
    """
    boxed.check_views(
        data,
        "for pictures with masks",
        ("scale_crop_flip",),
        {
            "image_size": "data.train_size is the size to train on",
            "eval_size": "data.canvas is the size to evaluate on",
            "resize": "",
        },
    )


def checked(split: Split, classes: int) -> Split:
    """A split whose masks, where they come as arrays, are looked at when fetched.

    Raises:
      WrongMask: by its ``fetch``, a value that is no class.
    """

    def fetch(rows):
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


def draw_views(batch: Batch, draws: Draws, data: Options) -> Batch:
    """Draws one view of each example, for its image, its mask and its boxes alike.

    Args:
      batch: as of a split.
      draws: where the randomness comes from.
      data: section ``data`` of a config.

    Returns:
      The batch with ``image`` uint8 ``[n, *train_size, c]``; ``target`` with ``label``
      uint8 ``[n, *train_size]``, or as of
      :func:`diffkd_jax.data.transforms.boxes.to_train_on`; ``size`` int32 ``[n, 2]``,
      where pictures may be padded, and beside boxes; ``failed`` bool ``[n]``.

    Raises:
      WrongMask: a mask that cannot be right.
      ValueError: pictures of different sizes without ``data.train_size``.
    """
    options: dict[str, Any] = {"flip": data.flip and data.augment != "none"}
    if data.augment == "scale_crop_flip":
        options |= {"scale": tuple(data.scale), "step": data.scale_step}
    shorter = tuple(data.train_resize) or (data.resize,)

    def view(size, rng):
        canvas = canvas_of(size, data.train_size, data.two_canvases)
        if data.augment != "resize_flip":
            return geometry.draw_view(size, rng, canvas=canvas or size, **options)
        side = shorter[int(rng.integers(len(shorter)))]
        flip = bool(rng.random() < 0.5) and data.flip
        found = geometry.fit_view(size, side, data.resize_longest, canvas, flip=flip)
        return _fitting(found, size)

    views = [partial(view, rng=rng) for rng in draws.generators()]
    target_of = partial(boxed.to_train_on, most=data.max_objects)
    return _seen(batch, views, tuple(data.train_size), "train_size", target_of)


def pad_images(batch: Batch, data: Options) -> Batch:
    """Pads whole images to ``data.canvas``, if it is set.

    Where ``data.resize`` is set, they are resized before by one factor for both sides.

    Args:
      batch: as of a split.
      data: section ``data`` of a config.

    Returns:
      The batch as of :func:`draw_views`, with ``size`` where there is a canvas, and
      beside boxes. Boxes are as of
      :func:`diffkd_jax.data.transforms.boxes.to_evaluate`.

    Raises:
      WrongMask: a mask that cannot be right.
      ValueError: pictures larger than the canvas, or of different sizes without one.
    """

    def view(size):
        canvas = canvas_of(size, data.canvas, data.two_canvases)
        if data.resize:
            found = geometry.fit_view(size, data.resize, data.resize_longest, canvas)
        else:
            found = geometry.whole_view(size, canvas or size)
        return _fitting(found, size)

    views = [view] * len(batch["image"])
    return _seen(batch, views, tuple(data.canvas), "canvas", boxed.to_evaluate)


def canvas_of(size: Size, canvas: Sequence[int], two: bool) -> Size | None:
    """The canvas of a picture, if any: where there are two, that of its orientation.

    >>> canvas_of((6, 4), (4, 8), True), canvas_of((4, 6), (4, 8), True)
    ((8, 4), (4, 8))
    """
    if not canvas:
        return None
    short, long = canvas
    return (long, short) if two and size[0] > size[1] else (short, long)


def _fitting(view: View, size: Size) -> View:
    if view.whole[0] > view.canvas[0] or view.whole[1] > view.canvas[1]:
        raise _TooLarge(view, size)
    return view


class _TooLarge(Exception):
    """A picture that does not fit its canvas: its view, and its own size."""


def _seen(
    batch: Batch,
    views: Sequence[Callable[[tuple[int, int]], View]],
    canvas: tuple[int, ...],
    field: str,
    target_of: Callable[..., Any],
) -> Batch:
    """A batch by one view an example; failed examples are black and void."""
    pictures, masked = batch["image"], has_masks(batch)
    boxes = boxed.has_boxes(batch)
    labels = batch["target"]["label"] if masked else [None] * len(pictures)
    seen: list[tuple | None] = []
    for picture, label, view in zip(pictures, labels, views, strict=True):
        try:
            pixels, classes = pair(picture, label)
            where = view(pixels.shape[:2])
        except UnreadableImage:
            seen.append(None)
            continue
        except _TooLarge as error:
            where, size = error.args
            resized = "" if where.whole == size else f" of {_size(size)}, resized"
            raise ValueError(
                f"data.{field}: found {where.canvas}, expected at least {where.whole}, "
                f"height and width of {name_image(picture)}{resized}"
            ) from None
        mask = None if classes is None else geometry.see_mask(where, classes)
        size = pixels.shape[:2]
        seen.append((geometry.see(where, pixels), mask, where.shown, (where, size)))
    good = [one for one in seen if one is not None]
    shapes = {one[0].shape for one in good}
    if len(shapes) > 1:
        raise ValueError(
            f"data.{field}: found () for pictures of sizes {sorted(shapes)[:4]}, "
            "expected a height and a width"
        )
    # Where nothing decodes, only a canvas has a size.
    shape = shapes.pop() if shapes else (*(canvas or (0, 0)), _channels(pictures[0]))
    image = np.zeros((len(seen), *shape), np.uint8)
    mask = np.full((len(seen), *shape[:2]), VOID, np.uint8)
    size = np.zeros((len(seen), 2), np.int32)
    for i, one in enumerate(seen):
        if one is not None:
            image[i], size[i] = one[0], one[2]
            if masked:
                mask[i] = one[1]
    failed = np.array([one is None for one in seen])
    batch = batch | {"image": image, "failed": failed}
    if canvas or boxes:
        batch["size"] = size
    if boxes:
        views_of = [None if one is None else one[3] for one in seen]
        batch["target"] = target_of(batch["target"], views_of)
    if masked:
        batch["target"] = batch["target"] | {"label": mask}
    return batch


def pair(
    picture: ImageLike, mask: EncodedMask | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels and classes of one example, of the same size.

    A picture with an EXIF orientation is turned as a viewer shows it where its mask has
    that size; where both sizes are the same, unless the mask's rule says no.

    Returns:
      uint8 ``[h, w, c]`` and ``[h, w]``, or None without a mask.

    Raises:
      UnreadableImage: a file that does not decode.
      WrongMask: a mask of another size, or with values that are no class.
    """
    if mask is None:
        return decode_image(picture), None
    if isinstance(mask, EncodedMask):
        classes, name, turn = read_mask(mask), mask.name, mask.rule.turn
    else:
        classes, name, turn = mask, "mask", True
        if mask.dtype != np.uint8 or mask.ndim != 2:
            raise WrongMask(
                f"mask of {name_image(picture)}: found {mask.dtype} {mask.shape}, "
                "expected uint8 [h, w]"
            )
    pixels = upright(
        decode_image(picture), read_orientation(picture), classes.shape, turn
    )
    if pixels.shape[:2] != classes.shape:
        raise WrongMask(
            f"{name}: found {_sides(classes)} pixels for "
            f"{name_image(picture)} of {_sides(pixels)}, expected one size (width x "
            "height)"
        )
    return pixels, classes


def name_image(picture: ImageLike) -> str:
    """Names an image in a message."""
    return picture.name if isinstance(picture, Encoded) else "its picture"


def _channels(picture: ImageLike) -> int:
    return picture.channels if isinstance(picture, Encoded) else picture.shape[-1]


def _sides(pixels: np.ndarray) -> str:
    return _size(pixels.shape)


def _size(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"
