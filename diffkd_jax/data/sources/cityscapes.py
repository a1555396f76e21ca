"""Cityscapes: street scenes with masks of 19 classes (Cordts et al. 2016)."""

import os
import pathlib
from collections.abc import Sequence

from ..formats.file_access import list_folders, select_splits
from ..formats.single_files import require_path
from ..formats.text import make_name_finder
from ..images.headers import IMAGE_ENDINGS
from ..images.mask_rules import VOID, MaskRule
from ..split import Dataset
from .pairs import make_pair_split, report_missing

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
# Ids of the classes in order. The other ids from -1 to 33 mark pixels to ignore.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
ID_RULE = MaskRule(
    len(CLASSES),
    tuple((i, IDS.index(i) if i in IDS else VOID) for i in range(-1, 34)),
)
TRAIN_ID_RULE = MaskRule(len(CLASSES))
META = {
    "ignore": VOID,
    "palette": [list(colour) for colour in PALETTE],
    "ids": list(IDS),
}
IMAGE_END = "_leftImg8bit"
MASKS = "_gtFine_labelIds", "_gtFine_labelTrainIds"  # the first is preferred


def load_cityscapes(path: str, splits: Sequence[str] = ()) -> Dataset:
    """Loads Cityscapes as it is unpacked: ``leftImg8bit`` and ``gtFine``, 2048x1024.

    The image ``leftImg8bit/<split>/<city>/<name>_leftImg8bit.png`` belongs to the mask
    ``gtFine/<split>/<city>/<name>_gtFine_labelIds.png``, whose ids are mapped to the 19
    classes. If this mask does not exist, ``..._labelTrainIds.png`` is taken, which
    holds the classes themselves. Images may have any of the endings in
    :data:`diffkd_jax.data.images.headers.IMAGE_ENDINGS`. Images without a mask are
    counted and named in the log. A split without any mask, such as the official test
    split, is left out.

    Args:
      path: folder that holds ``leftImg8bit`` and ``gtFine``.
      splits: names of the splits to load; all by default, or if one of them is missing.

    Raises:
      ValueError: no image has a mask.
      FileNotFoundError: one of the two folders is missing.

    >>> import tempfile
    >>> image = "leftImg8bit/train/ulm/1_leftImg8bit.png"
    >>> mask = "gtFine/train/ulm/1_gtFine_labelIds.png"
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in (image, mask):
    ...         file = pathlib.Path(root, name)
    ...         file.parent.mkdir(parents=True)
    ...         file.touch()
    ...     load_cityscapes(root).splits["train"].size
    1
    """
    root = require_path(path)
    for part in ("leftImg8bit", "gtFine"):
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"{root}: found no folder {part}, expected leftImg8bit and gtFine"
            )
    loaded = {}
    for split in select_splits(list_folders(root / "leftImg8bit"), splits):
        pairs = _pairs(root, split)
        if pairs:
            loaded[split] = make_pair_split(
                root, *zip(*pairs, strict=True), rule=choose_rule
            )
    if not loaded:
        raise ValueError(
            f"{path}: found no image with a mask, expected such as leftImg8bit/train/"
            f"aachen/NAME{IMAGE_END}.png and gtFine/train/aachen/NAME{MASKS[0]}.png"
        )
    return Dataset(loaded, CLASSES, META)


def choose_rule(file: str) -> MaskRule:
    """Returns the rule for the values of a mask file, chosen by its name.

    Args:
      file: name or path of the mask.

    >>> choose_rule("x_gtFine_labelTrainIds.png").mapping
    ()
    """
    return TRAIN_ID_RULE if os.path.splitext(file)[0].endswith(MASKS[1]) else ID_RULE


def _pairs(root: pathlib.Path, split: str) -> list[tuple[str, str]]:
    """Returns pairs of image and mask below the root; logs those without a partner."""
    pairs, images_alone, masks_alone = [], [], []
    parts = f"leftImg8bit/{split}", f"gtFine/{split}"
    cities = list_folders(root / parts[0])
    mask_cities = list_folders(root / parts[1]) if (root / parts[1]).is_dir() else []
    find_mask_city = make_name_finder(mask_cities)
    find_image_city = make_name_finder(cities)
    for city in cities:
        mask_city = find_mask_city(city)
        masks = _list_by_kind(root / parts[1] / mask_city, MASKS) if mask_city else {}
        images = _list_by_kind(root / parts[0] / city, (IMAGE_END,), IMAGE_ENDINGS)
        find = make_name_finder(stem for stem, _ in masks)
        used = set()
        for (stem, _), name in sorted(images.items()):
            mask_stem = find(stem) or ""
            mask = next(
                (
                    masks[mask_stem, kind]
                    for kind in MASKS
                    if (mask_stem, kind) in masks
                ),
                None,
            )
            used.add(mask_stem)
            if mask is None:
                images_alone.append(f"{city}/{name}")
            else:
                pairs.append(
                    (f"{parts[0]}/{city}/{name}", f"{parts[1]}/{mask_city}/{mask}")
                )
        masks_alone += [
            f"{mask_city}/{name}"
            for (stem, kind), name in masks.items()
            if stem not in used and kind == MASKS[0]
        ]
    for mask_city in (name for name in mask_cities if find_image_city(name) is None):
        masks = _list_by_kind(root / parts[1] / mask_city, MASKS[:1])
        masks_alone += [f"{mask_city}/{name}" for name in masks.values()]
    report_missing(images_alone, "images without a mask", f"{root}: {split}")
    report_missing(masks_alone, "masks without an image", f"{root}: {split}")
    return pairs


def _list_by_kind(
    folder: pathlib.Path, kinds: Sequence[str], endings: Sequence[str] = (".png",)
) -> dict[tuple[str, str], str]:
    """Returns the files of one kind in a folder, such as ``NAME_gtFine_labelIds.png``.

    ``kinds`` are accepted texts between ``NAME`` and the ending, such as
    ``_gtFine_labelIds``. The result maps ``(NAME, kind)`` to the name of the file. If
    files differ only in their ending, the one whose ending is first in ``endings`` is
    taken. The case of endings is ignored.
    """
    names: dict[tuple[str, str], str] = {}
    files = [(name, *os.path.splitext(name)) for name in sorted(os.listdir(folder))]
    for ending in endings:
        for name, stem, file_ending in files:
            kind = next((kind for kind in kinds if stem.endswith(kind)), None)
            if kind and file_ending.lower() == ending and name[0] != ".":
                names.setdefault((stem.removesuffix(kind), kind), name)
    return names
