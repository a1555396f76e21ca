"""From the content of picture files to pixels; every fault is that one picture's."""

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

from .bit_depth import deep_colours, highest_level, is_deep, to_8_bits, with_black_zero
from .signatures import name_format

try:
    from PIL import AvifImagePlugin  # Pillow 11.3 and newer
except ImportError:
    AvifImagePlugin = None  # type: ignore[assignment]

# What a picture may declare, about 256 MiB of RGB: where Pillow begins to warn.
MAX_PIXELS = 89_478_485


NOT_AN_IMAGE = "not a picture that decodes"


class UnreadableImage(ValueError):
    """A file that does not decode; the message begins with its name."""


class Encoded(NamedTuple):
    """The content of a picture file (JPEG, PNG, ...), and what to call it.

    Attributes:
      data: the bytes of the file.
      name: for messages.
      channels: 3 for RGB, 1 for grey: what it is decoded to.
      fault: why the file could not be read, "" if it was.
      max_level: the level that is white in an image of 16 bits, such as 4095 for a
        camera of 12 bits; 0 for the most that the file can hold.
    """

    data: bytes
    name: str
    channels: int = 3
    fault: str = ""
    max_level: int = 0


ImageLike = np.ndarray | Encoded  # uint8 [h, w, c], or a file that decodes to that


class _Format(NamedTuple):
    endings: tuple[str, ...]
    start: re.Pattern[bytes]
    open: Callable[[io.BytesIO], Any]


def _format(endings: str, start: bytes, opener: Callable) -> _Format:
    return _Format(tuple(endings.split()), re.compile(start, re.DOTALL), opener)


# Classes, not Image.open: that tries all of Pillow's formats, of which EPS starts
# Ghostscript, and warns of large pictures by way of the process's warning filters.
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
# A progressive JPEG goes over its pixels once for each scan; encoders write about ten.
# One of the most pixels may have this many, smaller ones more.
MAX_SCANS = 32
_HAS_EXIF = re.compile(rb"Exif\0\0|eXIf|EXIF")
# Texts of a PNG, its colour profile and the frames after the first: none is needed,
# and Pillow refuses a sound picture for the size of the first two.
_NOT_NEEDED = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"acTL", b"fcTL", b"fdAT")


def decode_image(picture: ImageLike) -> np.ndarray:
    """Returns all pixels, uint8 ``[h, w, c]``: RGB, or grey if the file says so.

    Grey levels of 16 bits are divided by 257, or by what makes ``max_level`` white.
    Floats of 0 to 1 are multiplied by 255,
    those of 0 to 255 are kept; both are rounded. Transparency is dropped, of an
    animation the first frame is taken.

    Deviation: as in torchvision, the orientation in EXIF data is ignored, so that a
    picture lies as its pixels are stored, not as a viewer turns it.

    Raises:
      UnreadableImage: a file that does not decode, holds numbers of another range,
        or declares more than :data:`MAX_PIXELS`.
    """
    return decode_file(picture) if isinstance(picture, Encoded) else picture


def read_size(picture: ImageLike) -> tuple[int, int]:
    """Height and width in pixels; of a file the header alone is read.

    Raises:
      UnreadableImage: a file that is no picture, or one that is too large.
    """
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    with decoding_errors(picture):
        if is_jpeg(picture) and (size := _jpeg_size(picture)):
            return _checked(*size)
        with open_image(picture) as image:
            return image.height, image.width


def read_orientation(picture: ImageLike) -> int:
    """EXIF orientation, 1 to 8, of a JPEG, PNG or WebP file; 1 where it has none.

    Raises:
      UnreadableImage: as :func:`read_size`.
    """
    if not isinstance(picture, Encoded) or not _HAS_EXIF.search(picture.data):
        return 1
    with decoding_errors(picture), open_image(picture) as image:
        if image.format not in ("JPEG", "PNG", "WEBP"):  # Pillow turns others itself
            return 1
        try:
            found = image.getexif().get(274, 1)
        except Exception:  # metadata that is damaged says nothing
            return 1
        return found if found in range(1, 9) else 1


def decode_file(picture: Encoded, least: tuple[int, int] | None = None) -> np.ndarray:
    """Pixels as of :func:`decode_image`; a JPEG reduced to no less than ``least``.

    Args:
      picture: the file.
      least: height and width, or None for the whole picture.

    Raises:
      UnreadableImage: as :func:`decode_image`.
    """
    with decoding_errors(picture):
        if is_jpeg(picture) and (size := _jpeg_size(picture)):
            _check_scans(picture.data, *_checked(*size))
            reduced = {}
            if least is not None:
                height, width = least
                reduced = {"min_height": height, "min_width": width, "min_factor": 2}
            colour = "RGB" if picture.channels == 3 else "GRAY"
            try:
                return simplejpeg.decode_jpeg(picture.data, colour, **reduced)
            except ValueError:
                pass  # CMYK, and small flaws that Pillow passes over
        with open_image(picture) as image:
            return _pixels(image, picture)


