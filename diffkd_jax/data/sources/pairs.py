"""Image files with one mask file each, in folders of their own."""

import collections
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..findings import some_of
from ..formats.class_lists import parse_class_names
from ..formats.file_access import (
    SYSTEM_NAMES,
    list_folders,
    make_image_files,
    read_file,
    select_splits,
)
from ..formats.single_files import require_path
from ..formats.text import (
    make_name_finder,
    normalise_name,
    printable_name,
)
from ..images.headers import IMAGE_ENDINGS
from ..images.mask_rules import VOID, MaskRule, parse_rule
from ..images.masks import EncodedMask
from ..split import Dataset, Finding, Split

LOG = logging.getLogger(__name__)


def load_masks(
    path: str,
    splits: Sequence[str] = (),
    *,
    classes: Any = "",
    mapping: Any = "",
    colours: Any = "",
    turn: bool = True,
) -> Dataset:
    """Loads images ``images/<split>/NAME.jpg`` with masks ``masks/<split>/NAME.png``.

    ``NAME`` may hold folders. A mask belongs to the image of the same name. Names are
    compared as they are, then in one Unicode form, then with ``%20`` and the like
    decoded. Images without a mask and masks without an image are left out, counted and
    named in the log. Hidden files are left out silently.

    Args:
      path: folder that holds ``images`` and ``masks``.
      splits: names of the splits to load; all by default, or if one of them is missing.
      classes: names of the classes, as a tuple or separated by commas, or their number;
        by default the lines of ``<path>/classes.txt``.
      mapping: ``"<value in the file>:<class or 255> ..."``; other values are kept.
        Use ``"0:0 255:1"`` for masks of 0 and 255, and ``"0:255 1:0 2:1"`` if 0 marks
        pixels to ignore.
      colours: ``"<red>,<green>,<blue>:<class or 255> ..."`` for masks in colours.
      turn: if true, turn an image by its EXIF orientation if its mask fits both ways.

    Raises:
      ValueError: there are no pairs, two images have one name, or an option is invalid.
      FileNotFoundError: ``images`` or ``masks`` is missing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for file in ("images/train/1.jpg", "masks/train/1.png"):
    ...         pathlib.Path(root, file).parent.mkdir(parents=True)
    ...         pathlib.Path(root, file).touch()
    ...     load_masks(root, classes="sky, tree").splits["train"].size
    1
    """
    root = require_path(path)
    names = parse_class_names(classes, root / "classes.txt")
    rule = parse_rule(len(names), mapping, colours, turn)
    for part in ("images", "masks"):
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"{root}: found no folder {part}, expected images/<split>/NAME.jpg and "
                "masks/<split>/NAME.png"
            )
    loaded = {}
    find_mask_folder = make_name_finder(list_folders(root / "masks"))
    for name in select_splits(list_folders(root / "images"), splits):
        mask_folder = find_mask_folder(name) or name
        images = _by_stem(root / "images" / name, IMAGE_ENDINGS)
        masks = _by_stem(root / "masks" / mask_folder, (".png",))
        pairs = _paired(images, masks, f"{path}: {name}", (name, mask_folder))
        if pairs:
            loaded[name] = make_pair_split(root, *zip(*pairs, strict=True), rule=rule)
    if not loaded:
        raise ValueError(
            f"{path}: found no image with a mask, expected images/<split>/NAME.jpg "
            "and masks/<split>/NAME.png"
        )
    return Dataset(loaded, names, {"ignore": VOID})


def make_pair_split(
    root: pathlib.Path,
    images: Sequence[str],
    masks: Sequence[str],
    *,
    rule: MaskRule | Callable[[str], MaskRule],
    findings: Sequence[Finding] = (),
) -> Split:
    """Creates a split of image and mask files, which are read on demand.

    Args:
      root: folder that the paths are relative to.
      images: ``n`` paths of images.
      masks: ``n`` paths of their masks.
      rule: how values of masks become classes; one rule for all masks, or a function
        from a path to a rule.
      findings: findings about the split.

    >>> folder = pathlib.Path("data")
    >>> make_pair_split(folder, ["1.jpg"], ["1.png"], rule=MaskRule(2)).size
    1
    """
    read_image, name, stored = make_image_files(root, images)
    # An array, since each worker gets a copy; a list of many paths would be slow.
    mask_paths = np.array([os.fsencode(f) for f in masks])

    def read_mask(index: int) -> EncodedMask:
        file = os.path.join(root, os.fsdecode(mask_paths[index]))
        rule_of_file = rule if isinstance(rule, MaskRule) else rule(file)
        data, fault = read_file(file)
        return EncodedMask(data, printable_name(file), rule_of_file, fault)

    def fetch(rows: np.ndarray) -> dict[str, Any]:
        return {
            "image": [read_image(i) for i in rows],
            "target": {"label": [read_mask(i) for i in rows]},
        }

    return Split(len(mask_paths), fetch, name, stored=stored, findings=tuple(findings))


def report_missing(names: Iterable[str], what: str, split_name: str) -> None:
    """Logs how many files have no partner, and the first of them.

    Args:
      names: names of the files.
      what: description of the files.
      split_name: name of the split.

    >>> report_missing([], "images without a mask", "train")
    """
    if names := sorted(names):
        LOG.warning(
            "%s: %d %s, left out: %s",
            printable_name(split_name),
            len(names),
            what,
            printable_name(some_of(names, 3)),
        )


def _by_stem(folder: pathlib.Path, endings: tuple[str, ...]) -> dict[str, str]:
    """Returns the files below a folder: path without ending to path.

    Links to folders are not followed: they may lead out of the data.
    """
    names: dict[str, str] = {}
    for subfolder, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(
            n for n in subfolders if n[0] != "." and n not in SYSTEM_NAMES
        )
        for file in sorted(files):
            stem, ending = os.path.splitext(
                os.path.relpath(f"{subfolder}/{file}", folder)
            )
            if file[0] == "." or ending.lower() not in endings:
                continue
            if stem in names:
                raise ValueError(
                    f"{printable_name(str(folder))}: found "
                    f"{printable_name(names[stem])} and "
                    f"{printable_name(stem + ending)}, expected one file of each name"
                )
            names[stem] = stem + ending
    return names


def _paired(
    images: Mapping[str, str],
    masks: Mapping[str, str],
    split_name: str,
    folders: tuple[str, str],
) -> list[tuple[str, str]]:
    """Returns pairs of image and mask below the root; logs those without a partner."""
    partner = {stem: stem for stem in images.keys() & masks.keys()}
    masks_left = masks.keys() - partner.keys()
    for normalise in (normalise_name, lambda stem: normalise_name(unquote(stem))):
        masks_by_text: dict[str, list[str]] = {}
        for stem in masks_left - set(partner.values()):
            masks_by_text.setdefault(normalise(stem), []).append(stem)
        images_alone = [stem for stem in images if stem not in partner]
        count = collections.Counter(map(normalise, images_alone))
        for stem in images_alone:
            text = normalise(stem)
            if count[text] == len(masks_by_text.get(text, ())) == 1:
                partner[stem] = masks_by_text[text][0]
    masks_alone = [masks[m] for m in masks_left - set(partner.values())]
    report_missing(
        [images[p] for p in images if p not in partner],
        "images without a mask",
        split_name,
    )
    report_missing(masks_alone, "masks without an image", split_name)
    return [
        (
            f"images/{folders[0]}/{images[p]}",
            f"masks/{folders[1]}/{masks[partner[p]]}",
        )
        for p in sorted(partner)
    ]
