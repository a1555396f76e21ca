"""Batches of views: one view of each image, and the target that follows it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...config.augmentations import AUGMENTATIONS
from ...config.data import DataConfig
from ..images.decoding import decode_image
from ..images.encoded import Encoded, ImageLike, UnreadableImage
from . import views
from .draws import Draws
from .target import Batch
from .views import Size, View


class ExampleView(NamedTuple):
    """The view of one example of a batch, and the size of the example's image.

    Attributes:
      view: the view of the resized image.
      size: height and width of the image before resizing, in pixels.
    """

    view: View
    size: Size


# (target, example_views, size) -> target. There is one view for each example, None for
# an image that does not decode; ``size`` is height and width of the batch's images.
Follow = Callable[[Any, Sequence[ExampleView | None], Size], Any]
# (row, image) -> pixels uint8 [h, w, c].
Decode = Callable[[int, ImageLike], np.ndarray]


def _decode(row: int, image: ImageLike) -> np.ndarray:
    """Decodes an image, without regard to its target."""
    del row
    return decode_image(image)


def _keep(target: Any, example_views: Sequence[ExampleView | None], size: Size) -> Any:
    """Returns a target that no view changes."""
    del example_views, size
    return target


def train_views(
    batch: Batch,
    draws: Draws,
    options: DataConfig,
    follow: Follow = _keep,
    *,
    decode: Decode = _decode,
    with_size: bool = False,
) -> Batch:
    """Draws one view for each example of a batch, and applies it to image and target.

    Args:
      batch: a batch of a split.
      draws: source of the randomness.
      options: the section ``data`` of a config.
      follow: function that applies the views to the target.
      decode: function that decodes an image.
      with_size: if true, the result holds ``size`` even if no image is padded.

    Returns:
      The batch with ``image`` uint8 ``[n, *train_size, c]``, ``target`` as ``follow``
      returns it, and ``failed`` bool ``[n]``. If images may be padded, it also holds
      ``size`` int32 ``[n, 2]``: height and width without padding.

    Raises:
      ValueError: images of different sizes without ``data.train_size``.

    >>> batch = {"image": np.zeros((2, 4, 6, 3), np.uint8), "target": {}}
    >>> options = DataConfig(augment="scale_crop_flip", train_size=(8, 8))
    >>> batch = train_views(batch, Draws(0, 0, np.arange(2)), options)
    >>> batch["image"].shape, batch["size"].shape
    ((2, 8, 8, 3), (2, 2))
    """
    augmentation = AUGMENTATIONS[options.augment]
    kwargs: dict[str, Any] = {"flip": options.flip and augmentation.mirrors}
    if augmentation.scales:
        kwargs |= {"scale": tuple(options.scale), "step": options.scale_step}
    sides = tuple(options.train_resize) or (options.resize,)

    def draw(size: Size, rng: np.random.Generator) -> View:
        canvas = canvas_of(size, options.train_size, options.two_canvases)
        if not augmentation.fits:
            return views.draw_view(size, rng, canvas=canvas or size, **kwargs)
        side = sides[int(rng.integers(len(sides)))]
        flip = bool(rng.random() < 0.5) and options.flip
        view = views.fit_view(size, side, options.resize_longest, canvas, flip=flip)
        return _fitting(view, size)

    drawn = [partial(draw, rng=rng) for rng in draws.generators()]
    canvas = tuple(options.train_size)
    return _apply_views(batch, drawn, canvas, "train_size", follow, decode, with_size)


def evaluate_views(
    batch: Batch,
    options: DataConfig,
    follow: Follow = _keep,
    *,
    decode: Decode = _decode,
    with_size: bool = False,
) -> Batch:
    """Pads whole images to ``data.canvas``, if it is set, and their targets with them.

    If ``data.resize`` is set, images are resized first, by one factor for both sides.

    Args:
      batch: a batch of a split.
      options: the section ``data`` of a config.
      follow: function that applies the views to the target.
      decode: function that decodes an image.
      with_size: if true, the result holds ``size`` even if no image is padded.

    Returns:
      The batch as of :func:`train_views`.

    Raises:
      ValueError: images larger than the canvas, or of different sizes without one.

    >>> batch = {"image": np.zeros((2, 4, 6, 3), np.uint8), "target": {}}
    >>> evaluate_views(batch, DataConfig(canvas=(8, 8)))["size"].tolist()
    [[4, 6], [4, 6]]
    """

    def fit(size: Size) -> View:
        canvas = canvas_of(size, options.canvas, options.two_canvases)
        if options.resize:
            view = views.fit_view(size, options.resize, options.resize_longest, canvas)
        else:
            view = views.whole_view(size, canvas or size)
        return _fitting(view, size)

    fitted = [fit] * len(batch["image"])
    canvas = tuple(options.canvas)
    return _apply_views(batch, fitted, canvas, "canvas", follow, decode, with_size)


def canvas_of(size: Size, canvas: Sequence[int], two: bool) -> Size | None:
    """Returns the canvas of an image, or None without one.

    Args:
      size: height and width of the image.
      canvas: height and width, or ().
      two: if true, the canvas is turned for images that are higher than wide.

    >>> canvas_of((6, 4), (4, 8), True), canvas_of((4, 6), (4, 8), True)
    ((8, 4), (4, 8))
    """
    if not canvas:
        return None
    short, long = canvas
    return (long, short) if two and size[0] > size[1] else (short, long)


def name_image(image: ImageLike) -> str:
    """Names an image in a message.

    Args:
      image: an array or a file.
    """
    return image.name if isinstance(image, Encoded) else "its image"


class _TooLarge(Exception):
    """The error of an image larger than its canvas, with its view and its size."""


def _fitting(view: View, size: Size) -> View:
    """Returns a view, or refuses an image that is larger than its canvas."""
    if view.whole[0] > view.canvas[0] or view.whole[1] > view.canvas[1]:
        raise _TooLarge(view, size)
    return view


def _apply_views(
    batch: Batch,
    makers: Sequence[Callable[[Size], View]],
    canvas: tuple[int, ...],
    field: str,
    follow: Follow,
    decode: Decode,
    with_size: bool,
) -> Batch:
    """Applies one view to each example; images that do not decode are black."""
    example_views: list[ExampleView | None] = []
    windows: list[np.ndarray | None] = []
    for row, (image, make) in enumerate(zip(batch["image"], makers, strict=True)):
        try:
            pixels = decode(row, image)
            view = make(pixels.shape[:2])
        except UnreadableImage:
            example_views.append(None)
            windows.append(None)
            continue
        except _TooLarge as error:
            view, size = error.args
            resized = "" if view.whole == size else f" of {size[1]}x{size[0]}, resized"
            raise ValueError(
                f"data.{field}: found {view.canvas}, expected at least {view.whole}, "
                f"height and width of {name_image(image)}{resized}"
            ) from None
        example_views.append(ExampleView(view, pixels.shape[:2]))
        windows.append(views.view_image(view, pixels))
    shapes = {pixels.shape for pixels in windows if pixels is not None}
    if len(shapes) > 1:
        raise ValueError(
            f"data.{field}: found () for images of sizes {sorted(shapes)[:4]}, "
            "expected a height and a width"
        )
    # If no image decodes, only a canvas tells the size of the batch.
    shape = shapes.pop() if shapes else (*(canvas or (0, 0)), _channels(batch["image"]))
    result = np.zeros((len(example_views), *shape), np.uint8)
    size = np.zeros((len(example_views), 2), np.int32)
    for row, (example, window) in enumerate(zip(example_views, windows, strict=True)):
        if example is not None:
            result[row], size[row] = window, example.view.shown
    failed = np.array([example is None for example in example_views])
    batch = batch | {"image": result, "failed": failed}
    if canvas or with_size:
        batch["size"] = size
    if "target" in batch:
        batch["target"] = follow(batch["target"], example_views, (shape[0], shape[1]))
    return batch


def _channels(images: Sequence[ImageLike]) -> int:
    """Returns the number of channels of the first image."""
    first = images[0]
    return first.channels if isinstance(first, Encoded) else first.shape[-1]
