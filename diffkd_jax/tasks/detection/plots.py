"""Figures and files of detection: average precision, boxes, lists of detections."""

import csv
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float, PyTree

from ...io import drawing, figure_text, valid_json
from ..task import Meta, Outputs

MOST_SHOWN = 6
# Detections above this score are drawn, and in any case the best few.
LEAST_SCORE, LEAST_DRAWN = 0.3, 3
# Indices of thresholds that start at 0.50 and rise by 0.05.
CURVES = {"iou 0.50": 0, "iou 0.75": 5}


@drawing.defaults()
def draw(
    folder: pathlib.Path,
    ap: Float[np.ndarray, " classes"],
    ap50: Float[np.ndarray, " classes"],
    precision: Float[np.ndarray, "10 101 classes"],
    meta: Meta,
) -> list[pathlib.Path]:
    """Draws the average precision of each class, and precision over recall.

    A table of the average precision is written beside the figures.

    Args:
      folder: folder of ``ap.png``, ``ap.csv`` and ``precision.png``; made if absent.
      ap: ``[classes]``, average precision, in [0, 1]; NaN for a class without an
        object.
      ap50: ``[classes]``, the same at an IoU threshold of 0.50 alone.
      precision: ``[10, 101, classes]``, in [0, 1], by IoU threshold from 0.50 to 0.95
        and recall from 0 to 1; NaN for a class without an object.
      meta: description of the data; ``class_names`` if known.

    Returns:
      The figures.

    >>> import tempfile
    >>> ap, precision = np.array([0.5]), np.full((10, 101, 1), 0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     figures = draw(pathlib.Path(folder), ap, ap, precision, {})
    >>> [path.name for path in figures]
    ['ap.png', 'precision.png']
    """
    names = list(meta.get("class_names") or map(str, range(len(ap))))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ap.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "ap", "ap50"))
        writer.writerows(zip(names, ap.tolist(), ap50.tolist(), strict=True))
    figure, axis = drawing.subplots(figsize=(6.5, 1.2 + 0.28 * len(ap)))
    axis.barh(range(len(ap)), np.nan_to_num(ap50), color="#c5d5e8", label="AP50")
    axis.barh(range(len(ap)), np.nan_to_num(ap), color="#4c78a8", label="AP")
    for row, (value, half) in enumerate(zip(ap, ap50, strict=True)):
        text = "no object" if np.isnan(value) else f"{value:.3f}"
        axis.text(np.nan_to_num(half) + 0.01, row, text, va="center", size=8)
    axis.set_yticks(range(len(ap)), figure_text.labels(names))
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.15), xlabel="average precision", title="by class")
    axis.legend(loc="lower right", fontsize=8)
    return [
        drawing.save_figure(figure, folder / "ap.png"),
        _draw_precision(folder, precision),
    ]


def _draw_precision(
    folder: pathlib.Path, precision: Float[np.ndarray, "10 101 classes"]
) -> pathlib.Path:
    """Draws the mean precision of the classes that have objects, over recall."""
    figure, axis = drawing.subplots(figsize=(5.0, 4.0))
    has_objects = ~np.isnan(precision).any((0, 1))
    recall = np.linspace(0, 1, precision.shape[1])
    for name, threshold in CURVES.items():
        if has_objects.any():
            values = precision[threshold][:, has_objects].mean(-1)
            axis.plot(recall, values, label=name)
    axis.set(xlabel="recall", ylabel="precision, mean over classes", xlim=(0, 1))
    axis.set_ylim(0, 1.02)
    if has_objects.any():
        axis.legend(fontsize=8)
    return drawing.save_figure(figure, folder / "precision.png")


@drawing.defaults()
def show(
    folder: pathlib.Path, examples: Mapping[str, PyTree], meta: Meta
) -> list[pathlib.Path]:
    """Draws images with true boxes and with the boxes of each model, side by side.

    Detections with a score above 0.3 are drawn, and in any case the best three.

    Args:
      folder: folder of ``boxes.png``.
      examples: ``image`` uint8 ``[n, h, w, c]``, of which the first six are drawn;
        ``target``; and ``predicted``, a dict by name of a model. Target and predictions
        are dicts of ``boxes`` ``[n, m, 4]`` in pixels of the image, ``classes`` int and
        ``valid`` bool ``[n, m]``; predictions also hold ``scores`` ``[n, m]``, highest
        first.
      meta: description of the data: ``num_classes``, and ``class_names`` if known.

    Returns:
      The figure.

    >>> import tempfile
    >>> target = {"boxes": np.array([[[1.0, 1.0, 6.0, 6.0]]]),
    ...     "classes": np.array([[0]]), "valid": np.array([[True]])}
    >>> examples = {"image": np.zeros((1, 8, 8, 3), np.uint8), "target": target,
    ...     "predicted": {"student": {**target, "scores": np.array([[0.9]])}}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     show(pathlib.Path(folder), examples, {"num_classes": 1})[0].name
    'boxes.png'
    """
    images = np.asarray(examples["image"])[:MOST_SHOWN]
    images = images.repeat(3, -1) if images.shape[-1] == 1 else images
    names = list(meta.get("class_names") or map(str, range(meta["num_classes"])))
    names = figure_text.labels(names, 14)
    columns = {"truth": examples["target"], **examples["predicted"]}
    rows = len(images)
    figure, axes = drawing.subplots(
        rows, len(columns), figsize=(2.6 * len(columns), 2.6 * rows), squeeze=False
    )
    for column, (title, boxes) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(figure_text.literal(title), size=9)
        for row, axis in enumerate(column):
            axis.imshow(images[row])
            axis.set_axis_off()
            _draw_boxes(axis, {k: np.asarray(v)[row] for k, v in boxes.items()}, names)
    return [drawing.save_figure(figure, folder / "boxes.png")]


