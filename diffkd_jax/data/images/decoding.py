"""Decoding of image files; every error is an error of that one image."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ...io.signatures import name_format
from .bit_depth import deep_colours, highest_level, is_deep, to_8_bits, with_black_zero

try:
    from PIL import AvifImagePlugin  # Pillow 11.3 and newer
except ImportError:
    AvifImagePlugin = None  # type: ignore[assignment]

# Largest number of pixels, about 256 MiB of RGB: where Pillow begins to warn.
MAX_PIXELS = 89_478_485


NOT_AN_IMAGE = "not an image that decodes"


class UnreadableImage(ValueError):
    """An image file that does not decode; the message begins with its name."""


class Encoded(NamedTuple):
    """The content of an image file (JPEG, PNG, ...) and its name.

    Attributes:
      data: the bytes of the file.
      name: name for messages.
      channels: number of channels to decode to, 3 for RGB or 1 for grey.
      fault: why the file could not be read, or "".
      max_level: the level that is white in an image of 16 bits, such as 4095 for a
        camera of 12 bits; 0 for the highest level that the file can hold.
    """

    data: bytes
    name: str
    channels: int = 3
    fault: str = ""
    max_level: int = 0


ImageLike = np.ndarray | Encoded  # uint8 [h, w, c], or a file that decodes to that


class _Format(NamedTuple):
    """A file format: its endings, its first bytes, and the class that opens it."""

    endings: tuple[str, ...]
    start: re.Pattern[bytes]
    open: Callable[[io.BytesIO], Any]


def _format(endings: str, start: bytes, opener: Callable) -> _Format:
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


def decode_image(image: ImageLike) -> np.ndarray:
    """Returns all pixels of an image, uint8 ``[h, w, c]``.

    Grey levels of 16 bits are divided by 257, or scaled so that ``max_level`` is white.
    Floats from 0 to 1 are multiplied by 255, floats from 0 to 255 are kept; both are
    rounded. Transparency is dropped. The first frame of an animation is taken.

    Deviation: as in torchvision, the orientation in EXIF data is ignored, so pixels are
    as stored, and not as a viewer shows them.

    Args:
      image: an array, which is returned, or a file.

    Raises:
      UnreadableImage: the file does not decode, holds numbers of another range, or
        declares more than :data:`MAX_PIXELS`.
    """
    return decode_file(image) if isinstance(image, Encoded) else image


def read_size(image: ImageLike) -> tuple[int, int]:
    """Returns height and width in pixels; of a file only the header is read.

    Args:
      image: an array or a file.

    Raises:
      UnreadableImage: the file is not an image, or is too large.
    """
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    with decoding_errors(image):
        if is_jpeg(image) and (size := _jpeg_size(image)):
            return _checked(*size)
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


def decode_file(image: Encoded, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes a file as :func:`decode_image`; a JPEG may be decoded at a reduced size.

    Args:
      image: the file.
      min_size: height and width that the result must at least have, or None for the
        full size.

    Returns:
      uint8 ``[h, w, c]``.

    Raises:
      UnreadableImage: as :func:`decode_image`.
    """
    with decoding_errors(image):
        if is_jpeg(image) and (size := _jpeg_size(image)):
            _check_scans(image.data, *_checked(*size))
            reduced = {}
            if min_size is not None:
                height, width = min_size
                reduced = {"min_height": height, "min_width": width, "min_factor": 2}
            colour = "RGB" if image.channels == 3 else "GRAY"
            try:
                return simplejpeg.decode_jpeg(image.data, colour, **reduced)
            except ValueError:
                pass  # CMYK, and small flaws that Pillow ignores
        with open_image(image) as opened:
            return _pixels(opened, image)


