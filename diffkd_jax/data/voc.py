"""PASCAL VOC: masks of 21 classes, the background first (Everingham et al. 2010)."""

import os
import pathlib
import re
from collections.abc import Sequence

from .folders import needed
from .formats import existing
from .masks import VOID, MaskRule
from .pairs import MOST_LIST_BYTES, pair_split
from .split import Dataset, some_of

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car"),
    *("cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
LISTS = "ImageSets/Segmentation"


def palette(count: int) -> list[list[int]]:
    """Colours of VOC, in which each three bits of a class are one bit of a level.

    >>> palette(3)
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    return [
        [sum((k >> 3 * bit + c & 1) << 7 - bit for bit in range(8)) for c in range(3)]
        for k in range(count)
    ]


def load_voc(path: str, splits: Sequence[str] = ()) -> Dataset:
    """VOC as it is unpacked: ``JPEGImages``, ``SegmentationClass``, ``ImageSets``.

    A split is a list ``ImageSets/Segmentation/<split>.txt`` of names, one a line;
    masks have a palette, of which the indices are the classes, 255 is void.

    Args:
      path: such as ``VOCdevkit/VOC2012``.
      splits: those that are needed, all by default.

    Raises:
      ValueError: no names, or none such as files have; names without files.
      FileNotFoundError: no lists.
    """
    root = existing(path)
    lists = sorted((root / LISTS).glob("*.txt"))
    if not lists:
        raise FileNotFoundError(f"{root}: found no {LISTS}/*.txt, expected train.txt")
    wanted = needed([file.stem for file in lists], splits)
    pictures, masks = (
        set(os.listdir(root / part)) if (root / part).is_dir() else set()
        for part in ("JPEGImages", "SegmentationClass")
    )
    made = {}
    for file in (file for file in lists if file.stem in wanted):
        names = names_in(file)
        missing = [f"JPEGImages/{n}.jpg" for n in names if f"{n}.jpg" not in pictures]
        missing += [
            f"SegmentationClass/{n}.png" for n in names if f"{n}.png" not in masks
        ]
        if missing:
            raise ValueError(
                f"{file}: found names without {len(missing)} of their files: "
                f"{some_of(missing, 3)}"
            )
        made[file.stem] = pair_split(
            root,
            [f"JPEGImages/{name}.jpg" for name in names],
            [f"SegmentationClass/{name}.png" for name in names],
            rule=MaskRule(len(CLASSES)),
        )
    return Dataset(made, CLASSES, {"ignore": VOID, "palette": palette(len(CLASSES))})


def names_in(file: pathlib.Path) -> list[str]:
    """Names of pictures, one a line; ValueError, naming the file, for what is none."""
    size = file.stat().st_size
    if size > MOST_LIST_BYTES:
        raise ValueError(
            f"{file}: found {size} bytes, expected at most {MOST_LIST_BYTES}"
        )
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if wrong := [name for name in names if not re.fullmatch(r"[\w-][\w.-]*", name)]:
        raise ValueError(
            f"{file}: found {wrong[0][:60]!r}, expected the name of a picture alone, "
            "such as 2007_000032"
        )
    if not names:
        raise ValueError(f"{file}: found no names, expected one a line")
    return names
