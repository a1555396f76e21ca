"""PASCAL VOC: masks of 21 classes, the background first (Everingham et al. 2010)."""

import re
from collections.abc import Sequence
from typing import Any

from ..findings import some_of
from ..formats.class_lists import parse_class_names
from ..formats.file_access import select_splits
from ..formats.single_files import require_path
from ..formats.voc_lists import list_split_files, make_stem_finder, read_lists
from ..images.headers import IMAGE_ENDINGS
from ..images.mask_rules import VOID, MaskRule
from ..split import Dataset
from .pairs import make_pair_split

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car"),
    *("cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOC_NAME = re.compile(r"(?:19|20)\d\d_\d+")  # image names of VOC, such as 2007_000032
LISTS = "ImageSets/Segmentation"
FOLDERS = {"JPEGImages": ".jpg", "SegmentationClass": ".png"}


def load_voc(path: str, splits: Sequence[str] = (), *, classes: Any = "") -> Dataset:
    """Loads VOC as it is unpacked: images, ``SegmentationClass`` and ``ImageSets``.

    Images are in ``JPEGImages``. A split is a list
    ``ImageSets/Segmentation/<split>.txt`` with one name on each line. Images have any
    of the endings in :data:`diffkd_jax.data.images.headers.IMAGE_ENDINGS`. Masks have
    a palette whose indices are the classes; 255 marks pixels to ignore. Classes have
    the names of VOC if all images are named as in VOC, such as 2007_000032. In other
    data of this layout they are numbers unless names are given.

    Args:
      path: folder of the data set, such as ``VOCdevkit/VOC2012``.
      splits: names of the splits to load; all by default, or if one of them is missing.
      classes: names of the classes, as a tuple or separated by commas, or their number;
        by default the lines of ``<path>/classes.txt``, or 21 classes without this file.

    Raises:
      ValueError: a list has no names, a line is not the name of an image, or a name has
        no files.
      FileNotFoundError: there are no lists.

    >>> import pathlib, tempfile
    >>> files = {"ImageSets/Segmentation/train.txt": "1", "JPEGImages/1.jpg": ""}
    >>> files["SegmentationClass/1.png"] = ""
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name, text in files.items():
    ...         file = pathlib.Path(root, name)
    ...         file.parent.mkdir(parents=True)
    ...         _ = file.write_text(text)
    ...     load_voc(root, classes="sky, tree").splits["train"].size
    1
    """
    root = require_path(path)
    lists = list_split_files(root / LISTS)
    if not lists:
        raise FileNotFoundError(f"{root}: found no {LISTS}/*.txt, expected train.txt")
    wanted = select_splits([file.stem for file in lists], splits)
    find_images = make_stem_finder(root / "JPEGImages", IMAGE_ENDINGS)
    find_masks = make_stem_finder(root / "SegmentationClass", (".png",))
    names, findings = read_lists([file for file in lists if file.stem in wanted])
    has_names = classes != "" or (root / "classes.txt").is_file()
    is_voc = all(VOC_NAME.fullmatch(name) for rows in names.values() for name in rows)
    if has_names:
        class_names = parse_class_names(classes, root / "classes.txt")
    else:
        class_names = CLASSES if is_voc else parse_class_names(len(CLASSES))
    loaded = {}
    for file in (file for file in lists if file.stem in wanted):
        pairs = [(find_images(name), find_masks(name)) for name in names[file.stem]]
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
        loaded[file.stem] = make_pair_split(
            root,
            [f"JPEGImages/{images[0]}" for images, _ in pairs],
            [f"SegmentationClass/{masks[0]}" for _, masks in pairs],
            rule=MaskRule(len(class_names)),
            findings=findings[file.stem],
        )
    return Dataset(loaded, class_names, {"ignore": VOID})
