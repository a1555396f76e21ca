"""Evaluation images that are also in training, found without decoding any."""

import collections
import hashlib
import logging
import os

import numpy as np

from .formats.text import normalise_name
from .split import Doubt, Split, Stored, some_of

LOG = logging.getLogger(__name__)
MOST_FILES = 5000  # of both splits, all of which are compared by their content
MOST_BYTES = 2**30  # that are read and compared
MOST_LOOKED_AT = 500  # images of larger sets, among those that share a file name
Candidates = dict[int, list[int]]  # evaluation row to rows of training


def find_leaks(train: Split, evaluation: Split, where: str) -> tuple[Doubt, ...]:
    """Counts evaluation images that are also in training, and logs the first of them.

    Arrays in memory and small sets of files are compared by their bytes. In larger sets
    files are compared that have one name in both splits: up to :data:`MOST_LOOKED_AT`
    of them, from which the number is estimated. Images that were stored anew, at
    another size or quality, are not found.

    Args:
      train: training split.
      evaluation: another split.
      where: name of both, for messages.

    Returns:
      One doubt, or none.
    """
    first, second = train.stored, evaluation.stored
    if first is None or second is None:
        return ()
    whole = _of_one_content(first, train.size, second, evaluation.size)
    if whole is not None:
        found, count, about = whole, len(whole), ""
    else:
        candidates = _of_one_name(first, second)
        rows = sorted(candidates)
        some = np.unique(np.linspace(0, len(rows), MOST_LOOKED_AT, False).astype(int))
        looked_at = [rows[i] for i in some] if rows else []
        found = [
            row for row in looked_at if _is_copy(second, row, first, candidates[row])
        ]
        count = round(len(found) * len(rows) / max(len(looked_at), 1))
        about = "about " if len(looked_at) < len(rows) else ""
    if not found:
        return ()
    text = (
        f"{where}: {about}{count} of {evaluation.size} evaluation images are also in "
        "training, so scores are better than on new images: "
        f"{some_of(map(evaluation.name, found), 3)}"
    )
    LOG.warning("%s", text)
    return (Doubt(count, evaluation.size, text),)


def _of_one_content(
    first: Stored, train_size: int, second: Stored, evaluation_size: int
) -> list[int] | None:
    """Returns evaluation rows with the bytes of a training image; None if too many.

    Of evaluation images with the same bytes the first counts.
    """
    in_memory = first.in_memory and second.in_memory
    if not in_memory and train_size + evaluation_size > MOST_FILES:
        return None
    sizes = [
        [-1 if part.size is None else part.size(i) for i in range(count)]
        for part, count in ((first, train_size), (second, evaluation_size))
    ]
    common = set(sizes[0]) & set(sizes[1])
    chosen = [[i for i, size in enumerate(part) if size in common] for part in sizes]
    total = sum(part[i] for part, rows in zip(sizes, chosen, strict=True) for i in rows)
    if total > MOST_BYTES:
        return None
    known = {_digest(first.read(i)) for i in chosen[0]}
    known.discard(_digest(b""))  # of files that cannot be read
    # Each content counts once: blank images are alike, and no leak.
    shared = {_digest(second.read(i)): i for i in reversed(chosen[1])}
    return sorted(i for digest, i in shared.items() if digest in known)


def _of_one_name(first: Stored, second: Stored) -> Candidates:
    """Returns for each evaluation image the training images of the same file name."""
    if first.files is None or second.files is None:
        return {}
    names = collections.defaultdict(list)
    wanted = {_base(path) for path in second.files.tolist()}
    for row, path in enumerate(first.files.tolist()):
        if (name := _base(path)) in wanted:
            names[name].append(row)
    found = ((row, names.get(_base(p))) for row, p in enumerate(second.files.tolist()))
    return {row: rows[:100] for row, rows in found if rows}


def _base(path: bytes) -> bytes | str:
    name = path.rpartition(b"/")[2]
    return name if name.isascii() else normalise_name(os.fsdecode(name))


def _is_copy(second: Stored, row: int, first: Stored, others: list[int]) -> bool:
    """Whether an image has the bytes of one of the other split."""
    if any(_path(first, other) == _path(second, row) for other in others):
        return True
    assert first.size is not None
    assert second.size is not None
    size = second.size(row)
    same = [other for other in others if first.size(other) == size > 0]
    return bool(same) and second.read(row) in map(first.read, same)


def _path(stored: Stored, row: int) -> bytes:
    assert stored.files is not None
    return os.path.join(stored.folder, stored.files[row])


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
