"""Views: the part of a resized image that is shown, with its mask, boxes and points."""

from typing import Any, NamedTuple

import cv2
import numpy as np

from ..images.encoded import UnreadableImage
from ..images.headers import MAX_PIXELS
from ..images.mask_rules import VOID
from ..images.resize import mirror

Size = tuple[int, int]  # height, width


class View(NamedTuple):
    """A part of a resized image.

    Attributes:
      whole: height and width of the resized image, in pixels.
      top: first row of the window.
      left: first column of the window.
      shown: height and width of the window; less than ``canvas`` if the image is
        smaller.
      canvas: height and width of the result, padded on the right and at the bottom.
      flip: whether left and right are swapped in the window, before it is padded.

    >>> View(whole=(4, 6), top=0, left=2, shown=(4, 4), canvas=(8, 8)).flip
    False
    """

    whole: Size
    top: int
    left: int
    shown: Size
    canvas: Size
    flip: bool = False


def draw_view(
    size: Size,
    rng: np.random.Generator,
    *,
    canvas: Size,
    scale: tuple[float, float] = (1.0, 1.0),
    step: float = 0.0,
    flip: bool = True,
) -> View:
    """Draws a random view: scaled, cropped, and mirrored in half of the cases.

    Deviation: the image is mirrored before it is padded, so padding is always on the
    right. Padding does not count either way.

    Args:
      size: height and width of the image.
      rng: source of the draws.
      canvas: height and width of the result.
      scale: smallest and largest factor of the size.
      step: step between factors, which are ``scale[0] + k * step``; 0 for any factor.
      flip: whether to mirror.

    Raises:
      UnreadableImage: the image would be resized to more than ``MAX_PIXELS`` pixels.

    >>> draw_view((4, 6), np.random.default_rng(0), canvas=(3, 8), flip=False)
    View(whole=(4, 6), top=1, left=0, shown=(3, 6), canvas=(3, 8), flip=False)
    """
    smallest, largest = scale
    if step:
        count = int((largest - smallest) / step + 1e-6) + 1
        factor = smallest + step * int(rng.integers(count))
    else:
        factor = rng.uniform(smallest, largest)
    height, width = (max(1, round(side * factor)) for side in size)
    if height * width > MAX_PIXELS:
        raise UnreadableImage(
            f"image: found {size[1]}x{size[0]} pixels, too many to be resized by "
            f"{factor:g}"
        )
    shown = min(height, canvas[0]), min(width, canvas[1])
    top = int(rng.integers(height - shown[0] + 1))
    left = int(rng.integers(width - shown[1] + 1))
    mirrored = bool(rng.random() < 0.5) and flip
    return View((height, width), top, left, shown, canvas, mirrored)


def fit_view(
    size: Size,
    short: int,
    longest: int,
    canvas: Size | None = None,
    *,
    flip: bool = False,
) -> View:
    """Returns a view of a whole image, resized by one factor for both sides.

    Args:
      size: height and width of the image.
      short: length of the shorter side after resizing, if the longer side allows it.
      longest: largest length of the longer side; 0 for no limit.
      canvas: height and width of the result; by default that of the resized image.
      flip: whether to mirror.

    Raises:
      UnreadableImage: the image would be resized to more than ``MAX_PIXELS`` pixels.

    >>> fit_view((480, 640), 800, 1333).whole, fit_view((400, 1600), 800, 1333).whole
    ((800, 1067), (333, 1333))
    """
    factor = short / min(size)
    if longest:
        factor = min(factor, longest / max(size))
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    if height * width > MAX_PIXELS:
        raise UnreadableImage(
            f"image: found {size[1]}x{size[0]} pixels, too narrow to be resized to "
            f"{short}"
        )
    shown = height, width
    return View(shown, 0, 0, shown, canvas or shown, flip)


def whole_view(size: Size, canvas: Size) -> View:
    """Returns a view of a whole image, padded to a canvas that contains it.

    Args:
      size: height and width of the image.
      canvas: height and width of the result.

    >>> whole_view((4, 6), (8, 8)).shown
    (4, 6)
    """
    return View(size, 0, 0, size, canvas)


