"""Evaluation images that are also in training, found without decoding images."""

import collections
import hashlib
import logging
import os

import numpy as np

from .findings import some_of
from .formats.text import normalise_name
from .split import Finding, Split, Stored

LOG = logging.getLogger(__name__)
MAX_FILES = 5000  # of both splits together, up to which all files are compared
MAX_BYTES = 2**30  # largest number of bytes to read and compare
MAX_EXAMINED = 500  # images of larger sets that share a file name
Candidates = dict[int, list[int]]  # evaluation row to rows of training


def find_leaks(train: Split, evaluation: Split, where: str) -> tuple[Finding, ...]:
    """Counts evaluation images that are also in training, and logs the first of them.

    Arrays in memory and small sets of files are compared by their bytes. In larger
    sets, only files with the same name in both splits are compared, up to
    :data:`MAX_EXAMINED` of them, and the number is estimated. Images that were saved
    again, at another size or quality, are not found.

    Args:
      train: training split.
      evaluation: evaluation split.
      where: name of the data set, for messages.

    Returns:
      One finding, or none.

    >>> from diffkd_jax.data.array_splits import make_array_split
    >>> image = np.arange(2, dtype=np.uint8)[:, None, None]
    >>> split = make_array_split(image, np.array([0, 1]), 2, "here")
    >>> find_leaks(split, split, "here")[0].number
    2
    """
    first, second = train.stored, evaluation.stored
    if first is None or second is None:
        return ()
    by_content = _match_content(first, train.size, second, evaluation.size)
    if by_content is not None:
        copies, count, about = by_content, len(by_content), ""
    else:
        candidates = _match_names(first, second)
        rows = sorted(candidates)
        chosen = np.unique(np.linspace(0, len(rows), MAX_EXAMINED, False).astype(int))
        examined = [rows[i] for i in chosen] if rows else []
        copies = [
            row for row in examined if _is_copy(second, row, first, candidates[row])
        ]
        count = round(len(copies) * len(rows) / max(len(examined), 1))
        about = "about " if len(examined) < len(rows) else ""
    if not copies:
        return ()
    text = (
        f"{where}: {about}{count} of {evaluation.size} evaluation images are also in "
        "training, so scores are better than on new images: "
        f"{some_of(map(evaluation.name, copies), 3)}"
    )
    LOG.warning("%s", text)
    return (Finding(count, evaluation.size, text),)


def _match_content(
    first: Stored, train_size: int, second: Stored, evaluation_size: int
) -> list[int] | None:
    """Returns the evaluation rows whose bytes are those of a training image.

    Of several evaluation images with the same bytes, only the first is returned. The
    result is None if there are too many images or bytes to compare.
    """
    in_memory = first.in_memory and second.in_memory
    if not in_memory and train_size + evaluation_size > MAX_FILES:
        return None
    sizes = [
        [-1 if part.size is None else part.size(i) for i in range(count)]
        for part, count in ((first, train_size), (second, evaluation_size))
    ]
    common = set(sizes[0]) & set(sizes[1])
    chosen = [[i for i, size in enumerate(part) if size in common] for part in sizes]
    total = sum(part[i] for part, rows in zip(sizes, chosen, strict=True) for i in rows)
    if total > MAX_BYTES:
        return None
    digests = {_digest(first.read(i)) for i in chosen[0]}
    digests.discard(_digest(b""))  # files that cannot be read
    # Each content counts once, since blank images are alike and are not a leak.
    shared = {_digest(second.read(i)): i for i in reversed(chosen[1])}
    return sorted(i for digest, i in shared.items() if digest in digests)


def _match_names(first: Stored, second: Stored) -> Candidates:
    """Returns up to 100 training images with the file name of each evaluation image."""
    if first.files is None or second.files is None:
        return {}
    names = collections.defaultdict(list)
    wanted = {_file_name(path) for path in second.files.tolist()}
    for row, path in enumerate(first.files.tolist()):
        if (name := _file_name(path)) in wanted:
            names[name].append(row)
    pairs = (
        (row, names.get(_file_name(p))) for row, p in enumerate(second.files.tolist())
    )
    return {row: rows[:100] for row, rows in pairs if rows}


def _file_name(path: bytes) -> bytes | str:
    """Returns the file name of a path, in one Unicode form."""
    name = path.rpartition(b"/")[2]
    return name if name.isascii() else normalise_name(os.fsdecode(name))


def _is_copy(second: Stored, row: int, first: Stored, others: list[int]) -> bool:
    """Returns whether a row of ``second`` is one of some rows of ``first``."""
    if any(_path(first, other) == _path(second, row) for other in others):
        return True
    assert first.size is not None
    assert second.size is not None
    size = second.size(row)
    same = [other for other in others if first.size(other) == size > 0]
    return bool(same) and second.read(row) in map(first.read, same)


def _path(stored: Stored, row: int) -> bytes:
    """Returns the path of an image."""
    assert stored.files is not None
    return os.path.join(stored.folder, stored.files[row])


def _digest(data: bytes) -> bytes:
    """Returns a short hash of some bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()
