"""Figures and files of classification: the confusion matrix, a table of predictions."""

import csv
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Num, PyTree

from ...io import drawing, figure_text
from ..task import Evidence, Meta, Outputs


def draw(folder: pathlib.Path, split: Evidence, meta: Meta) -> list[pathlib.Path]:
    """Draws the confusion matrix if there are few classes.

    Args:
      folder: folder of ``confusion.png``.
      split: result of :func:`diffkd_jax.tasks.classification.task.evidence`, summed
        over a split; it has ``confusion`` if there are few classes.
      meta: description of the data; ``class_names`` if known.

    Returns:
      The files that were written: one, or none without ``confusion``.

    >>> draw(pathlib.Path("figures"), Evidence({"count": 4.0}), {})
    []
    """
    counts, names = split.sums.get("confusion"), meta.get("class_names")
    if counts is None:
        return []
    names = names or [str(k) for k in range(len(counts))]
    return [draw_confusion(folder / "confusion.png", np.asarray(counts), names)]


def write(
    folder: pathlib.Path,
    predictions: Iterable[tuple[str, Outputs, Mapping[str, PyTree]]],
    meta: Meta,
) -> None:
    """Writes ``predictions.csv``: name, class and probability of each example.

    Args:
      folder: an existing folder.
      predictions: for each example its name, its prediction without the
        batch axis, and the example itself, which is not read.
      meta: description of the data: ``num_classes``, and ``class_names`` if known.

    >>> import tempfile
    >>> predicted = {"label": np.array(1), "probability": np.array([0.25, 0.75])}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(pathlib.Path(folder), [("a.png", predicted, {})], {"num_classes": 2})
    ...     (pathlib.Path(folder) / "predictions.csv").read_text().split()
    ['name,class,probability', 'a.png,1,0.75']
    """
    names = meta.get("class_names") or range(meta["num_classes"])
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "class", "probability"))
        for name, predicted, _ in predictions:
            label = int(predicted["label"])
            probability = float(predicted["probability"][label])
            writer.writerow((name, names[label], probability))


@drawing.defaults()
def draw_confusion(
    path: pathlib.Path, counts: Num[np.ndarray, "classes classes"], names: Sequence[str]
) -> pathlib.Path:
    """Draws the confusion matrix, in percent of the examples of each label.

    Args:
      path: PNG file to write.
      counts: ``[classes, classes]``, numbers of examples; rows are labels, columns
        predictions.
      names: names of the classes.

    Returns:
      The path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "confusion.png"
    ...     draw_confusion(path, np.eye(2), ("cat", "dog")).name
    'confusion.png'
    """
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(counts)
    figure, axis = drawing.subplots(figsize=(side, side))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            colour = "white" if share > 60 else "black"
            text = f"{share:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=colour, size=8)
    ticks, labels = range(len(names)), figure_text.labels(names)
    axis.set_xticks(ticks, labels, rotation=60, ha="right")
    axis.set_yticks(ticks, labels)
    axis.set(xlabel="predicted", ylabel="label", title="confusion, % of each label")
    return drawing.save_figure(figure, path)
