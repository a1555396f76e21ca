"""Reader of PASCAL VOC's xml annotations, in one pass and without a tree."""

from typing import Any, NamedTuple
from xml.parsers import expat

from ...io.signatures import refuse_pointer
from ..images.encoded import describe_reason
from ..images.object_checks import MAX_NUMBER
from .text import parse_whole_number

MAX_BYTES = 2**22
MAX_TEXT_LENGTH = 4096  # characters of a tag
CORNERS = ("xmin", "ymin", "xmax", "ymax")
READ = {
    ("filename",),
    ("size", "width"),
    ("size", "height"),
    ("object", "name"),
    ("object", "difficult"),
    *(("object", "bndbox", corner) for corner in CORNERS),
}
ONCE = READ | {("size",), ("object", "bndbox")}
MARKS = {"": False, "false": False, 0: False, "true": True, 1: True}


class VocAnnotation(NamedTuple):
    """The content of one annotation file.

    Attributes:
      filename: file name of the image, as the file states it.
      size: height and width in pixels, (0, 0) if the file does not state them.
      names: class name of each object.
      difficult: whether each object is marked as difficult.
      boxes: left, top, right and bottom of each object, as in the file.
    """

    filename: str
    size: tuple[int, int]
    names: list[str]
    difficult: list[bool]
    boxes: list[list[float]]


def read_annotation(data: bytes, where: str) -> VocAnnotation:
    """Reads the objects of an annotation file.

    Parts of objects and unknown tags are ignored.

    Each tag that is read may occur once in each object, and once outside objects.

    Args:
      data: content of the file. Declarations of a document type or of entities are
        refused.
      where: name of the file, for messages.

    Raises:
      ValueError: the file is not such an xml; the message is one line that begins with
        ``where``.

    >>> entry = read_annotation(b"<annotation><object><bndbox><xmax>9.5</xmax>"
    ...     b"<ymin>2</ymin><xmin>1</xmin><ymax>8</ymax></bndbox><name> dog </name>"
    ...     b"</object></annotation>", "here")
    >>> entry.names, entry.boxes
    (['dog'], [[1.0, 2.0, 9.5, 8.0]])
    """
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"{where}: found more than {MAX_BYTES} bytes, expected at most {MAX_BYTES}"
        )
    refuse_pointer(data, where)
    try:
        top, objects = _texts(data)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise ValueError(
            f"{where}: not an xml of VOC: {describe_reason(error)}"
        ) from None
    names, difficult, boxes = [], [], []
    for number, texts in enumerate(objects, 1):
        label = f"{where}: object {number}"
        name = texts.get(("object", "name"), "").strip()
        if not name:
            raise ValueError(f"{label}: found no name, expected the name of a class")
        box = []
        for corner in CORNERS:
            text = texts.get(("object", "bndbox", corner))
            value = _number(text)
            if value is None:
                shown = "none" if text is None else repr(text[:40])
                raise ValueError(
                    f"{label}: found bndbox/{corner} {shown}, expected a number "
                    f"from {-MAX_NUMBER:g} to {MAX_NUMBER:g}"
                )
            box.append(value)
        mark = texts.get(("object", "difficult"), "").strip()
        marked = MARKS.get(
            mark.lower()
            if parse_whole_number(mark) is None
            else parse_whole_number(mark)
        )
        if marked is None:
            raise ValueError(f"{label}: found difficult {mark[:40]!r}, expected 0 or 1")
        names.append(name)
        difficult.append(marked)
        boxes.append(box)
    sides = [_number(top.get(("size", side), "0")) for side in ("height", "width")]
    height, width = (int(side) if side and 0 < side < 2**24 else 0 for side in sides)
    size = (height, width) if height and width else (0, 0)
    filename = top.get(("filename",), "").strip()
    return VocAnnotation(filename, size, names, difficult, boxes)


Texts = dict[tuple[str, ...], str]


def _texts(data: bytes) -> tuple[Texts, list[Texts]]:
    """Returns the texts of the tags that are read: of the file, and of each object."""
    path: list[str] = []
    top: Texts = {}
    objects: list[Texts] = []

    def refuse(*_: Any) -> None:
        raise ValueError("found a DOCTYPE, expected none")

    def start(tag: str, _: Any) -> None:
        path.append(tag.rpartition(":")[2])
        if path[0] != "annotation":
            raise ValueError(f"found the root {path[0][:40]!r}, expected 'annotation'")
        if len(path) == 2 and path[1] == "object":
            objects.append({})
        key = tuple(path[1:5])
        if len(path) < 5 and key in ONCE:
            in_object = key[0] == "object"
            texts = objects[-1] if in_object else top
            if key in texts:
                label = f"object {len(objects)}: " if in_object else ""
                name = "/".join(key[in_object:])
                raise ValueError(f"{label}found {name} twice, expected one")
            texts[key] = ""

    def end(_: str) -> None:
        path.pop()

    def text(piece: str) -> None:
        key = tuple(path[1:5])
        if len(path) < 5 and key in READ:
            texts = objects[-1] if key[0] == "object" else top
            texts[key] = (texts[key] + piece)[:MAX_TEXT_LENGTH]

    # A byte order mark overrides an encoding that the declaration still states.
    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb": "utf-8"}
    parser = expat.ParserCreate(marks.get(data[:2]))
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text
    parser.Parse(data, True)
    return top, objects


def _number(text: str | None) -> float | None:
    """Returns a number within the allowed range, otherwise None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) <= MAX_NUMBER else None
