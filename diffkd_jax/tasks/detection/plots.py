"""What is drawn and written of detection: precision, boxes, lists of detections."""

import csv
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...io import drawing, valid_json

MOST_SHOWN = 6
LEAST_SCORE, LEAST_DRAWN = 0.3, 3  # of a detection that is drawn, or the best few
CURVES = {"iou 0.50": 0, "iou 0.75": 5}  # of thresholds from 0.50 on, by 0.05


@drawing.defaults()
def draw(
    folder: pathlib.Path,
    each: np.ndarray,
    at_half: np.ndarray,
    precision: np.ndarray,
    meta: Mapping[str, Any],
) -> list[pathlib.Path]:
    """Average precision of each class, and precision over recall.

    Args:
      folder: where ``ap.png``, ``ap.csv`` and ``precision.png`` are written.
      each: average precision of each class, NaN without an object.
      at_half: likewise, where an intersection of half is enough.
      precision: ``[10, 101, classes]``, by threshold from 0.50 on and recall from 0 to
        1, NaN likewise.
      meta: of the data; ``class_names``, where they are known.
    """
    names = list(meta.get("class_names") or map(str, range(len(each))))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ap.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "ap", "ap50"))
        writer.writerows(zip(names, each.tolist(), at_half.tolist(), strict=True))
    figure, axis = drawing.subplots(figsize=(6.5, 1.2 + 0.28 * len(each)))
    axis.barh(range(len(each)), np.nan_to_num(at_half), color="#c5d5e8", label="AP50")
    axis.barh(range(len(each)), np.nan_to_num(each), color="#4c78a8", label="AP")
    for row, (value, half) in enumerate(zip(each, at_half, strict=True)):
        text = "no object" if np.isnan(value) else f"{value:.3f}"
        axis.text(np.nan_to_num(half) + 0.01, row, text, va="center", size=8)
    axis.set_yticks(range(len(each)), drawing.labels(names))
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.15), xlabel="average precision", title="by class")
    axis.legend(loc="lower right", fontsize=8)
    return [
        drawing.save_figure(figure, folder / "ap.png"),
        _precision(folder, precision),
    ]


def _precision(folder: pathlib.Path, precision: np.ndarray) -> pathlib.Path:
    figure, axis = drawing.subplots(figsize=(5.0, 4.0))
    there = ~np.isnan(precision).any((0, 1))
    recall = np.linspace(0, 1, precision.shape[1])
    for name, at in CURVES.items():
        if there.any():
            axis.plot(recall, precision[at][:, there].mean(-1), label=name)
    axis.set(xlabel="recall", ylabel="precision, mean over classes", xlim=(0, 1))
    axis.set_ylim(0, 1.02)
    if there.any():
        axis.legend(fontsize=8)
    return drawing.save_figure(figure, folder / "precision.png")


@drawing.defaults()
def show(
    folder: pathlib.Path, examples: Mapping[str, Any], meta: Mapping[str, Any]
) -> list[pathlib.Path]:
    """Pictures with the boxes of the truth and those that models find, side by side.

    Args:
      folder: where ``boxes.png`` is written.
      examples: ``image`` uint8 ``[n, h, w, c]``, ``target`` and, by name of a model in
        ``predicted``, ``boxes`` ``[n, m, 4]`` in pixels of the picture, ``classes``,
        ``valid`` and, of models, ``scores``, of which those above 0.3 are drawn, or the
        best three.
      meta: of the data; ``class_names``, where they are known.
    """
    image = np.asarray(examples["image"])[:MOST_SHOWN]
    image = image.repeat(3, -1) if image.shape[-1] == 1 else image
    names = list(meta.get("class_names") or map(str, range(meta["num_classes"])))
    names = drawing.labels(names, 14)
    columns = {"truth": examples["target"], **examples["predicted"]}
    rows = len(image)
    figure, axes = drawing.subplots(
        rows, len(columns), figsize=(2.6 * len(columns), 2.6 * rows), squeeze=False
    )
    for column, (title, found) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(drawing.literal(title), size=9)
        for at, axis in enumerate(column):
            axis.imshow(image[at])
            axis.set_axis_off()
            _boxes(axis, {k: np.asarray(v)[at] for k, v in found.items()}, names)
    return [drawing.save_figure(figure, folder / "boxes.png")]


def write(
    folder: pathlib.Path,
    predictions: Iterable[tuple[str, Mapping, Mapping]],
    meta: Mapping[str, Any],
) -> None:
    """``detections.json``, COCO's list of results, and ``categories.json``, its names.

    Boxes are in pixels of the stored pictures.

    Args:
      folder: where it is written.
      predictions: of each example its name, its detections, and itself: ``id``, that
        of its file, where there is one, and a target with ``scale`` and
        ``stored_size``, where it was resized.
      meta: of the data; ``category_ids``, those of its file, where there are any.
    """
    ids = meta.get("category_ids") or range(meta["num_classes"])
    results = []
    for name, found, example in predictions:
        boxes = stored_boxes(np.asarray(found["boxes"], float), example["target"])
        for row in np.flatnonzero(found["valid"]):
            left, top, right, bottom = boxes[row].tolist()
            results.append(
                {
                    "image_id": example.get("id", name),
                    "category_id": ids[int(found["classes"][row])],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(found["scores"][row]),
                }
            )
    names = meta.get("class_names") or map(str, ids)
    categories = [{"id": i, "name": n} for i, n in zip(ids, names, strict=True)]
    for file, rows in (("detections", results), ("categories", categories)):
        (folder / f"{file}.json").write_text(valid_json.dumps(rows), encoding="utf-8")


def stored_boxes(boxes: Any, target: Mapping[str, Any]) -> Any:
    """Boxes in pixels of the stored picture, inside of it.

    Args:
      boxes: ``[..., m, 4]`` in pixels of the picture that a model saw, an array of
        numpy or of JAX.
      target: ``scale`` ``[..., 2]``, its pixels for one of the stored picture, down and
        right, and ``stored_size``, height and width; neither where they are one.

    >>> target = {"scale": np.array([2.0, 4.0]), "stored_size": np.array([50, 50])}
    >>> stored_boxes(np.array([[8.0, 8.0, 40.0, 400.0]]), target).tolist()
    [[2.0, 4.0, 10.0, 50.0]]
    """
    if "scale" not in target:
        return boxes
    both = [1, 0, 1, 0]
    size = target["stored_size"][..., None, both].astype(boxes.dtype)
    return (boxes / target["scale"][..., None, both]).clip(0, size)


def _boxes(axis: Any, found: Mapping[str, np.ndarray], names: list[str]) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    shown = found["valid"].astype(bool)
    if "scores" in found:  # best first
        shown &= (found["scores"] > LEAST_SCORE) | (np.arange(len(shown)) < LEAST_DRAWN)
    for row in np.flatnonzero(shown):
        (x, y, right, bottom), k = found["boxes"][row], int(found["classes"][row])
        colour = colormaps["tab20"](k % 20)
        score = f" {found['scores'][row]:.2f}" if "scores" in found else ""
        axis.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, ec=colour))
        text = f"{names[k]}{score}"
        box = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
        axis.text(x, max(y, 4), text, color="white", size=6, clip_on=True, bbox=box)
