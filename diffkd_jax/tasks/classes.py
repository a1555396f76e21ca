"""Whether the classes of a model are those of the data: by name, not by count alone."""

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

LOG = logging.getLogger(__name__)


def check_classes(
    source: str,
    meta: Mapping[str, Any],
    data_meta: Mapping[str, Any],
    taps: Mapping[str, tuple[str, str, bool]] | None = None,
) -> None:
    """Refuses a model of other classes than the data's, where that matters.

    A teacher of another number of classes is meant to be one; only distances that read
    labels cannot be. Without a comparison of logits other names are a warning: features
    may be of use.

    Args:
      source: where the model is from, for the message.
      meta: of the model.
      data_meta: of the data.
      taps: None for a student; for a teacher see :class:`diffkd_jax.tasks.Task`.

    Raises:
      ValueError: a student of another number, other names or another order. A teacher
        of other names or another order and a tap of logits, or of another number and a
        distance that reads labels; data of one class and such a distance.
    """
    names = data_meta.get("class_names") or []
    found, expected = meta["num_classes"], data_meta["num_classes"]
    if taps is None:
        if found != expected:
            raise ValueError(
                f"{source} holds a student of {found} classes, expected {expected}, "
                "those of the data"
            )
        difference = first_difference(meta.get("class_names") or [], names)
        if difference:
            raise ValueError(f"{source} holds a student of other classes: {difference}")
        return
    labelled = [name for name, (_, _, reads) in taps.items() if reads]
    if labelled and expected < 2:
        raise ValueError(
            f"taps.{labelled[0]}.distance: found one that compares the label's class "
            f"with the others on data of {expected} class, expected at least 2"
        )
    if found != expected:
        if labelled:
            raise ValueError(
                f"taps.{labelled[0]}.distance: found one that reads labels for a "
                f"teacher of {found} classes on data of {expected}, expected a teacher "
                "of the data's classes, or a distance without labels"
            )
        return
    difference = first_difference(meta.get("class_names") or [], names)
    reads_classes = labelled or any(
        "logits" in name for outputs in taps.values() for name in outputs[:2]
    )
    if difference and reads_classes:
        raise ValueError(
            f"{source}: found a teacher of other classes: {difference}; weights "
            "without class names, as export_weights writes them, are not compared"
        )
    if difference:
        LOG.warning("teacher of other classes than the data: %s", difference)


def first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """In words, or nothing where names agree or one side has none but numbers.

    Names are compared in one Unicode form.

    >>> first_difference(["ant", "bee"], ["bee", "ant"])
    "the same in another order; class 0: found 'ant', expected 'bee'"
    >>> first_difference(["0", "1"], ["bee", "ant"])
    ''
    """
    found, expected = (
        [unicodedata.normalize("NFC", name) for name in names]
        for names in (found, expected)
    )
    numbers = [str(k) for k in range(len(expected))]
    if found == expected or not found or not expected:
        return ""
    same = sorted(found) == sorted(expected)
    if numbers in (found, expected) and not same:
        return ""
    pairs = enumerate(zip(found, expected, strict=True))
    first, (ours, theirs) = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
    kind = "the same in another order; " if same else ""
    return f"{kind}class {first}: found {ours[:60]!r}, expected {theirs[:60]!r}"
