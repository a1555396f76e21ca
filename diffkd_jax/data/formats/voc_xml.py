"""Boxes in the xml of PASCAL VOC: by the names of tags, in one pass, no tree."""

from typing import NamedTuple
from xml.parsers import expat

from ..images.decoding import describe_reason
from ..images.objects import MAX_NUMBER
from ..images.signatures import refuse_pointer
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
    """A file of annotations.

    Attributes:
      filename: of the picture, as the file says.
      size: height and width, 0 where the file does not say.
      names: of the classes of its objects.
      difficult: whether an object is marked so.
      boxes: left, top, right, bottom of each, as in the file.
    """

    filename: str
    size: tuple[int, int]
    names: list[str]
    difficult: list[bool]
    boxes: list[list[float]]


def read_annotation(data: bytes, where: str) -> VocAnnotation:
    """The objects of a file; parts of objects and unknown tags are passed over.

    Each tag that is read may stand once in an object, and once outside of them.

    Args:
      data: its content. Declarations of a document type or of entities are refused.
      where: name of the file, for messages.

    Raises:
      ValueError: in one line that begins with ``where``.

    >>> entry = read_annotation(b"<annotation><object><bndbox><xmax>9.5</xmax>"
    ...     b"<ymin>2</ymin><xmin>1</xmin><ymax>8</ymax></bndbox><name> dog </name>"
    ...     b"</object></annotation>", "here")
    >>> entry.names, entry.boxes
    (['dog'], [[1.0, 2.0, 9.5, 8.0]])
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{where}: found more than {MAX_BYTES} bytes, expected fewer")
    refuse_pointer(data, where)
    try:
        top, objects = _texts(data)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise ValueError(
            f"{where}: not an xml of VOC: {describe_reason(error)}"
        ) from None
    names, difficult, boxes = [], [], []
    for number, one in enumerate(objects, 1):
        at = f"{where}: object {number}"
        name = one.get(("object", "name"), "").strip()
        if not name:
            raise ValueError(f"{at}: found no name, expected that of a class")
        found = []
        for corner in CORNERS:
            text = one.get(("object", "bndbox", corner))
            value = _number(text)
            if value is None:
                shown = "none" if text is None else repr(text[:40])
                raise ValueError(
                    f"{at}: found bndbox/{corner} {shown}, expected a number "
                    f"from {-MAX_NUMBER:g} to {MAX_NUMBER:g}"
                )
            found.append(value)
        mark = one.get(("object", "difficult"), "").strip()
        marked = MARKS.get(
            mark.lower()
            if parse_whole_number(mark) is None
            else parse_whole_number(mark)
        )
        if marked is None:
            raise ValueError(f"{at}: found difficult {mark[:40]!r}, expected 0 or 1")
        names.append(name)
        difficult.append(marked)
        boxes.append(found)
    sides = [_number(top.get(("size", side), "0")) for side in ("height", "width")]
    height, width = (int(side) if side and 0 < side < 2**24 else 0 for side in sides)
    size = (height, width) if height and width else (0, 0)
    filename = top.get(("filename",), "").strip()
    return VocAnnotation(filename, size, names, difficult, boxes)


Texts = dict[tuple[str, ...], str]


def _texts(data: bytes) -> tuple[Texts, list[Texts]]:
    """What stands in the tags that are read: of the file, and of each object."""
    path: list[str] = []
    top: Texts = {}
    objects: list[Texts] = []

    def refuse(*_):
        raise ValueError("found a DOCTYPE, expected none")

    def start(tag, _):
        path.append(tag.rpartition(":")[2])
        if path[0] != "annotation":
            raise ValueError(f"found the root {path[0][:40]!r}, expected 'annotation'")
        if len(path) == 2 and path[1] == "object":
            objects.append({})
        place = tuple(path[1:5])
        if len(path) < 5 and place in ONCE:
            of_object = place[0] == "object"
            into = objects[-1] if of_object else top
            if place in into:
                at = f"object {len(objects)}: " if of_object else ""
                name = "/".join(place[of_object:])
                raise ValueError(f"{at}found {name} twice, expected one")
            into[place] = ""

    def end(_):
        path.pop()

    def text(piece):
        place = tuple(path[1:5])
        if len(path) < 5 and place in READ:
            into = objects[-1] if place[0] == "object" else top
            into[place] = (into[place] + piece)[:MAX_TEXT_LENGTH]

    # A byte order mark counts more than a declaration that was kept from before.
    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb": "utf-8"}
    parser = expat.ParserCreate(marks.get(data[:2]))
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text
    parser.Parse(data, True)
    return top, objects


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) <= MAX_NUMBER else None
