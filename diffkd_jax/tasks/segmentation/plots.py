"""Figures and files of segmentation: IoU of each class, masks side by side."""

import csv
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int, PyTree, UInt8
from PIL import Image

from ...io import drawing, figure_text
from ..task import Evidence, Meta, Outputs

IGNORED_COLOUR = (255, 255, 255)
MOST_SHOWN = 6


def class_iou(
    counts: Int[np.ndarray, "classes classes+1"],
) -> Float64[np.ndarray, " classes"]:
    """Computes the intersection over union of each class.

    Args:
      counts: ``[classes, classes + 1]``, numbers of pixels. Rows are labels, columns
        are predictions; the last column counts pixels without a prediction.

    Returns:
      ``[classes]``, in [0, 1]; NaN for a class that is neither a label nor predicted.

    >>> class_iou(np.array([[2, 0, 0], [0, 0, 0]]))
    array([ 1., nan])
    """
    hits = np.diag(counts[:, :-1]).astype(float)
    union = counts.sum(1) + counts[:, :-1].sum(0) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


@drawing.defaults()
def draw(folder: pathlib.Path, split: Evidence, meta: Meta) -> list[pathlib.Path]:
    """Draws the IoU of each class as bars, and writes it as a table beside them.

    Args:
      folder: folder of ``iou.png`` and ``iou.csv``; made if absent.
      split: result of :func:`diffkd_jax.tasks.segmentation.task.evidence`, summed over
        a split, with ``confusion``.
      meta: description of the data; ``class_names`` if known.

    Returns:
      The figure.

    >>> import tempfile
    >>> split = Evidence({"confusion": np.array([[2, 0, 0], [1, 1, 0]])})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(pathlib.Path(folder), split, {})[0].name
    'iou.png'
    """
    counts = np.asarray(split.sums["confusion"])
    iou, pixels = class_iou(counts), counts.sum(1)
    names = list(meta.get("class_names") or map(str, range(len(iou))))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "iou.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "iou", "pixels"))
        writer.writerows(zip(names, iou.tolist(), pixels.tolist(), strict=True))
    figure, axis = drawing.subplots(figsize=(6.5, 1.2 + 0.28 * len(iou)))
    axis.barh(range(len(iou)), np.nan_to_num(iou), color="#4c78a8")
    for row, value in enumerate(iou):
        text = "nowhere" if np.isnan(value) else f"{value:.3f}"
        axis.text(np.nan_to_num(value) + 0.01, row, text, va="center", size=8)
    axis.set_yticks(range(len(iou)), figure_text.labels(names))
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.1), xlabel="intersection over union", title="by class")
    return [drawing.save_figure(figure, folder / "iou.png")]


@drawing.defaults()
def show(
    folder: pathlib.Path, examples: Mapping[str, PyTree], meta: Meta
) -> list[pathlib.Path]:
    """Draws images, true masks and the masks of each model, side by side.

    Args:
      folder: folder of ``masks.png``.
      examples: ``image`` uint8 ``[n, h, w, c]``, of which the first six are drawn;
        ``target`` with ``label`` ``[n, h, w]``; and ``predicted``, by name of a model a
        dict with ``label``.
      meta: description of the data: ``num_classes``, and ``palette``, the colours of
        the classes, if known.

    Returns:
      The figure.

    >>> import tempfile
    >>> label = {"label": np.zeros((1, 8, 8), np.uint8)}
    >>> examples = {"image": np.zeros((1, 8, 8, 3), np.uint8), "target": label,
    ...     "predicted": {"student": label}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     show(pathlib.Path(folder), examples, {"num_classes": 1})[0].name
    'masks.png'
    """
    palette = colours(meta.get("palette") or (), meta["num_classes"])
    images = np.asarray(examples["image"])[:MOST_SHOWN]
    columns = {"image": images.repeat(3, -1) if images.shape[-1] == 1 else images}
    columns["truth"] = palette[np.asarray(examples["target"]["label"])]
    for name, predicted in examples["predicted"].items():
        columns[name] = palette[np.asarray(predicted["label"])]
    rows = len(images)
    figure, axes = drawing.subplots(
        rows, len(columns), figsize=(2.2 * len(columns), 2.2 * rows), squeeze=False
    )
    for column, (name, pixels) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(figure_text.literal(name), size=9)
        for axis, image in zip(column, pixels, strict=False):
            axis.imshow(image)
            axis.set_axis_off()
    return [drawing.save_figure(figure, folder / "masks.png")]


def write(
    folder: pathlib.Path,
    predictions: Iterable[tuple[str, Outputs, Mapping[str, PyTree]]],
    meta: Meta,
    *,
    ids: UInt8[np.ndarray, " classes"] | None = None,
) -> None:
    """Writes one mask for each image, ``<name>.png``.

    The value of a pixel is its class, and the file has the colours of the palette. With
    ``ids``, the value is the id of the class, and the file is grey.

    Args:
      folder: folder of the masks.
      predictions: for each example its name, its prediction with ``label`` uint8
        ``[h, w]``, and the example itself, with ``size`` (height and width) if the
        image is padded.
      meta: description of the data: ``num_classes``, and ``palette`` if known.
      ids: id to write for each class, or None to write the class itself.

    >>> import tempfile
    >>> predicted = {"label": np.ones((2, 3), np.uint8)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(pathlib.Path(folder), [("a", predicted, {})], {"num_classes": 2})
    ...     with Image.open(pathlib.Path(folder) / "a.png") as mask:
    ...         mask.size
    (3, 2)
    """
    table = colours(meta.get("palette") or (), meta["num_classes"])
    for name, predicted, example in predictions:
        label = np.asarray(predicted["label"])
        if "size" in example:
            height, width = example["size"]
            label = label[:height, :width]
        mask = Image.fromarray(label if ids is None else ids[label])
        if ids is None:
            mask.putpalette(table.ravel().tolist())
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        mask.save(file)


def colours(
    palette: Sequence[Sequence[int]], classes: int
) -> UInt8[np.ndarray, "256 3"]:
    """Returns a colour for each of 256 labels, uint8 ``[256, 3]``.

    Args:
      palette: ``(red, green, blue)`` of the first classes, each 0 to 255. The other
        classes have the colours of PASCAL VOC. Labels of no class, from ``classes`` to
        255, are white.
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
    first = np.asarray(palette, np.uint8).reshape(-1, 3)[:classes]
    table[: len(first)] = first
    return table
