"""What cannot be right in a data set: counted, named once, refused above a share."""

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from .split import Doubt, some_of

LOG = logging.getLogger(__name__)
FEWEST = 100  # of fewer a single one would be more than 1 %, and end a run


def note_doubts(
    rows: Sequence[int] | np.ndarray,
    total: int,
    text: str,
    where: str,
    called: Callable[[int], str],
) -> tuple[Doubt, ...]:
    """Logs one line about rows that cannot be right, and returns it as a doubt.

    Args:
      rows: of the examples or objects in question; nothing is logged for none.
      total: how many examples or objects there are.
      text: what is odd about them, and what is done.
      where: name of the split.
      called: row to its name.

    Returns:
      One doubt, or none without rows.
    """
    if not len(rows):
        return ()
    shown = some_of((called(int(i)) for i in rows), 3)
    line = f"{where}: {len(rows)} of {total} {text}: {shown}"
    LOG.warning("%s", line)
    return (Doubt(len(rows), total, line),)


def refuse(doubts: Iterable[Doubt], most: float) -> None:
    """Refuses what is doubtful in a larger share than is allowed.

    Data of fewer than :data:`FEWEST` examples or objects in all are never refused.

    Args:
      doubts: of a split.
      most: allowed share, ``data.max_doubtful``.

    Raises:
      ValueError: names the first doubt above the share.
    """
    for doubt in doubts:
        if doubt.total >= FEWEST and doubt.number > most * doubt.total:
            raise ValueError(
                f"data.max_doubtful: found {doubt.text}; expected at most a share of "
                f"{most:g} ({100 * doubt.number / doubt.total:.1f} % here); correct "
                "the data, or raise this share if it is meant so"
            )


def repeated(values: Sequence[Hashable]) -> dict[int, int]:
    """Maps the index of each repeated value to the index of its first occurrence.

    >>> repeated(["a", "b", "a", "a"])
    {2: 0, 3: 0}
    """
    first: dict[Any, int] = {}
    again = {}
    for place, value in enumerate(values):
        if (start := first.setdefault(value, place)) != place:
            again[place] = start
    return again


def note_same_files(
    files: Sequence[Hashable], where: str, called: Callable[[int], str]
) -> tuple[Doubt, ...]:
    """Logs entries that name the image file of an earlier entry, and returns a doubt.

    Args:
      files: path of the image of each entry, as the disk has it.
      where: name of the split, for messages.
      called: entry to its name.
    """
    again = list(repeated(files))
    text = "entries are the same image file as an earlier one"
    return note_doubts(again, len(files), text, where, called)
