"""The check that the classes of a model are those of the data, by name and order."""

import logging
import unicodedata
from collections.abc import Mapping, Sequence

from .task import Meta

LOG = logging.getLogger(__name__)


def check_classes(
    source: str,
    meta: Meta,
    data_meta: Meta,
    taps: Mapping[str, tuple[str, str, bool]] | None = None,
) -> None:
    """Raises an error if a model's classes do not fit those of the data.

    A student needs the data's classes. A teacher may have another number of classes,
    unless a distance reads labels. Class names of a teacher matter if a tap compares
    logits or a distance reads labels; otherwise a difference is logged as a warning,
    because features of other classes may still be of use.

    Args:
      source: origin of the model, for messages.
      meta: description of the model: ``num_classes``, and ``class_names`` if known.
      data_meta: description of the data, likewise.
      taps: None for a student. For a teacher ``{name: (student output, teacher output,
        whether the distance reads the target)}``.

    Raises:
      ValueError: a student has another number of classes, or other names or another
        order of them. A teacher has other names or another order, and a tap on logits
        or a distance that reads labels. A distance reads labels, and the teacher has
        another number of classes or the data have one class.

    >>> check_classes("runs/a", {"num_classes": 3}, {"num_classes": 3})
    >>> check_classes("runs/a", {"num_classes": 2}, {"num_classes": 3})
    Traceback (most recent call last):
    ValueError: runs/a: found a student of 2 classes, expected 3, as in the data
    """
    names = data_meta.get("class_names") or []
    model_names = meta.get("class_names") or []
    model_classes, data_classes = meta["num_classes"], data_meta["num_classes"]
    if taps is None:
        if model_classes != data_classes:
            raise ValueError(
                f"{source}: found a student of {model_classes} classes, expected "
                f"{data_classes}, as in the data"
            )
        difference = first_difference(model_names, names)
        if difference:
            raise ValueError(
                f"{source}: found a student of other classes: {difference}"
            )
        return
    labelled = [name for name, (_, _, reads) in taps.items() if reads]
    if labelled and data_classes < 2:
        raise ValueError(
            f"taps.{labelled[0]}.distance: found one that compares the label's class "
            f"with the others on data of {data_classes} class, expected at least 2"
        )
    if model_classes != data_classes:
        if labelled:
            raise ValueError(
                f"taps.{labelled[0]}.distance: found one that reads labels for a "
                f"teacher of {model_classes} classes on data of {data_classes}, "
                "expected a teacher of the data's classes, or a distance without labels"
            )
        return
    difference = first_difference(model_names, names)
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


def first_difference(model_names: Sequence[str], data_names: Sequence[str]) -> str:
    """Describes the first class whose name differs, or returns "".

    Names are compared in Unicode form NFC. An empty list agrees with any other. The
    list "0", "1" and so on stands for unknown names, and agrees with any other names.
    If both lists hold the same names in another order, that is a difference, also for
    numbers.

    Args:
      model_names: names of the classes of a model, or [].
      data_names: names of the classes of the data, as many, or [].

    >>> first_difference(["ant", "bee"], ["bee", "ant"])
    "the same in another order; class 0: found 'ant', expected 'bee'"
    >>> first_difference(["0", "1"], ["bee", "ant"])
    ''
    """
    model_names, data_names = (
        [unicodedata.normalize("NFC", name) for name in names]
        for names in (model_names, data_names)
    )
    numbers = [str(k) for k in range(len(data_names))]
    if model_names == data_names or not model_names or not data_names:
        return ""
    same = sorted(model_names) == sorted(data_names)
    if numbers in (model_names, data_names) and not same:
        return ""
    pairs = enumerate(zip(model_names, data_names, strict=True))
    first, (ours, theirs) = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
    kind = "the same in another order; " if same else ""
    return f"{kind}class {first}: found {ours[:60]!r}, expected {theirs[:60]!r}"
