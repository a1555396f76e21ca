"""Whether the classes of a model are those of the data: by name, not by count alone."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.distances import DISTANCES
from ..core.taps import Tap

LOG = logging.getLogger(__name__)

# Distances that look up the label's column in the teacher's output.
LABELLED = ("dkd",)


def check_student(source: str, meta: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Refuses a student of other classes than the data's.

    Args:
      source: what the message names.
      meta: of the student, see :class:`diffkd_jax.models.files.Model`.
      classes: of the data, in label order.

    Raises:
      ValueError: of another number, another order or other names.
    """
    if meta["num_classes"] != len(classes):
        raise ValueError(
            f"{source} holds a student of {meta['num_classes']} classes, expected "
            f"{len(classes)}, those of the data"
        )
    difference = first_difference(meta["class_names"], classes)
    if difference:
        raise ValueError(f"{source} holds a student of other classes: {difference}")


def check_teacher(
    meta: Mapping[str, Any], classes: Sequence[str], taps: Mapping[str, Tap]
) -> None:
    """Refuses a teacher whose logits mean other classes, where that matters.

    Without a comparison of logits other classes are a warning: features may be of use.
    A teacher of another number of classes is meant to be one; only distances that read
    labels cannot be.

    Raises:
      ValueError: classes of another order or other names and a tap of logits, or of
        another number and a distance that reads labels; data of one class and such
        a distance.
    """
    functions = [DISTANCES[name] for name in LABELLED]
    labelled = [
        name
        for name, tap in taps.items()
        if getattr(tap.distance, "func", tap.distance) in functions
    ]
    if labelled and len(classes) < 2:
        raise ValueError(
            f"taps.{labelled[0]}.distance: found one that compares the label's class "
            f"with the others on data of {len(classes)} class, expected at least 2"
        )
    if meta["num_classes"] != len(classes):
        if labelled:
            raise ValueError(
                f"taps.{labelled[0]}.distance: found one that reads labels for a "
                f"teacher of {meta['num_classes']} classes on data of {len(classes)}, "
                f"expected a teacher of the data's classes, or none of {LABELLED}"
            )
        return
    difference = first_difference(meta["class_names"], classes)
    reads_classes = labelled or any(
        "logits" in name for t in taps.values() for name in (t.student, t.teacher)
    )
    if difference and reads_classes:
        raise ValueError(
            f"teacher.init: found a teacher of other classes: {difference}; weights "
            "without class names, as export_weights writes them, are not compared"
        )
    if difference:
        LOG.warning("teacher of other classes than the data: %s", difference)


def first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """In words, or nothing where names agree or one side has none but numbers.

    >>> first_difference(["ant", "bee"], ["bee", "ant"])
    "the same in another order; class 0: found 'ant', expected 'bee'"
    >>> first_difference(["0", "1"], ["bee", "ant"])
    ''
    """
    found, expected = list(found), list(expected)
    numbers = [str(k) for k in range(len(expected))]
    if found == expected or not found:
        return ""
    same = sorted(found) == sorted(expected)
    if numbers in (found, expected) and not same:
        return ""
    pairs = enumerate(zip(found, expected, strict=True))
    first, (ours, theirs) = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
    kind = "the same in another order; " if same else ""
    return f"{kind}class {first}: found {ours[:60]!r}, expected {theirs[:60]!r}"