def write(
    folder: pathlib.Path,
    predictions: Iterable[tuple[str, Outputs, Mapping[str, PyTree]]],
    meta: Meta,
) -> None:
    """Writes detections as COCO's list of results, and the categories they refer to.

    Boxes are in pixels of the stored images.

    Args:
      folder: an existing folder, for ``detections.json`` and ``categories.json``.
      predictions: for each example its name, its detections without the batch axis, and
        the example itself. The example holds ``id`` if its file gives one, and a target
        with ``scale`` and ``stored_size`` if the image was resized.
      meta: description of the data: ``num_classes``; ``class_names`` if known, and
        ``category_ids``, the ids of the classes in the file, if it has any.

    >>> import tempfile
    >>> detections = {"boxes": np.array([[1.0, 2.0, 4.0, 8.0]]),
    ...     "classes": np.array([0]), "valid": np.array([True]),
    ...     "scores": np.array([0.5])}
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     write(folder, [("a.png", detections, {"target": {}})], {"num_classes": 1})
    ...     valid_json.loads((folder / "detections.json").read_text())[0]["bbox"]
    [1.0, 2.0, 3.0, 6.0]
    """
    ids = meta.get("category_ids") or range(meta["num_classes"])
    results = []
    for name, detections, example in predictions:
        seen_boxes = np.asarray(detections["boxes"], float)
        boxes = np.asarray(stored_boxes(seen_boxes, example["target"]))
        for row in np.flatnonzero(detections["valid"]):
            left, top, right, bottom = boxes[row].tolist()
            results.append(
                {
                    "image_id": example.get("id", name),
                    "category_id": ids[int(detections["classes"][row])],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(detections["scores"][row]),
                }
            )
    names = meta.get("class_names") or map(str, ids)
    categories = [{"id": i, "name": n} for i, n in zip(ids, names, strict=True)]
    for file, rows in (("detections", results), ("categories", categories)):
        (folder / f"{file}.json").write_text(valid_json.dumps(rows), encoding="utf-8")


def stored_boxes(
    boxes: Float[np.ndarray, "*dims m 4"] | Float[Array, "*dims m 4"],
    target: Mapping[str, PyTree],
) -> Float[np.ndarray, "*dims m 4"] | Float[Array, "*dims m 4"]:
    """Returns boxes in pixels of the stored image, clipped to it.

    Args:
      boxes: ``[..., m, 4]``, in pixels of the image that the model saw.
      target: ``scale`` ``[..., 2]``, pixels of that image for one pixel of the stored
        image, vertically and horizontally; and ``stored_size`` ``[..., 2]``, height and
        width. Without them the two images are the same, and boxes stay as they are.

    Returns:
      ``[..., m, 4]``, of NumPy or of JAX as the boxes were.

    >>> target = {"scale": np.array([2.0, 4.0]), "stored_size": np.array([50, 50])}
    >>> stored_boxes(np.array([[8.0, 8.0, 40.0, 400.0]]), target).tolist()
    [[2.0, 4.0, 10.0, 50.0]]
    """
    if "scale" not in target:
        return boxes
    x_and_y = [1, 0, 1, 0]
    size = target["stored_size"][..., None, x_and_y].astype(boxes.dtype)
    return (boxes / target["scale"][..., None, x_and_y]).clip(0, size)


def _draw_boxes(axis: Any, boxes: Mapping[str, np.ndarray], names: list[str]) -> None:
    """Draws the boxes of one image, with the name of the class and the score."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    shown = boxes["valid"].astype(bool)
    if "scores" in boxes:  # highest first
        shown &= (boxes["scores"] > LEAST_SCORE) | (np.arange(len(shown)) < LEAST_DRAWN)
    for row in np.flatnonzero(shown):
        (x, y, right, bottom), k = boxes["boxes"][row], int(boxes["classes"][row])
        colour = colormaps["tab20"](k % 20)
        score = f" {boxes['scores'][row]:.2f}" if "scores" in boxes else ""
        axis.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, ec=colour))
        text = f"{names[k]}{score}"
        style = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
        axis.text(x, max(y, 4), text, color="white", size=6, clip_on=True, bbox=style)