def stored_levels(picture: Encoded) -> np.ndarray | None:
    """Returns the levels of an image of 16 bits, ``[h, w]`` or ``[h, w, 3]``.

    Returns None, without decoding it, for an image of another kind.

    Raises:
      UnreadableImage: as :func:`decode_image`.
    """
    if is_jpeg(picture):
        return None
    with decoding_errors(picture), open_image(picture) as image:
        if image.mode.startswith("I"):
            image.load()
            return np.asarray(image)
        return deep_colours(picture.data) if is_deep(image) else None


def is_jpeg(picture: Encoded) -> bool:
    return picture.data[:2] == b"\xff\xd8"


@contextlib.contextmanager
def decoding_errors(picture: Any) -> Iterator[None]:
    """Whatever a decoder raises is the fault of the picture."""
    try:
        yield
    except Exception as error:
        raise UnreadableImage(
            f"{picture.name}: {NOT_AN_IMAGE}: {describe_reason(error)}"
        ) from None


def describe_reason(error: Exception) -> str:
    """What an error says, in one line; its type where it says nothing.

    >>> describe_reason(ValueError("two\\n lines")), describe_reason(EOFError())
    ('two lines', 'EOFError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def _jpeg_size(picture: Encoded) -> tuple[int, int] | None:
    try:
        return simplejpeg.decode_jpeg_header(picture.data)[:2]
    except ValueError:
        return None  # Pillow accepts more, or says what is wrong


def _checked(height: int, width: int) -> tuple[int, int]:
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"found {width}x{height} pixels, expected at most {MAX_PIXELS} in all"
        )
    return height, width


def _check_scans(data: bytes, height: int, width: int) -> None:
    """Bounds the time of a JPEG, which each scan takes once more."""
    most = min(MAX_SCANS * MAX_PIXELS // max(height * width, 1), 1000)
    # No other bytes than the marker of a scan, but for what other segments embed.
    if (scans := data.count(b"\xff\xda")) > most:
        raise ValueError(
            f"found {scans} scans of {width}x{height} pixels, expected at most {most}"
        )


def open_image(picture: Any) -> Any:
    """Pillow's picture of a file's ``data``, not decoded yet, of a size that can be."""
    data = picture.data
    if picture.fault:
        raise ValueError(picture.fault)
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
        _checked(*_webp_size(data))  # its decoder allocates when it is made
    image = form.open(io.BytesIO(data))
    image.info["white_is_zero"] = white_is_zero
    _checked(image.height, image.width)
    if ".jpg" in form.endings:
        _check_scans(data, image.height, image.width)
    if ".tiff" in form.endings and 322 in image.tag_v2 and 323 in image.tag_v2:
        _checked(image.tag_v2[322], image.tag_v2[323])  # of a tile, allocated whole
    return image


def _pixels(image: Any, picture: Encoded) -> np.ndarray:
    channels, deep = picture.channels, picture.max_level and is_deep(image)
    image.load()
    if image.mode.startswith("I"):
        grey = to_8_bits(np.asarray(image), picture.max_level or highest_level(image))
    elif deep:
        colours = deep_colours(picture.data)
        rows = to_8_bits(colours.reshape(len(colours), -1), picture.max_level)
        pixels = rows.reshape(colours.shape)
        if channels == 3:
            return pixels
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
    elif image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 255):  # NaN neither
            raise ValueError(
                f"found floats {values.min():g} to {values.max():g}, expected 0 to 1 "
                "or 0 to 255"
            )
        grey = np.rint(values * (255 if values.max() <= 1 else 1)).astype(np.uint8)
    else:
        image.info.pop("transparency", None)  # not used, and warned of
        pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
        return pixels if channels == 3 else pixels[..., None]
    if image.info["white_is_zero"]:
        grey = 255 - grey
    return np.repeat(grey[..., None], channels, -1)


def _without_extras(data: bytes) -> bytes:
    """A PNG without the chunks that are not needed."""
    kept, start, place = [], 0, 8
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] in _NOT_NEEDED:
            kept.append(data[start:place])
            start = end
        place = end
    return b"".join([*kept, data[start:]]) if kept else data


def _webp_size(data: bytes) -> tuple[int, int]:
    """Height and width that a WebP header declares."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") for i in (24, 27))
        return height + 1, width + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = (int.from_bytes(data[i : i + 2], "little") for i in (26, 28))
    return height & 0x3FFF, width & 0x3FFF
