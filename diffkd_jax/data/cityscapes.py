"""Cityscapes: street scenes with masks of 19 classes (Cordts et al. 2016)."""

import os
import pathlib
from collections.abc import Sequence

from .folders import needed, visible_folders
from .formats import existing
from .masks import VOID, MaskRule
from .pairs import pair_split, report_missing
from .split import Dataset

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
PICTURE, MASK = "_leftImg8bit.png", "_gtFine_{}.png"


def load_cityscapes(path: str, splits: Sequence[str] = ()) -> Dataset:
    """Cityscapes as it is unpacked: ``leftImg8bit`` and ``gtFine``, 2048x1024.

    ``leftImg8bit/<split>/<city>/<name>_leftImg8bit.png`` goes with
    ``gtFine/<split>/<city>/<name>_gtFine_labelIds.png``, whose ids become the 19
    classes, or else with ``..._labelTrainIds.png``, which holds them already. Pictures
    without a mask are counted and named in the log; a split of which none has one, as
    that of the test, is left out.

    Args:
      path: folder of the two folders.
      splits: those that are needed, all by default.

    Raises:
      ValueError: no pictures with masks.
      FileNotFoundError: no such folder.
    """
    root = existing(path)
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
            f"aachen/NAME{PICTURE} and gtFine/train/aachen/"
            f"NAME{MASK.format('labelIds')}"
        )
    return Dataset(made, CLASSES, META)


def rule_of(file: str) -> MaskRule:
    """What the values of a mask file mean, which its name decides.

    >>> rule_of("x_gtFine_labelTrainIds.png").mapping
    ()
    """
    return OF_TRAIN_IDS if file.endswith("_labelTrainIds.png") else OF_IDS


def _pairs(root: pathlib.Path, split: str) -> list[tuple[str, str]]:
    pairs, alone, lonely = [], [], []
    pictures, masks = f"leftImg8bit/{split}", f"gtFine/{split}"
    there = visible_folders(root / masks) if (root / masks).is_dir() else []
    cities = visible_folders(root / pictures)
    for city in sorted({*cities, *there}):
        names, known = (
            set(os.listdir(root / part / city)) if city in found else set()
            for part, found in ((pictures, cities), (masks, there))
        )
        stems = {n.removesuffix(PICTURE) for n in names if n.endswith(PICTURE)}
        for stem in sorted(stems):
            both = (stem + MASK.format(ids) for ids in ("labelIds", "labelTrainIds"))
            mask = next((name for name in both if name in known), None)
            if mask is None:
                alone.append(f"{city}/{stem}{PICTURE}")
            else:
                pairs.append(
                    (f"{pictures}/{city}/{stem}{PICTURE}", f"{masks}/{city}/{mask}")
                )
        end = MASK.format("labelIds")
        of_masks = {n.removesuffix(end) for n in known if n.endswith(end)}
        lonely += [f"{city}/{stem}{end}" for stem in of_masks - stems]
    report_missing(alone, "pictures without a mask", f"{root}: {split}")
    report_missing(lonely, "masks without a picture", f"{root}: {split}")
    return pairs