def view_image(view: View, image: np.ndarray) -> np.ndarray:
    """Returns an image as viewed, resized bilinearly; padding is black.

    Args:
      view: see :func:`draw_view`.
      image: uint8 ``[h, w, c]``.

    Returns:
      uint8 ``[*view.canvas, c]``.

    >>> view = View((2, 2), 0, 0, (2, 2), (2, 3), flip=True)
    >>> view_image(view, np.array([[[1], [2]], [[3], [4]]], np.uint8))[..., 0]
    array([[2, 1, 0],
           [4, 3, 0]], dtype=uint8)
    """
    if image.shape[:2] != view.whole:
        image = cv2.resize(
            image, view.whole[::-1], interpolation=cv2.INTER_LINEAR
        ).reshape(*view.whole, -1)
    return _framed(view, image, 0)


def view_mask(view: View, mask: np.ndarray) -> np.ndarray:
    """Returns a mask as viewed, resized to the nearest pixel; padding is void.

    Args:
      view: see :func:`draw_view`.
      mask: uint8 ``[h, w]``.

    Returns:
      uint8 ``view.canvas``.

    >>> view = View((2, 2), 0, 0, (2, 2), (2, 3), flip=True)
    >>> view_mask(view, np.array([[1, 2]], np.uint8))
    array([[  2,   1, 255],
           [  2,   1, 255]], dtype=uint8)
    """
    if mask.shape != view.whole:
        # The nearest centre, as bilinear resizing has it; INTER_NEAREST is half a pixel
        # off.
        kind = cv2.INTER_NEAREST_EXACT
        mask = cv2.resize(mask, view.whole[::-1], interpolation=kind)
    return _framed(view, mask[..., None], VOID)[..., 0]


def view_boxes(view: View, boxes: Any, size: Size) -> np.ndarray:
    """Returns boxes as viewed, clipped to the window; boxes outside it have no area.

    Args:
      view: see :func:`draw_view`.
      boxes: float ``[m, 4]``: left, top, right, bottom in pixels of the image.
      size: height and width of the image.

    Returns:
      float32 ``[m, 4]``, in pixels of the canvas.

    >>> view_boxes(View((4, 8), 0, 2, (4, 6), (8, 8), True), [[0, 0, 2, 1]], (2, 4))
    array([[4., 0., 6., 2.]], dtype=float32)
    """
    down, right = resize_factors(view, size)
    moved = np.asarray(boxes, np.float64) * (right, down, right, down)
    moved -= (view.left, view.top, view.left, view.top)
    height, width = view.shown
    moved = np.clip(moved, 0, (width, height, width, height))
    if view.flip:
        moved = np.stack(
            [width - moved[:, 2], moved[:, 1], width - moved[:, 0], moved[:, 3]], 1
        )
    return moved.astype(np.float32)


def view_points(view: View, points: Any, size: Size) -> np.ndarray:
    """Returns points as viewed; points outside the window stay outside it.

    Args:
      view: see :func:`draw_view`.
      points: float ``[m, 2]``: x and y in pixels of the image.
      size: height and width of the image.

    Returns:
      float32 ``[m, 2]``, in pixels of the canvas.

    >>> view_points(View((4, 8), 0, 2, (4, 6), (8, 8), True), [[2, 1]], (2, 4))
    array([[4., 2.]], dtype=float32)
    """
    down, right = resize_factors(view, size)
    moved = np.asarray(points, np.float64) * (right, down) - (view.left, view.top)
    if view.flip:
        moved[:, 0] = view.shown[1] - moved[:, 0]
    return moved.astype(np.float32)


def resize_factors(view: View, size: Size) -> tuple[float, float]:
    """Returns the factors by which a view resizes an image: vertical and horizontal.

    Args:
      view: see :func:`draw_view`.
      size: height and width of the image.
    """
    return view.whole[0] / size[0], view.whole[1] / size[1]


def _framed(view: View, pixels: np.ndarray, fill: int) -> np.ndarray:
    """Returns the window of a resized image, mirrored and padded."""
    (height, width), top, left = view.shown, view.top, view.left
    window = pixels[top : top + height, left : left + width]
    if view.flip:
        window = mirror(np.ascontiguousarray(window))
    if view.shown == view.canvas:
        return np.ascontiguousarray(window)
    framed = np.full((*view.canvas, pixels.shape[-1]), fill, np.uint8)
    framed[:height, :width] = window
    return framed
