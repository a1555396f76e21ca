"""Names of file formats, recognised by a file's first bytes."""

import re

LFS = "a pointer of Git LFS in place of the file, which was not fetched (git lfs pull)"
ANNEX = "a pointer of git-annex in place of the file (git annex get)"
# Patterns of the first bytes of files, and the formats that they stand for.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"version https://git-lfs\.github\.com/spec/", LFS),
    (rb"/annex/objects/|(?:\.\./)*\.git/annex/", ANNEX),
    (rb"\s*(?i:<!doctype html|<html|<head|<body)", "a web page (HTML)"),
    (rb"\s*(?i:<svg)", "a drawing (SVG)"),
    (rb"\s*<\?xml(?s:.{0,2000}?)<svg", "a drawing (SVG)"),
    (rb"\s*<\?xml", "an XML text"),
    (rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", "an HEIC image"),
    (rb"....ftypavi[fs]", "an AVIF image"),
    (rb"....ftyp", "a film (MP4 or MOV)"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (rb"\xff\xd8", "a JPEG image"),
    (rb"\x89PNG", "a PNG image"),
    (rb"GIF8", "a GIF image"),
    (rb"RIFF....WEBP", "a WebP image"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF image"),
    (rb"8BPS", "a Photoshop image"),
    (rb"%PDF", "a PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript drawing"),
    (rb"\x00\x00\x01\x00", "an icon (ICO)"),
    (rb"(?s:.{128})DICM", "a DICOM image"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR image"),
    (rb"#\?RADIANCE|#\?RGBE", "a Radiance HDR image"),
    (rb"SIMPLE  =", "a FITS image"),
    (rb"DDS ", "a DDS image"),
    (rb"qoif", "a QOI image"),
    (rb"\x93NUMPY", "a NumPy array (.npy)"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"BZh", "a bzip2 archive"),
    (rb"\xfd7zXZ", "an xz archive"),
    (rb"\x28\xb5\x2f\xfd", "a zstd archive"),
    (rb"7z\xbc\xaf", "a 7z archive"),
    (rb"Rar!", "a RAR archive"),
    (rb"(?s:.{257})ustar", "a tar archive"),
    (rb"\s*[{\[]\s*[\"{\[\d\]}]", "a JSON text"),
)
_PATTERNS = tuple((re.compile(start, re.DOTALL), kind) for start, kind in _KINDS)
_START = 4096  # number of bytes that are looked at
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # in front of some texts in UTF-8


def name_format(data: bytes) -> str:
    """Returns the name of a file's format with an article, or "" if it is unknown.

    Args:
      data: content of the file, of which the first 4,096 bytes are read.

    >>> name_format(b""), name_format(b"....ftypheic"), name_format(b"<!DOCTYPE html>")
    ('an empty file', 'an HEIC image', 'a web page (HTML)')
    """
    if not data:
        return "an empty file"
    start = data[:_START].removeprefix(_BYTE_ORDER_MARK)
    for pattern, kind in _PATTERNS:
        if pattern.match(start):
            return kind
    if not start.strip(b"\0"):
        return "a file that begins with zeros alone, maybe not written in full"
    return ""


def refuse_pointer(data: bytes, source: str) -> None:
    """Refuses a text that Git LFS or git-annex left in place of a file.

    Args:
      data: the content of a file, or its first bytes.
      source: the name of the file, for messages.

    Raises:
      ValueError: the data are such a text; the message begins with ``source``.

    >>> refuse_pointer(b"/annex/objects/0123.npz", "a.npz")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: a.npz: found a pointer of git-annex in place of the file ...
    """
    if (kind := name_format(data)) in (LFS, ANNEX):
        raise ValueError(f"{source}: found {kind}, expected the file itself")
