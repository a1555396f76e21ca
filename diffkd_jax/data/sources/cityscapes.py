"""Cityscapes: street scenes with masks of 19 classes (Cordts et al. 2016)."""

import os
import pathlib
from collections.abc import Sequence

from ..formats.single_files import require_path
from ..formats.text import make_name_finder
from ..images.decoding import IMAGE_ENDINGS
from ..images.masks import VOID, MaskRule
from ..split import Dataset
from .folders import needed, visible_folders
from .pairs import pair_split, report_missing

CLASSES: tuple[str, ...] = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light"),
    *("traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car"),
    *("truck", "bus", "train", "motorcycle", "bicycle"),
)
PALETTE = (
    *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156)),
    *((190, 153, 153), (153, 153, 153), (250, 170, 30), (220, 220, 0)),
    *((107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)),
    *((255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100)),
    *((0, 0, 230), (119, 11, 32)),
)
# Of the classes in order, among the ids -1 to 33; the others do not count.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
OF_IDS = MaskRule(
    len(CLASSES),
    tuple((i, IDS.index(i) if i in IDS else VOID) for i in range(-1, 34)),
)
OF_TRAIN_IDS = MaskRule(len(CLASSES))
META = {
    "ignore": VOID,
    "palette": [list(colour) for colour in PALETTE],
    "ids": list(IDS),
}
PICTURE = "_leftImg8bit"
MASKS = "_gtFine_labelIds", "_gtFine_labelTrainIds"  # the first of both counts


def load_cityscapes(path: str, splits: Sequence[str] = ()) -> Dataset:
    """Cityscapes as it is unpacked: ``leftImg8bit`` and ``gtFine``, 2048x1024.

    ``leftImg8bit/<split>/<city>/<name>_leftImg8bit.png`` goes with
    ``gtFine/<split>/<city>/<name>_gtFine_labelIds.png``, whose ids become the 19
    classes, or else with ``..._labelTrainIds.png``, which holds them already. Images
    may have any of the endings of
    :data:`diffkd_jax.data.images.decoding.IMAGE_ENDINGS`. Pictures without a mask are
    counted and named in the log; a split of which none has one, as that of the test, is
    left out.

    Args:
      path: folder of the two folders.
      splits: those that are needed, all by default.

    Raises:
      ValueError: no pictures with masks.
      FileNotFoundError: no such folder.
    """
    root = require_path(path)
    for part in ("leftImg8bit", "gtFine"):
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"{root}: found no folder {part}, expected leftImg8bit and gtFine"
            )
    made = {}
    for split in needed(visible_folders(root / "leftImg8bit"), splits):
        pairs = _pairs(root, split)
        if pairs:
            made[split] = pair_split(root, *zip(*pairs, strict=True), rule=rule_of)
    if not made:
        raise ValueError(
            f"{path}: found no picture with a mask, expected such as leftImg8bit/train/"
            f"aachen/NAME{PICTURE}.png and gtFine/train/aachen/NAME{MASKS[0]}.png"
        )
    return Dataset(made, CLASSES, META)


def rule_of(file: str) -> MaskRule:
    """What the values of a mask file mean, which its name decides.

    >>> rule_of("x_gtFine_labelTrainIds.png").mapping
    ()
    """
    return OF_TRAIN_IDS if os.path.splitext(file)[0].endswith(MASKS[1]) else OF_IDS


def _pairs(root: pathlib.Path, split: str) -> list[tuple[str, str]]:
    """Paths of images and their masks below the root; the others are reported."""
    pairs, alone, lonely = [], [], []
    parts = f"leftImg8bit/{split}", f"gtFine/{split}"
    cities = visible_folders(root / parts[0])
    masked = visible_folders(root / parts[1]) if (root / parts[1]).is_dir() else []
    city_of_masks, city_of_images = make_name_finder(masked), make_name_finder(cities)
    for city in cities:
        other = city_of_masks(city)
        masks = _by_end(root / parts[1] / other, MASKS) if other else {}
        images = _by_end(root / parts[0] / city, (PICTURE,), IMAGE_ENDINGS)
        find = make_name_finder(stem for stem, _ in masks)
        used = set()
        for (stem, _), name in sorted(images.items()):
            own = find(stem) or ""
            mask = next((masks[own, end] for end in MASKS if (own, end) in masks), None)
            used.add(own)
            if mask is None:
                alone.append(f"{city}/{name}")
            else:
                pairs.append(
                    (f"{parts[0]}/{city}/{name}", f"{parts[1]}/{other}/{mask}")
                )
        lonely += [
            f"{other}/{name}"
            for (stem, end), name in masks.items()
            if stem not in used and end == MASKS[0]
        ]
    for other in (name for name in masked if city_of_images(name) is None):
        found = _by_end(root / parts[1] / other, MASKS[:1])
        lonely += [f"{other}/{name}" for name in found.values()]
    report_missing(alone, "pictures without a mask", f"{root}: {split}")
    report_missing(lonely, "masks without a picture", f"{root}: {split}")
    return pairs


def _by_end(
    folder: pathlib.Path, ends: Sequence[str], endings: Sequence[str] = (".png",)
) -> dict[tuple[str, str], str]:
    """Files of a folder by what stands before one of the ends of names, and that end.

    Of several endings of one name the first in ``endings`` counts, in any case.
    """
    names: dict[tuple[str, str], str] = {}
    files = [(name, *os.path.splitext(name)) for name in sorted(os.listdir(folder))]
    for ending in endings:
        for name, stem, own in files:
            end = next((end for end in ends if stem.endswith(end)), None)
            if end and own.lower() == ending and name[0] != ".":
                names.setdefault((stem.removesuffix(end), end), name)
    return names
