"""Picture files with a mask file each, in folders of their own."""

import collections
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..formats.single_files import require_path
from ..formats.text import (
    MAX_LIST_BYTES,
    make_name_finder,
    normalise_name,
    parse_whole_number,
    printable_name,
    read_text,
)
from ..images.decoding import IMAGE_ENDINGS
from ..images.masks import MAX_CLASSES, VOID, EncodedMask, MaskRule, parse_rule
from ..split import Dataset, Doubt, Split, some_of
from ..suspects import repeated
from .folders import OF_SYSTEMS, content, needed, picture_files, visible_folders

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
    """Pictures ``images/<split>/NAME.jpg``, masks ``masks/<split>/NAME.png``.

    A name may hold folders. Names are compared as they are, then in one Unicode form,
    then with ``%20`` and the like as what they stand for; pictures without a mask and
    masks without a picture are left out, counted and named in the log. Hidden files are
    left out silently.

    Args:
      path: folder of ``images`` and ``masks``.
      splits: those that are needed, all by default.
      classes: their names, as a tuple or with commas between, or how many; else the
        lines of ``<path>/classes.txt``.
      mapping: ``"<value in the file>:<class or 255> ..."``; values that are not named
        stay. ``"0:0 255:1"`` for masks of 0 and 255, ``"0:255 1:0 2:1"`` where 0 is
        void.
      colours: ``"<red>,<green>,<blue>:<class or 255> ..."`` for masks in colours.
      turn: whether a picture is turned as its EXIF orientation says where its mask
        fits both ways.

    Raises:
      ValueError: no pairs, two pictures of one name, or options that cannot be.
    """
    root = require_path(path)
    names = class_list(classes, root / "classes.txt")
    rule = parse_rule(len(names), mapping, colours, turn)
    for part in ("images", "masks"):
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"{root}: found no folder {part}, expected images/<split>/NAME.jpg and "
                "masks/<split>/NAME.png"
            )
    made = {}
    of_masks = make_name_finder(visible_folders(root / "masks"))
    for name in needed(visible_folders(root / "images"), splits):
        other = of_masks(name) or name
        pictures = _by_stem(root / "images" / name, IMAGE_ENDINGS)
        masks = _by_stem(root / "masks" / other, (".png",))
        pairs = _paired(pictures, masks, f"{path}: {name}", (name, other))
        if pairs:
            made[name] = pair_split(root, *zip(*pairs, strict=True), rule=rule)
    if not made:
        raise ValueError(
            f"{path}: found no picture with a mask, expected images/<split>/NAME.jpg "
            "and masks/<split>/NAME.png"
        )
    return Dataset(made, names, {"ignore": VOID})


def class_list(given: Any, file: pathlib.Path | None = None) -> tuple[str, ...]:
    """Names of classes from an option of a data set, or from the lines of a file.

    The log says which names stand twice, in any Unicode form.

    Raises:
      ValueError: none, or more than masks can hold.

    >>> class_list("sky, tree"), class_list(2)
    (('sky', 'tree'), ('0', '1'))
    """
    option = given
    if given == "" and file is not None and file.is_file():
        lines = read_text(file, MAX_LIST_BYTES).splitlines()
        given = [line.strip() for line in lines if line.strip()]
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",") if name.strip()]
    if isinstance(given, float):
        given = parse_whole_number(given)
    if isinstance(given, int) and 0 < given <= MAX_CLASSES:
        given = [str(k) for k in range(given)]
    if (
        not isinstance(given, list | tuple)
        or not all(isinstance(name, str) for name in given)
        or not 0 < len(given) <= MAX_CLASSES
    ):
        at = f", or a file {file}" if file else ""
        raise ValueError(
            f"data.options.classes: found {option!r}, expected 1 to {MAX_CLASSES} "
            f"names with commas between, or how many there are{at}"
        )
    if again := repeated([normalise_name(name) for name in given]):
        LOG.warning(
            "%s: names of classes that stand twice, kept as classes of their own: %s",
            file if option == "" else "data.options.classes",
            some_of(given[place] for place in again),
        )
    return tuple(given)


def pair_split(
    root: pathlib.Path,
    images: Sequence[str],
    masks: Sequence[str],
    *,
    rule: MaskRule | Callable[[str], MaskRule],
    doubts: Sequence[Doubt] = (),
) -> Split:
    """A split of picture and mask files, read when they are asked for.

    Args:
      root: what the paths are relative to.
      images: paths of the pictures.
      masks: as many, of their masks.
      rule: of all masks, or by path.
      doubts: what was found in the split that cannot be right.
    """
    picture, name, stored = picture_files(root, images)
    # An array, since workers get a copy: a list of many paths would be slow.
    labels = np.array([os.fsencode(f) for f in masks])

    def mask(index):
        file = os.path.join(root, os.fsdecode(labels[index]))
        own = rule if isinstance(rule, MaskRule) else rule(file)
        data, fault = content(file)
        return EncodedMask(data, printable_name(file), own, fault)

    def fetch(rows):
        return {
            "image": [picture(i) for i in rows],
            "target": {"label": [mask(i) for i in rows]},
        }

    return Split(len(labels), fetch, name, stored=stored, doubts=tuple(doubts))


def report_missing(names: Iterable[str], what: str, where: str) -> None:
    """Counts and names in the log what has no partner."""
    if names := sorted(names):
        LOG.warning(
            "%s: %d %s, left out: %s",
            printable_name(where),
            len(names),
            what,
            printable_name(some_of(names, 3)),
        )


def _by_stem(folder: pathlib.Path, endings: tuple[str, ...]) -> dict[str, str]:
    """Files below a folder, as they are below it, without their ending to with it.

    Links to folders are not followed: they may lead out of the data.
    """
    found: dict[str, str] = {}
    for place, below, files in os.walk(folder):
        below[:] = sorted(n for n in below if n[0] != "." and n not in OF_SYSTEMS)
        for file in sorted(files):
            stem, ending = os.path.splitext(os.path.relpath(f"{place}/{file}", folder))
            if file[0] == "." or ending.lower() not in endings:
                continue
            if stem in found:
                raise ValueError(
                    f"{printable_name(str(folder))}: found "
                    f"{printable_name(found[stem])} and "
                    f"{printable_name(stem + ending)}, expected one file of each name"
                )
            found[stem] = stem + ending
    return found


def _paired(
    pictures: Mapping[str, str],
    masks: Mapping[str, str],
    where: str,
    folders: tuple[str, str],
) -> list[tuple[str, str]]:
    """Paths of pictures and their masks, below the root; the others are reported."""
    partner = {stem: stem for stem in pictures.keys() & masks.keys()}
    rest = masks.keys() - partner.keys()
    for form in (normalise_name, lambda stem: normalise_name(unquote(stem))):
        by_text: dict[str, list[str]] = {}
        for stem in rest - set(partner.values()):
            by_text.setdefault(form(stem), []).append(stem)
        alone = [stem for stem in pictures if stem not in partner]
        count = collections.Counter(map(form, alone))
        for stem in alone:
            text = form(stem)
            if count[text] == len(by_text.get(text, ())) == 1:
                partner[stem] = by_text[text][0]
    lonely = [masks[m] for m in rest - set(partner.values())]
    report_missing(
        [pictures[p] for p in pictures if p not in partner],
        "pictures without a mask",
        where,
    )
    report_missing(lonely, "masks without a picture", where)
    return [
        (
            f"images/{folders[0]}/{pictures[p]}",
            f"masks/{folders[1]}/{masks[partner[p]]}",
        )
        for p in sorted(partner)
    ]