def stored_levels(image: Encoded) -> np.ndarray | None:
    """Returns the levels of an image of 16 bits, ``[h, w]`` or ``[h, w, 3]``.

    For an image of another kind it returns None without decoding.

    Args:
      image: the file.

    Raises:
      UnreadableImage: as :func:`decode_image`.
    """
    if is_jpeg(image):
        return None
    with decoding_errors(image), open_image(image) as opened:
        if opened.mode.startswith("I"):
            opened.load()
            return np.asarray(opened)
        return deep_colours(image.data) if is_deep(opened) else None


def is_jpeg(image: Encoded) -> bool:
    """Returns whether a file begins as a JPEG does.

    Args:
      image: the file.
    """
    return image.data[:2] == b"\xff\xd8"


@contextlib.contextmanager
def decoding_errors(image: Any) -> Iterator[None]:
    """Turns every error within the context into an :class:`UnreadableImage`.

    Args:
      image: the file that is decoded.

    Raises:
      UnreadableImage: any error within the context.
    """
    try:
        yield
    except Exception as error:
        raise UnreadableImage(
            f"{image.name}: {NOT_AN_IMAGE}: {describe_reason(error)}"
        ) from None


def describe_reason(error: Exception) -> str:
    r"""Returns the message of an error in one line, or its type if it has no message.

    >>> describe_reason(ValueError("two\n lines")), describe_reason(EOFError())
    ('two lines', 'EOFError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def _jpeg_size(image: Encoded) -> tuple[int, int] | None:
    """Returns the size of a JPEG, or None if its header is unusual."""
    try:
        return simplejpeg.decode_jpeg_header(image.data)[:2]
    except ValueError:
        return None  # Pillow accepts more, or reports what is wrong


def _checked(height: int, width: int) -> tuple[int, int]:
    """Returns a size, or refuses too many pixels."""
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"found {width}x{height} pixels, expected at most {MAX_PIXELS} in all"
        )
    return height, width


def _check_scans(data: bytes, height: int, width: int) -> None:
    """Bounds the time of decoding a JPEG, to which each scan adds the same amount."""
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
        data, white_is_zero = with_black_zero(data)
    if ".webp" in form.endings:
        _checked(*_webp_size(data))  # its decoder allocates in its constructor
    opened = form.open(io.BytesIO(data))
    opened.info["white_is_zero"] = white_is_zero
    _checked(opened.height, opened.width)
    if ".jpg" in form.endings:
        _check_scans(data, opened.height, opened.width)
    if ".tiff" in form.endings and 322 in opened.tag_v2 and 323 in opened.tag_v2:
        _checked(
            opened.tag_v2[322], opened.tag_v2[323]
        )  # the size of a tile, which is allocated at once
    return opened


def _pixels(opened: Any, image: Encoded) -> np.ndarray:
    """Returns the pixels of an opened image, uint8 ``[h, w, c]``."""
    channels, deep = image.channels, image.max_level and is_deep(opened)
    opened.load()
    if opened.mode.startswith("I"):
        grey = to_8_bits(np.asarray(opened), image.max_level or highest_level(opened))
    elif deep:
        colours = deep_colours(image.data)
        rows = to_8_bits(colours.reshape(len(colours), -1), image.max_level)
        pixels = rows.reshape(colours.shape)
        if channels == 3:
            return pixels
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
    elif opened.mode == "F":
        values = np.asarray(opened)
        if not (values.min() >= 0 and values.max() <= 255):  # NaN neither
            raise ValueError(
                f"found floats {values.min():g} to {values.max():g}, expected 0 to 1 "
                "or 0 to 255"
            )
        grey = np.rint(values * (255 if values.max() <= 1 else 1)).astype(np.uint8)
    else:
        opened.info.pop("transparency", None)  # not used, and warned of
        pixels = np.asarray(opened.convert("RGB" if channels == 3 else "L"))
        return pixels if channels == 3 else pixels[..., None]
    if opened.info["white_is_zero"]:
        grey = 255 - grey
    return np.repeat(grey[..., None], channels, -1)


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
