"""Names of classes, from an option or from a file with one name on each line."""

import logging
import pathlib
from typing import Any

from ..findings import find_repeats, some_of
from ..images.mask_rules import MAX_MASK_CLASSES
from .text import MAX_LIST_BYTES, normalise_name, parse_whole_number, read_text

LOG = logging.getLogger(__name__)


def parse_class_names(option: Any, file: pathlib.Path | None = None) -> tuple[str, ...]:
    """Returns names of classes from an option, or from the lines of a file.

    The log says which names occur twice, in any Unicode form.

    Args:
      option: names as a list, a tuple or a text separated by commas; a number of
        classes; or "" to read the file.
      file: path of a file with one name on each line, which need not exist.

    Raises:
      ValueError: there are no names, or more than masks can hold.

    >>> parse_class_names("sky, tree"), parse_class_names(2)
    (('sky', 'tree'), ('0', '1'))
    """
    names = option
    if names == "" and file is not None and file.is_file():
        lines = read_text(file, MAX_LIST_BYTES).splitlines()
        names = [line.strip() for line in lines if line.strip()]
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    if isinstance(names, float):
        names = parse_whole_number(names)
    if isinstance(names, int) and 0 < names <= MAX_MASK_CLASSES:
        names = [str(k) for k in range(names)]
    if (
        not isinstance(names, list | tuple)
        or not all(isinstance(name, str) for name in names)
        or not 0 < len(names) <= MAX_MASK_CLASSES
    ):
        or_file = f", or a file {file}" if file else ""
        raise ValueError(
            f"data.options.classes: found {option!r}, expected 1 to {MAX_MASK_CLASSES} "
            f"names with commas between, or how many there are{or_file}"
        )
    if duplicates := find_repeats([normalise_name(name) for name in names]):
        LOG.warning(
            "%s: names of classes that occur twice, kept as separate classes: %s",
            file if option == "" else "data.options.classes",
            some_of(names[index] for index in duplicates),
        )
    return tuple(names)
