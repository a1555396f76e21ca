"""Headers of image files: formats, sizes, orientations, and limits before decoding."""

import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ...io.signatures import name_format
from .bit_depth import declare_black_zero
from .encoded import Encoded, ImageLike, decoding_errors

try:
    from PIL import AvifImagePlugin  # Pillow 11.3 and newer
except ImportError:
    AvifImagePlugin = None  # type: ignore[assignment]

# Largest number of pixels, about 256 MiB of RGB: where Pillow begins to warn.
MAX_PIXELS = 89_478_485


class _Format(NamedTuple):
    """A file format: its endings, its first bytes, and the class that opens it."""

    endings: tuple[str, ...]
    start: re.Pattern[bytes]
    open: Callable[[io.BytesIO], Any]


def _format(endings: str, start: bytes, opener: Callable[[io.BytesIO], Any]) -> _Format:
    """Returns a format from endings that are separated by spaces."""
    return _Format(tuple(endings.split()), re.compile(start, re.DOTALL), opener)


# Classes, not Image.open: that tries all of Pillow's formats, of which EPS starts
# Ghostscript, and warns of large images by way of the process's warning filters.
_FORMATS = [
    _format(".jpg .jpeg .jpe .jfif", rb"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    _format(".png", rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    _format(".gif", rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    _format(".bmp", rb"BM", BmpImagePlugin.BmpImageFile),
    _format(".ppm .pgm .pbm .pnm", rb"P[1-6]", PpmImagePlugin.PpmImageFile),
    _format(
        ".tif .tiff", rb"II[*+]\0|MM\0[*+]|MM\*\0|II\0\*", TiffImagePlugin.TiffImageFile
    ),
    _format(".webp", rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
]
if AvifImagePlugin is not None and AvifImagePlugin.SUPPORTED:
    _FORMATS += [
        _format(
            ".avif",
            rb"....ftyp(?:avi[fs]|mif1.{8,40}avi[fs])",
            AvifImagePlugin.AvifImageFile,
        )
    ]
IMAGE_ENDINGS = tuple(ending for form in _FORMATS for ending in form.endings)
# A progressive JPEG is decoded once for each scan; encoders write about ten. The
# largest image may have this many scans, smaller images more.
MAX_SCANS = 32
_HAS_EXIF = re.compile(rb"Exif\0\0|eXIf|EXIF")
# Texts of a PNG, its colour profile, and frames after the first. None is needed, and
# Pillow refuses valid images because of the size of the first two.
_NOT_NEEDED = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"acTL", b"fcTL", b"fdAT")


def read_size(image: ImageLike) -> tuple[int, int]:
    """Returns height and width in pixels; of a file only the header is read.

    Args:
      image: an array or a file.

    Raises:
      UnreadableImage: the file is not an image, or is too large.

    >>> read_size(np.zeros((2, 3, 1), np.uint8))
    (2, 3)
    """
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    with decoding_errors(image):
        if is_jpeg(image) and (size := read_jpeg_size(image)):
            return check_pixel_count(*size)
        with open_image(image) as opened:
            return opened.height, opened.width


def read_orientation(image: ImageLike) -> int:
    """Returns the EXIF orientation of a JPEG, PNG or WebP file, 1 to 8, or 1.

    Args:
      image: an array or a file.

    Raises:
      UnreadableImage: as :func:`read_size`.
    """
    if not isinstance(image, Encoded) or not _HAS_EXIF.search(image.data):
        return 1
    with decoding_errors(image), open_image(image) as opened:
        if opened.format not in ("JPEG", "PNG", "WEBP"):  # Pillow turns others itself
            return 1
        try:
            value = opened.getexif().get(274, 1)
        except Exception:  # damaged metadata is ignored
            return 1
        return value if value in range(1, 9) else 1


def is_jpeg(image: Encoded) -> bool:
    """Returns whether a file begins as a JPEG does.

    Args:
      image: the file.
    """
    return image.data[:2] == b"\xff\xd8"


def read_jpeg_size(image: Encoded) -> tuple[int, int] | None:
    """Returns height and width of a JPEG, or None if its header is unusual.

    Args:
      image: a file that begins as a JPEG does.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(image.data)
    except ValueError:
        return None  # Pillow accepts more, or reports what is wrong
    return height, width


def check_pixel_count(height: int, width: int) -> tuple[int, int]:
    """Returns a size, after checking its number of pixels.

    Args:
      height: number of rows.
      width: number of columns.

    Raises:
      ValueError: the image has more than :data:`MAX_PIXELS` pixels.
    """
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"found {width}x{height} pixels, expected at most {MAX_PIXELS} in all"
        )
    return height, width


def check_scans(data: bytes, height: int, width: int) -> None:
    """Refuses a JPEG of so many scans that decoding it would take too long.

    Args:
      data: the bytes of the file.
      height: number of rows.
      width: number of columns.

    Raises:
      ValueError: the file has more scans than are allowed at its size.
    """
    max_scans = min(MAX_SCANS * MAX_PIXELS // max(height * width, 1), 1000)
    # These bytes are only the marker of a scan, except within embedded data.
    if (scans := data.count(b"\xff\xda")) > max_scans:
        raise ValueError(
            f"found {scans} scans of {width}x{height} pixels, expected at most "
            f"{max_scans}"
        )


def open_image(image: Any) -> Any:
    """Opens a file with Pillow, without decoding it, and checks its declared size.

    Args:
      image: a file with ``data`` and ``fault``.

    Raises:
      ValueError: the file could not be read, has an unknown format, or is too large.
    """
    data = image.data
    if image.fault:
        raise ValueError(image.fault)
    form = next((form for form in _FORMATS if form.start.match(data)), None)
    if form is None:
        kind = name_format(data) or f"{len(data)} bytes that begin with {data[:8]!r}"
        raise ValueError(f"found {kind}, expected one of {', '.join(IMAGE_ENDINGS)}")
    if ".png" in form.endings:
        data = _without_extras(data)
    white_is_zero = False
    if ".tiff" in form.endings:
        data, white_is_zero = declare_black_zero(data)
    if ".webp" in form.endings:
        check_pixel_count(*_webp_size(data))  # its decoder allocates in its constructor
    opened = form.open(io.BytesIO(data))
    opened.info["white_is_zero"] = white_is_zero
    check_pixel_count(opened.height, opened.width)
    if ".jpg" in form.endings:
        check_scans(data, opened.height, opened.width)
    if ".tiff" in form.endings and 322 in opened.tag_v2 and 323 in opened.tag_v2:
        check_pixel_count(
            opened.tag_v2[322], opened.tag_v2[323]
        )  # the size of a tile, which is allocated at once
    return opened


def _without_extras(data: bytes) -> bytes:
    """Returns a PNG without the chunks that are not needed."""
    parts, start, chunk = [], 0, 8
    while chunk + 8 <= len(data):
        end = chunk + 12 + int.from_bytes(data[chunk : chunk + 4], "big")
        if data[chunk + 4 : chunk + 8] in _NOT_NEEDED:
            parts.append(data[start:chunk])
            start = end
        chunk = end
    return b"".join([*parts, data[start:]]) if parts else data


def _webp_size(data: bytes) -> tuple[int, int]:
    """Returns height and width that a WebP header declares."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") for i in (24, 27))
        return height + 1, width + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = (int.from_bytes(data[i : i + 2], "little") for i in (26, 28))
    return height & 0x3FFF, width & 0x3FFF
