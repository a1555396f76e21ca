"""Entries of a data set that cannot be right: logged, and refused above a share."""

import itertools
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from .split import Finding

LOG = logging.getLogger(__name__)
MIN_TOTAL = 100  # of fewer, one example would be more than 1 %, and would end a run


def note_finding(
    rows: Sequence[int] | np.ndarray,
    total: int,
    text: str,
    where: str,
    name_of: Callable[[int], str],
) -> tuple[Finding, ...]:
    """Logs one line about rows that cannot be right, and returns it as a finding.

    Args:
      rows: the examples or objects; without any, nothing is logged.
      total: number of all examples or objects.
      text: what is wrong with them, and what is done about it.
      where: name of the split.
      name_of: function from a row to its name.

    Returns:
      One finding, or none without rows.
    """
    if not len(rows):
        return ()
    shown = some_of((name_of(int(i)) for i in rows), 3)
    line = f"{where}: {len(rows)} of {total} {text}: {shown}"
    LOG.warning("%s", line)
    return (Finding(len(rows), total, line),)


def refuse_findings(findings: Iterable[Finding], max_share: float) -> None:
    """Refuses findings that concern a larger share than allowed.

    Data of fewer than :data:`MIN_TOTAL` examples or objects are never refused.

    Args:
      findings: findings about a split.
      max_share: largest share that is accepted, ``data.max_doubtful``.

    Raises:
      ValueError: names the first finding above the share.
    """
    for finding in findings:
        if finding.total >= MIN_TOTAL and finding.number > max_share * finding.total:
            raise ValueError(
                f"data.max_doubtful: found {finding.text}; expected at most a share of "
                f"{max_share:g} ({100 * finding.number / finding.total:.1f} % here); "
                "correct the data, or raise this share if it is meant so"
            )


def find_repeats(values: Sequence[Hashable]) -> dict[int, int]:
    """Returns the index of each repeated value, with the index of its first occurrence.

    >>> find_repeats(["a", "b", "a", "a"])
    {2: 0, 3: 0}
    """
    first: dict[Any, int] = {}
    duplicates = {}
    for index, value in enumerate(values):
        if (start := first.setdefault(value, index)) != index:
            duplicates[index] = start
    return duplicates


def note_same_files(
    files: Sequence[Hashable], where: str, name_of: Callable[[int], str]
) -> tuple[Finding, ...]:
    """Reports entries whose image file belongs to an earlier entry too.

    Args:
      files: path of the image of each entry, as the disk has it.
      where: name of the split, for messages.
      name_of: function from the index of an entry to its name.

    Returns:
      One finding, or none.
    """
    duplicates = list(find_repeats(files))
    text = "entries are the same image file as an earlier one"
    return note_finding(duplicates, len(files), text, where, name_of)


def some_of(texts: Iterable[str], max_count: int = 5) -> str:
    """Returns a list for a line of a log: the first texts, and how many more there are.

    Args:
      texts: the texts.
      max_count: largest number of texts to show.

    >>> some_of("abcdefgh", 3)
    'a, b, c and 5 more'
    """
    remaining = iter(texts)
    first = ", ".join(itertools.islice(remaining, max_count))
    more = sum(1 for _ in remaining)
    return f"{first} and {more} more" if more else first
