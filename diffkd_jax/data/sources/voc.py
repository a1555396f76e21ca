"""PASCAL VOC: masks of 21 classes, the background first (Everingham et al. 2010)."""

import re
from collections.abc import Sequence
from typing import Any

from ..formats.single_files import require_path
from ..formats.voc_lists import list_split_files, make_stem_finder, read_lists
from ..images.decoding import IMAGE_ENDINGS
from ..images.masks import VOID, MaskRule
from ..split import Dataset, some_of
from .folders import select_splits
from .pairs import pair_split, parse_class_names

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car"),
    *("cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
OF_VOC = re.compile(r"(?:19|20)\d\d_\d+")  # names of its images
LISTS = "ImageSets/Segmentation"
FOLDERS = {"JPEGImages": ".jpg", "SegmentationClass": ".png"}


def load_voc(path: str, splits: Sequence[str] = (), *, classes: Any = "") -> Dataset:
    """VOC as it is unpacked: ``JPEGImages``, ``SegmentationClass``, ``ImageSets``.

    A split is a list ``ImageSets/Segmentation/<split>.txt`` of names, one for each
    line. Images have any of the endings of
    :data:`diffkd_jax.data.images.decoding.IMAGE_ENDINGS`. Masks have a palette, of
    which the indices are the classes, 255 is void. Classes have the names of VOC if all
    images are called as those of VOC are, such as 2007_000032; in other data of this
    layout they are numbers unless names are given.

    Args:
      path: such as ``VOCdevkit/VOC2012``.
      splits: those that are needed, all by default.
      classes: their names, as a tuple or with commas between, or how many; else the
        lines of ``<path>/classes.txt``; else there are 21.

    Raises:
      ValueError: no names, or none such as files have; names without files.
      FileNotFoundError: no lists.
    """
    root = require_path(path)
    lists = list_split_files(root / LISTS)
    if not lists:
        raise FileNotFoundError(f"{root}: found no {LISTS}/*.txt, expected train.txt")
    wanted = select_splits([file.stem for file in lists], splits)
    pictures = make_stem_finder(root / "JPEGImages", IMAGE_ENDINGS)
    masks = make_stem_finder(root / "SegmentationClass", (".png",))
    names, doubts = read_lists([file for file in lists if file.stem in wanted])
    given = classes != "" or (root / "classes.txt").is_file()
    of_voc = all(OF_VOC.fullmatch(name) for found in names.values() for name in found)
    if given:
        called = parse_class_names(classes, root / "classes.txt")
    else:
        called = CLASSES if of_voc else parse_class_names(len(CLASSES))
    made = {}
    for file in (file for file in lists if file.stem in wanted):
        pairs = [(pictures(name), masks(name)) for name in names[file.stem]]
        missing = [
            f"{folder}/{name}{ending}"
            for k, (folder, ending) in enumerate(FOLDERS.items())
            for name, pair in zip(names[file.stem], pairs, strict=True)
            if not pair[k]
        ]
        if missing:
            raise ValueError(
                f"{file}: found names without {len(missing)} of their files: "
                f"{some_of(missing, 3)}"
            )
        made[file.stem] = pair_split(
            root,
            [f"JPEGImages/{found[0]}" for found, _ in pairs],
            [f"SegmentationClass/{found[0]}" for _, found in pairs],
            rule=MaskRule(len(called)),
            doubts=doubts[file.stem],
        )
    return Dataset(made, called, {"ignore": VOID})
