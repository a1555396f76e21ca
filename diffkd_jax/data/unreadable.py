"""What takes the place of pictures that do not decode."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .decoding import UnreadablePicture
from .draws import Draws
from .orientation import alike
from .split import Split

Batch = dict[str, Any]
MOST_TRIES = 10


def replace_failed(
    split: Split, transform: Callable[[Batch, Draws], Batch], draws: Draws
) -> Batch:
    """The examples ``draws.rows``, transformed; others for those that fail.

    Which ones do is what ``transform`` reports as ``failed``.

    ``index``, int ``[n]``, says which rows are in it, ``mask`` is 1; ``skipped``, int
    ``[n]``, names up to ``n`` of those that failed, followed by -1.

    Raises:
      UnreadablePicture: nothing decodes in ten times as many draws.
      ValueError: pictures of different sizes.
    """
    rows = draws.rows
    batch = transform(split.fetch(rows), draws)
    failed = batch.pop("failed", np.zeros(len(rows), bool))
    skipped, index, still = list(rows[failed]), np.array(rows), failed
    while failed.any():
        if len(skipped) > MOST_TRIES * len(rows):
            raise UnreadablePicture(
                f"{split.name(skipped[0])} and others: found no picture that decodes "
                f"in {len(skipped)} draws"
            )
        draws = draws.again(still)
        # The draw after those of a shift and a mirror.
        pool = alike(split, int(rows[0]))
        others = pool[(draws.uniform(4)[:, 3] * len(pool)).astype(int)]
        other = transform(split.fetch(others), draws)
        still = other.pop("failed")
        if failed.all():
            batch = other  # whose pictures may have a size, where these have none
        elif not still.all():
            _write_rows(batch, failed, other)
        index[failed] = others
        skipped += list(others[still])
        failed[failed] = still
    listed = np.full(len(rows), -1)
    listed[: len(skipped)] = skipped[: len(rows)]
    mask = np.ones(len(rows), np.float32)
    return batch | {"index": index, "mask": mask, "skipped": listed}


def _write_rows(batch: Batch, where: np.ndarray, other: Batch) -> None:
    """Puts the rows of ``other`` where ``where`` is true, in place, targets too."""
    for name, value in other.items():
        if isinstance(value, dict):
            _write_rows(batch[name], where, value)
            continue
        if value.shape[1:] != batch[name].shape[1:]:
            raise ValueError(
                f"data.image_size: found 0 for pictures of {value.shape[1:]} "
                f"and {batch[name].shape[1:]}, expected a size in pixels "
                "(data.train_size for masks)"
            )
        batch[name][where] = value


def first_readable(split: Split, transform: Callable[[Batch], Batch]) -> Batch:
    """The first example that decodes, as a batch of one.

    Raises:
      UnreadablePicture: none of the first thousand does.
    """
    for row in range(min(split.size, 1000)):
        batch = transform(split.fetch(np.array([row])))
        if not batch.pop("failed", np.zeros(1, bool)).all():
            return batch
    raise UnreadablePicture(
        f"{split.name(0)} and others: found no picture that decodes"
    )


def readable(split: Split, transform: Callable[[Batch], Batch], count: int) -> Batch:
    """The first example that decodes, so many times: to have arrays of its size."""
    first = first_readable(split, transform)
    return _repeated({k: v for k, v in first.items() if k != "failed"}, count)


def _repeated(batch: Batch, count: int) -> Batch:
    return {
        name: _repeated(value, count)
        if isinstance(value, dict)
        else np.repeat(value, count, 0)
        for name, value in batch.items()
    }
