"""Where an example is looked at: drawn once, for picture, mask and boxes alike."""

from typing import NamedTuple

import cv2
import numpy as np

from ..images.decoding import MAX_PIXELS, UnreadableImage
from ..images.masks import VOID
from ..images.resize import mirror

Size = tuple[int, int]  # height, width


class View(NamedTuple):
    """A part of a resized picture.

    Attributes:
      whole: size of the resized picture, pixels.
      top, left: of the window in it.
      shown: size of the window; less than ``canvas`` where the picture is smaller.
      canvas: size of the result, padded on the right and at the bottom.
      flip: whether left and right are exchanged in the window, before it is padded.
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
    """Draws a random view: scaled, cropped, and mirrored one half of the time.

    Deviation: the picture is mirrored before it is padded, so that padding is always on
    the right; it counts neither way.

    Args:
      size: height and width of the picture.
      rng: source of the draws.
      canvas: size of the result.
      scale: least and largest factor of the size.
      step: between the factors, which are ``scale[0] + k * step``; 0 for any between.
      flip: whether to mirror.

    Raises:
      UnreadableImage: one that would be resized to more than :data:`MOST_PIXELS`.

    >>> draw_view((4, 6), np.random.default_rng(0), canvas=(3, 8), flip=False)
    View(whole=(4, 6), top=1, left=0, shown=(3, 6), canvas=(3, 8), flip=False)
    """
    least, most = scale
    if step:
        count = int((most - least) / step + 1e-6) + 1
        factor = least + step * int(rng.integers(count))
    else:
        factor = rng.uniform(least, most)
    height, width = (max(1, round(side * factor)) for side in size)
    if height * width > MAX_PIXELS:
        raise UnreadableImage(
            f"picture: found {size[1]}x{size[0]} pixels, too many to be resized by "
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
      size: height and width of the picture.
      short: pixels of its shorter side afterwards, if the longer one allows.
      longest: the most that its longer side may have; 0 for any length.
      canvas: size of the result; of the resized picture itself by default.
      flip: whether to mirror.

    Raises:
      UnreadableImage: one that would be resized to more than :data:`MOST_PIXELS`.

    >>> fit_view((480, 640), 800, 1333).whole, fit_view((400, 1600), 800, 1333).whole
    ((800, 1067), (333, 1333))
    """
    factor = short / min(size)
    if longest:
        factor = min(factor, longest / max(size))
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    if height * width > MAX_PIXELS:
        raise UnreadableImage(
            f"picture: found {size[1]}x{size[0]} pixels, too narrow to be resized to "
            f"{short}"
        )
    shown = height, width
    return View(shown, 0, 0, shown, canvas or shown, flip)


def whole_view(size: Size, canvas: Size) -> View:
    """Returns a view of a whole image, padded to ``canvas``, in which it fits.

    >>> whole_view((4, 6), (8, 8)).shown
    (4, 6)
    """
    return View(size, 0, 0, size, canvas)


def see(view: View, picture: np.ndarray) -> np.ndarray:
    """A picture as viewed, resized bilinearly; black where it is padded.

    Args:
      view: see :func:`draw_view`.
      picture: uint8 ``[h, w, c]``.

    Returns:
      uint8 ``[*view.canvas, c]``.
    """
    if picture.shape[:2] != view.whole:
        picture = cv2.resize(
            picture, view.whole[::-1], interpolation=cv2.INTER_LINEAR
        ).reshape(*view.whole, -1)
    return _framed(view, picture, 0)


def see_mask(view: View, mask: np.ndarray) -> np.ndarray:
    """A mask as viewed: the class at the nearest centre, void where it is padded.

    Args:
      view: see :func:`draw_view`.
      mask: uint8 ``[h, w]``.

    Returns:
      uint8 ``view.canvas``.

    >>> see_mask(View((2, 2), 0, 0, (2, 2), (2, 3), True), np.array([[1, 2]], np.uint8))
    array([[  2,   1, 255],
           [  2,   1, 255]], dtype=uint8)
    """
    if mask.shape != view.whole:
        # Between centres, as bilinear resizing: INTER_NEAREST is half a pixel off.
        kind = cv2.INTER_NEAREST_EXACT
        mask = cv2.resize(mask, view.whole[::-1], interpolation=kind)
    return _framed(view, mask[..., None], VOID)[..., 0]


def see_boxes(view: View, boxes: np.ndarray, size: Size) -> np.ndarray:
    """Boxes as viewed, clipped to the window: what lies outside has no area.

    Args:
      view: see :func:`draw_view`.
      boxes: float ``[m, 4]``: left, top, right, bottom in pixels of the picture.
      size: height and width of the picture.

    Returns:
      float32 ``[m, 4]``, in pixels of the canvas.

    >>> see_boxes(View((4, 8), 0, 2, (4, 6), (8, 8), True), [[0, 0, 2, 1]], (2, 4))
    array([[4., 0., 6., 2.]], dtype=float32)
    """
    down, right = factors(view, size)
    moved = np.asarray(boxes, np.float64) * (right, down, right, down)
    moved -= (view.left, view.top, view.left, view.top)
    height, width = view.shown
    moved = np.clip(moved, 0, (width, height, width, height))
    if view.flip:
        moved = np.stack(
            [width - moved[:, 2], moved[:, 1], width - moved[:, 0], moved[:, 3]], 1
        )
    return moved.astype(np.float32)


def factors(view: View, size: Size) -> tuple[float, float]:
    """Pixels of the canvas for one of the picture, down and right."""
    return view.whole[0] / size[0], view.whole[1] / size[1]


def _framed(view: View, pixels: np.ndarray, fill: int) -> np.ndarray:
    (height, width), top, left = view.shown, view.top, view.left
    window = pixels[top : top + height, left : left + width]
    if view.flip:
        window = mirror(np.ascontiguousarray(window))
    if view.shown == view.canvas:
        return np.ascontiguousarray(window)
    framed = np.full((*view.canvas, pixels.shape[-1]), fill, np.uint8)
    framed[:height, :width] = window
    return framed
