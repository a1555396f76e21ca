"""Boxes that follow their images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...config.augmentations import AUGMENTATIONS
from ...config.data import DataConfig
from ..split import Split
from . import box_survey, views
from .draws import Draws
from .target import Batch, SplitInfo, TargetTransform
from .viewed import ExampleView, evaluate_views, train_views
from .viewed_targets import check_views
from .views import Size

Target = dict[str, np.ndarray]


def has_boxes(target: Mapping[str, Any]) -> bool:
    """Returns whether a target holds boxes.

    Args:
      target: target of some examples.

    >>> has_boxes({"label": np.zeros(2)})
    False
    """
    return "boxes" in target


def _check_boxed(options: DataConfig) -> None:
    """Refuses options that images with boxes cannot follow.

    Args:
      options: the section ``data`` of a config.

    Raises:
      ValueError: names the field.
    """
    purpose = "for images with boxes"
    side = "data.resize is the shorter side"
    check_views(
        options,
        purpose,
        ("resize_flip", "scale_crop_flip"),
        {"image_size": side, "eval_size": side},
    )
    if options.resize and not AUGMENTATIONS[options.augment].fits:
        raise ValueError(
            f"data.resize: found {options.resize}, expected 0 {purpose} and "
            f"data.augment {options.augment!r}: training would use them at their own "
            "size; or data.augment 'resize_flip'"
        )


def boxes_to_train(
    target: Target, example_views: Sequence[ExampleView | None], count: int
) -> Target:
    """Returns the boxes of a batch as its views show them.

    Ignored boxes are dropped, and boxes of which less than a pixel is left on a side.
    If an image has more than ``count`` boxes, the largest are kept, and the first of
    equally large boxes.

    Args:
      target: target of a split, see :func:`diffkd_jax.data.images.objects.pad_objects`.
      example_views: view of each example, None for an image that does not decode.
      count: number of rows of the result, or fewer if the target has fewer.

    Returns:
      ``boxes`` float32 ``[n, rows, 4]``, ``classes`` int32 and ``valid`` bool
      ``[n, rows]``.

    >>> target = {"boxes": np.array([[[0.0, 0, 2, 2], [0, 0, 4, 4]]]),
    ...     "classes": np.array([[5, 6]]), "valid": np.array([[True, True]]),
    ...     "ignored": np.array([[False, False]])}
    >>> view = ExampleView(views.whole_view((4, 4), (8, 8)), (4, 4))
    >>> boxes_to_train(target, [view], count=1)["classes"].tolist()
    [[6]]
    """
    rows = min(count, target["valid"].shape[1])
    shape = len(example_views), rows
    result = {
        "boxes": np.zeros((*shape, 4), np.float32),
        "classes": np.zeros(shape, np.int32),
        "valid": np.zeros(shape, bool),
    }
    for i, example in enumerate(example_views):
        if example is None:
            continue
        boxes = views.view_boxes(example.view, target["boxes"][i], example.size)
        sides = boxes[:, 2:] - boxes[:, :2]
        usable = target["valid"][i] & ~target["ignored"][i] & (sides >= 1).all(1)
        chosen = np.flatnonzero(usable)
        if len(chosen) > rows:
            order = np.argsort(-sides[chosen].prod(1), kind="stable")[:rows]
            chosen = chosen[np.sort(order)]
        result["boxes"][i, : len(chosen)] = boxes[chosen]
        result["valid"][i, : len(chosen)] = True
        result["classes"][i, : len(chosen)] = target["classes"][i, chosen]
    return result


def boxes_to_evaluate(
    target: Target, example_views: Sequence[ExampleView | None]
) -> Target:
    """Returns all boxes of a batch, and how to convert them back to the image's pixels.

    Args:
      target: target of a split.
      example_views: view of each example, which shows the whole image.

    Returns:
      The target, with ``boxes`` in pixels of the canvas; ``stored`` float32
      ``[n, m, 4]``, the boxes in pixels of the stored image; ``scale`` float32
      ``[n, 2]``, pixels of the canvas for each pixel of the image, down and right; and
      ``stored_size`` int32 ``[n, 2]``, height and width.

    >>> target = {"boxes": np.array([[[0, 0, 2, 2]]], np.float32)}
    >>> view = ExampleView(views.fit_view((4, 4), 8, 0), (4, 4))
    >>> target = boxes_to_evaluate(target, [view])
    >>> target["boxes"].tolist(), target["stored"].tolist()
    ([[[0.0, 0.0, 4.0, 4.0]]], [[[0.0, 0.0, 2.0, 2.0]]])
    """
    stored = target["boxes"]
    boxes = np.zeros_like(stored)
    scale = np.ones((len(example_views), 2), np.float32)
    sizes = np.zeros((len(example_views), 2), np.int32)
    for i, example in enumerate(example_views):
        if example is not None:
            view, size = example
            boxes[i] = views.view_boxes(view, stored[i], size)
            scale[i], sizes[i] = views.resize_factors(view, size), size
    added = {"stored": stored, "scale": scale, "stored_size": sizes}
    return {**target, "boxes": boxes, **added}


def _train(batch: Batch, draws: Draws, options: DataConfig) -> Batch:
    """Augments a batch with boxes."""

    def follow(
        target: Target, example_views: Sequence[ExampleView | None], size: Size
    ) -> Target:
        del size
        return boxes_to_train(target, example_views, options.max_objects)

    return train_views(batch, draws, options, follow, with_size=True)


def _evaluate(batch: Batch, options: DataConfig) -> Batch:
    """Pads a batch with boxes."""

    def follow(
        target: Target, example_views: Sequence[ExampleView | None], size: Size
    ) -> Target:
        del size
        return boxes_to_evaluate(target, example_views)

    return evaluate_views(batch, options, follow, with_size=True)


def _inspect(split: Split, options: DataConfig, about: SplitInfo) -> Split:
    """Reports what training loses of a split, and what share of it is padding."""
    if about.train:
        box_survey.inspect_for_training(split, options, about.name)
    if about.evaluate:
        box_survey.inspect_for_evaluation(split, options, about.name)
    return split


BOXES = TargetTransform("boxes", has_boxes, _train, _evaluate, _check_boxed, _inspect)
