"""Figures of segmentation: intersection over union by class, masks side by side."""

import csv
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ...io import drawing
from ..task import Evidence

IGNORED_COLOUR = (255, 255, 255)
MOST_SHOWN = 6


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Computes the intersection over union of each class, NaN for an absent one.

    Args:
      counts: integers ``[classes, classes + 1]``: rows are labels, columns predictions,
        the last one none.

    >>> class_iou(np.array([[2, 0, 0], [0, 0, 0]]))
    array([ 1., nan])
    """
    hits = np.diag(counts[:, :-1]).astype(float)
    union = counts.sum(1) + counts[:, :-1].sum(0) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


@drawing.defaults()
def draw(
    folder: pathlib.Path, seen: Evidence, meta: Mapping[str, Any]
) -> list[pathlib.Path]:
    """Intersection over union of each class, as bars and as a table beside them.

    Args:
      folder: where ``iou.png`` and ``iou.csv`` are written.
      seen: of a split, with ``confusion``.
      meta: of the data; ``class_names``, where they are known.
    """
    counts = np.asarray(seen.sums["confusion"])
    each, pixels = class_iou(counts), counts.sum(1)
    names = list(meta.get("class_names") or map(str, range(len(each))))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "iou.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "iou", "pixels"))
        writer.writerows(zip(names, each.tolist(), pixels.tolist(), strict=True))
    figure, axis = drawing.subplots(figsize=(6.5, 1.2 + 0.28 * len(each)))
    axis.barh(range(len(each)), np.nan_to_num(each), color="#4c78a8")
    for row, value in enumerate(each):
        text = "nowhere" if np.isnan(value) else f"{value:.3f}"
        axis.text(np.nan_to_num(value) + 0.01, row, text, va="center", size=8)
    axis.set_yticks(range(len(each)), drawing.labels(names))
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.1), xlabel="intersection over union", title="by class")
    return [drawing.save_figure(figure, folder / "iou.png")]


@drawing.defaults()
def show(
    folder: pathlib.Path, examples: Mapping[str, Any], meta: Mapping[str, Any]
) -> list[pathlib.Path]:
    """Pictures, the truth, and what models make of them, side by side.

    Args:
      folder: where ``masks.png`` is written.
      examples: ``image`` uint8 ``[n, h, w, c]``, ``target`` with ``label``, and
        ``predicted``: by name of a model, a dict with ``label``.
      meta: of the data; ``palette``, colours of the classes, where they are known.
    """
    palette = colours(meta.get("palette") or (), meta["num_classes"])
    image = np.asarray(examples["image"])[:MOST_SHOWN]
    columns = {"picture": image.repeat(3, -1) if image.shape[-1] == 1 else image}
    columns["truth"] = palette[np.asarray(examples["target"]["label"])]
    for name, predicted in examples["predicted"].items():
        columns[name] = palette[np.asarray(predicted["label"])]
    rows = len(image)
    figure, axes = drawing.subplots(
        rows, len(columns), figsize=(2.2 * len(columns), 2.2 * rows), squeeze=False
    )
    for column, (name, pixels) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(drawing.literal(name), size=9)
        for axis, picture in zip(column, pixels, strict=False):
            axis.imshow(picture)
            axis.set_axis_off()
    return [drawing.save_figure(figure, folder / "masks.png")]


def write(
    folder: pathlib.Path,
    predictions: Iterable[tuple[str, Mapping, Mapping]],
    meta: Mapping[str, Any],
    *,
    ids: np.ndarray | None = None,
) -> None:
    """A mask a picture, ``<name>.png``: classes with the palette, or ids in grey.

    Args:
      folder: where they are written.
      predictions: of each example its name, ``label`` uint8 ``[h, w]``, and itself,
        with ``size`` where it is padded.
      meta: of the data; ``palette``, where it is known.
      ids: what stands for each class, None for the class itself.
    """
    table = colours(meta.get("palette") or (), meta["num_classes"])
    for name, found, example in predictions:
        label = np.asarray(found["label"])
        if "size" in example:
            height, width = example["size"]
            label = label[:height, :width]
        picture = Image.fromarray(label if ids is None else ids[label])
        if ids is None:
            picture.putpalette(table.ravel().tolist())
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)


def colours(palette: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Returns a colour for each of 256 labels, uint8 ``[256, 3]``.

    Args:
      palette: red, green and blue, 0 to 255, of the first classes. The other classes
        have the colours of PASCAL VOC. Labels that are no class are white.
      classes: number of classes.

    >>> colours([(1, 2, 3)], 2)[[0, 255]].tolist()
    [[1, 2, 3], [255, 255, 255]]
    >>> colours((), 21)[[1, 20]].tolist()
    [[128, 0, 0], [0, 64, 128]]
    """
    table = np.full((256, 3), IGNORED_COLOUR, np.uint8)
    for k in range(classes):
        # PASCAL VOC spreads the bits of a class over the three channels.
        bits = [(k >> (3 * i + c)) & 1 for c in range(3) for i in range(3)]
        channels = [bits[3 * c : 3 * c + 3] for c in range(3)]
        table[k] = [sum(bit << (7 - i) for i, bit in enumerate(x)) for x in channels]
    given = np.asarray(palette, np.uint8).reshape(-1, 3)[:classes]
    table[: len(given)] = given
    return table
