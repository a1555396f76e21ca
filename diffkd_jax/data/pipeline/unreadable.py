"""Replacement of images that do not decode, and the reasons why they do not."""

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..images.decoding import decode_image
from ..images.encoded import NOT_AN_IMAGE, UnreadableImage
from ..images.masks import EncodedMask, read_mask
from ..split import Split
from ..transforms.draws import Draws
from .groups import rows_of_same_group

Batch = dict[str, Any]
LOG = logging.getLogger(__name__)
MAX_TRIES = 10
_NUMBERS = re.compile(
    r"b'[^']*'|b\"[^\"]*\"|'[^']*'|/\S+|[0-9]+"
)  # parts that differ between images


def replace_failed(
    split: Split, transform: Callable[[Batch, Draws], Batch], draws: Draws
) -> Batch:
    """Returns transformed examples, with others in place of those that do not decode.

    ``transform`` marks the examples that fail as ``failed``. The result holds
    ``index``, int ``[n]``, the rows it is made of; ``mask``, 1 for each; and
    ``skipped``, int ``[n]``, up to ``n`` rows that failed, followed by -1.

    Args:
      split: random access to examples.
      transform: augmentation of a batch, ``(batch, draws) -> batch``.
      draws: source of the randomness, with the wanted rows.

    Raises:
      UnreadableImage: no image decodes in ten times as many draws.
      ValueError: images of different sizes.
    """
    rows = draws.rows
    batch = transform(split.fetch(rows), draws)
    failed = batch.pop("failed", np.zeros(len(rows), bool))
    skipped, index, still = list(rows[failed]), np.array(rows), failed
    while failed.any():
        if len(skipped) > MAX_TRIES * len(rows):
            raise UnreadableImage(
                f"{split.name(skipped[0])} and others: found no image that decodes "
                f"in {len(skipped)} draws; this one: {find_reason(split, skipped[0])}"
            )
        draws = draws.again(still)
        # The fourth number, since a shift and a mirror use three.
        pool = rows_of_same_group(split, int(rows[0]))
        others = pool[(draws.uniform(4)[:, 3] * len(pool)).astype(int)]
        other = transform(split.fetch(others), draws)
        still = other.pop("failed")
        if failed.all():
            batch = other  # without any image, the batch may lack the right size
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
    """Writes rows of another batch where ``where`` is true, in place, with targets."""
    for name, value in other.items():
        if isinstance(value, dict):
            _write_rows(batch[name], where, value)
            continue
        if value.shape[1:] != batch[name].shape[1:]:
            raise ValueError(
                f"data.image_size: found 0 for images of {value.shape[1:]} "
                f"and {batch[name].shape[1:]}, expected a size in pixels "
                "(data.train_size for masks)"
            )
        batch[name][where] = value


def first_readable(split: Split, transform: Callable[[Batch], Batch]) -> Batch:
    """Returns the first example that decodes, as a batch of one.

    Args:
      split: random access to examples.
      transform: resizing of a batch, ``batch -> batch``.

    Raises:
      UnreadableImage: none of the first thousand examples decodes.

    >>> split = Split(2, lambda rows: {"image": np.zeros((1, 2, 2, 1), np.uint8)})
    >>> first_readable(split, dict)["image"].shape
    (1, 2, 2, 1)
    """
    for row in range(min(split.size, 1000)):
        batch = transform(split.fetch(np.array([row])))
        if not batch.pop("failed", np.zeros(1, bool)).all():
            return batch
    raise UnreadableImage(
        f"{split.name(0)} and others: found no image that decodes; this one: "
        f"{find_reason(split, 0)}"
    )


def repeat_readable(
    split: Split, transform: Callable[[Batch], Batch], count: int
) -> Batch:
    """Returns a batch of copies of the first example that decodes.

    It gives a batch in which no image decodes arrays of the usual shapes.

    Args:
      split: random access to examples.
      transform: resizing of a batch, ``batch -> batch``.
      count: number of copies.
    """
    return _repeated(first_readable(split, transform), count)


def _repeated(batch: Batch, count: int) -> Batch:
    """Returns a batch of copies of the only example of a batch."""
    return {
        name: _repeated(value, count)
        if isinstance(value, dict)
        else np.repeat(value, count, 0)
        for name, value in batch.items()
    }


def note_skipped(
    skipped: np.ndarray, reasons: dict[int, str], split: Split, max_share: float
) -> None:
    """Logs and collects skipped images, and stops if there are too many.

    The log names images with the reason: the first ten of each kind of reason, then the
    hundredth, the thousandth and so on, with their number.

    Args:
      skipped: rows of a batch, -1 for none.
      reasons: kind of reason of each row that was skipped so far; changed in place.
      split: the split of the rows.
      max_share: largest share of the split that may be skipped.

    Raises:
      ValueError: the share is exceeded.
    """
    rows = sorted(set(skipped[skipped >= 0].tolist()) - reasons.keys())
    for row in rows:
        text = find_reason(split, row)
        reasons[row] = _NUMBERS.sub("#", text)
        count = sum(sort == reasons[row] for sort in reasons.values())
        if count <= 10 or 10 ** (len(str(count)) - 1) == count:
            number = f" {count} images, the last one" if count > 10 else ""
            LOG.warning("skipped%s, %s: %s", number, text, split.name(row))
    if len(reasons) > max_share * split.size:
        last = rows[-1] if rows else max(reasons)
        raise ValueError(
            f"data.max_unreadable: found {len(reasons)} of {split.size} images that do "
            f"not decode, expected at most a share of {max_share}; the last one: "
            f"{split.name(last)}: {find_reason(split, last)}"
        )


def find_reason(split: Split, row: int) -> str:
    """Returns why an example cannot be read, without its name.

    Args:
      split: the split.
      row: the example.
    """
    try:
        example = split.fetch(np.array([row]))
        label = example["target"].get("label", [None])[0]
        image = example["image"][0]
        pixels = decode_image(image)
        if isinstance(label, EncodedMask):
            read_mask(label)
    except ValueError as error:
        text = str(error).removeprefix(f"{split.name(row)}: ")
        return text.replace(f"{NOT_AN_IMAGE}: ", "")
    if isinstance(image, np.ndarray):
        return "does not decode"
    height, width = pixels.shape[:2]
    return (
        f"found {width}x{height} pixels, which are too many once resized, or a file "
        "that could not be read for a moment"
    )
