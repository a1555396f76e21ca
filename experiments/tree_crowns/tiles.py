"""Cuts the labelled pictures of the package deepforest into tiles with VOC xml.

    pip download --no-deps deepforest==2.1.0
    python experiments/tree_crowns/tiles.py deepforest-2.1.0-py3-none-any.whl TILES

The package (MIT, Weinstein et al. 2019) holds four aerial pictures of the NEON sites
OSBS, SOAP and YELL with 951 boxes of tree crowns. It is opened as a zip file and not
imported. Training tiles of 400 pixels come from the upper three quarters of the two
large pictures, test tiles from the lower quarter of the larger one and the two small
ones; no tile of one overlaps one of the other, and rests that hold no whole tile are
left out.
"""

import io
import pathlib
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

from PIL import Image

TILE, LEAST_SHARE = 400, 0.35
LARGE = (
    "2019_YELL_2_528000_4978000_image_crop2",
    "2019_YELL_2_541000_4977000_image_crop",
)
SMALL = ("OSBS_029", "SOAP_061")
SIDES = ("xmin", "ymin", "xmax", "ymax")


def read(archive: zipfile.ZipFile, name: str) -> tuple[Image.Image, list[list[float]]]:
    """A picture and its boxes, pixels from 0 on."""
    picture = Image.open(io.BytesIO(archive.read(f"deepforest/data/{name}.png")))
    tree = ElementTree.fromstring(archive.read(f"deepforest/data/{name}.xml"))
    boxes = [
        [float(box.findtext(side)) for side in SIDES] for box in tree.iter("bndbox")
    ]
    return picture.convert("RGB"), boxes


def cut(
    picture: Image.Image, boxes: list[list[float]], left: int, top: int
) -> tuple[Image.Image, list[tuple[list[float], bool]]]:
    """A tile and its boxes; those of which less than 35 % is left are difficult."""
    seen = []
    for x1, y1, x2, y2 in boxes:
        inside = [
            min(max(value - offset, 0.0), float(TILE))
            for value, offset in ((x1, left), (y1, top), (x2, left), (y2, top))
        ]
        width, height = inside[2] - inside[0], inside[3] - inside[1]
        if width >= 1 and height >= 1:
            share = width * height / max((x2 - x1) * (y2 - y1), 1e-9)
            seen.append((inside, share < LEAST_SHARE))
    return picture.crop((left, top, left + TILE, top + TILE)), seen


def write(folder: pathlib.Path, name: str, tile: Image.Image, boxes: list) -> None:
    """``name.png`` and ``name.xml``, in which pixels count from 1."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{name}.png"
    size = ElementTree.SubElement(root, "size")
    for side in ("width", "height"):
        ElementTree.SubElement(size, side).text = str(TILE)
    for box, difficult in boxes:
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = "Tree"
        ElementTree.SubElement(entry, "difficult").text = str(int(difficult))
        place = ElementTree.SubElement(entry, "bndbox")
        for side, value in zip(SIDES, box, strict=True):
            first = side.endswith("min")
            ElementTree.SubElement(place, side).text = str(value + first)
    tile.save(folder / f"{name}.png")
    ElementTree.ElementTree(root).write(folder / f"{name}.xml")


def main(wheel: str, target: str) -> None:
    made = {"train": 0, "test": 0}
    for split in made:
        (pathlib.Path(target) / split).mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in (*LARGE, *SMALL):
            picture, boxes = read(archive, name)
            width, height = picture.size
            # Training tiles overlap by half; the rows below belong to the test.
            border = height * 3 // 4 if name in LARGE else 0
            places = [
                ("train", x, y)
                for y in range(0, border - TILE + 1, TILE // 2)
                for x in range(0, width - TILE + 1, TILE // 2)
            ]
            places += [
                ("test", x, y)
                for y in range(border, height - TILE + 1, TILE)
                for x in range(0, width - TILE + 1, TILE)
            ]
            for split, x, y in places:
                tile, seen = cut(picture, boxes, x, y)
                if any(not difficult for _, difficult in seen):
                    write(pathlib.Path(target) / split, f"{name}_{x}_{y}", tile, seen)
                    made[split] += 1
    print(made)


if __name__ == "__main__":
    main(*sys.argv[1:])
