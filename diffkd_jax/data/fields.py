"""The values that the fields of ``config.data`` may have."""

import math
from typing import Any

# From and to, both included.
RANGES: dict[str, tuple[float, float]] = {
    "holdout": (0, math.inf),
    "limit": (0, math.inf),
    "num_classes": (0, math.inf),
    "batch_size": (1, math.inf),
    "eval_batch_size": (1, math.inf),
    "padding": (0, math.inf),
    "scale_step": (0, 16),
    "rand_augment": (0, 10),
    "rand_augment_std": (0, 100),
    "color_jitter": (0, 1),
    "image_size": (0, 8192),
    "eval_size": (0, 8192),
    "resize": (0, 8192),
    "resize_longest": (0, 16384),
    "max_objects": (1, 10_000),
    "num_threads": (0, 1024),
    "num_workers": (0, 1024),
    "max_unreadable": (0, 1),
    "max_doubtful": (0, 1),
    "max_level": (0, 65535),
    "stalled_seconds": (1, math.inf),
}

TUPLES = ("train_size", "canvas", "scale", "train_resize")
MOST_SIDE, MOST_SCALE = 8192, 16
ON_A_CANVAS = ("scale_crop_flip", "resize_flip")
# What 'resize_flip' does not read, and its defaults: another value was set.
FACTORS = {"scale": (0.5, 2.0), "scale_step": 0.1}


def tuple_fault(field: str, value: Any) -> str:
    """What is wrong with a value of several numbers, or "".

    >>> tuple_fault("canvas", (512,))
    'found (512,), expected () or a height and a width, 1 to 8192 pixels'
    """
    two = isinstance(value, tuple | list) and len(value) in (0, 2)
    numbers = two and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < math.inf
        for v in value
    )
    if field == "scale":
        if numbers and value and value[0] <= value[1] <= MOST_SCALE:
            return ""
        return (
            f"found {value}, expected the least and the largest factor, above 0 and at "
            f"most {MOST_SCALE}"
        )
    if field == "train_resize":
        sides = value if isinstance(value, tuple | list) else (0,)
        if all(type(v) is int and 0 < v <= MOST_SIDE for v in sides):
            return ""
        return f"found {value}, expected shorter sides, 1 to {MOST_SIDE} pixels"
    if field in ("train_size", "canvas"):
        if numbers and all(isinstance(v, int) and v <= MOST_SIDE for v in value):
            return ""
        return (
            f"found {value}, expected () or a height and a width, 1 to {MOST_SIDE} "
            "pixels"
        )
    return ""


def check_fields(data) -> None:
    """ValueError, naming the field, unless all that ``data`` has are in range.

    >>> check_fields({"padding": 4, "limit": 0})
    >>> check_fields({"padding": -1})
    Traceback (most recent call last):
    ValueError: data.padding: found -1, expected at least 0
    """
    for field, (least, most) in RANGES.items():
        value = data.get(field, least)
        if not isinstance(value, int | float) or not least <= value <= most:
            expected = f"at least {least}" if most == math.inf else f"{least} to {most}"
            raise ValueError(f"data.{field}: found {value}, expected {expected}")
    for field in TUPLES:
        if field in data and (fault := tuple_fault(field, data[field])):
            raise ValueError(f"data.{field}: {fault}")
    _check_views(data)
    size = data.get("eval_size") or data.get("image_size", 0)
    if 0 < data.get("resize", 0) < size:
        raise ValueError(
            f"data.resize: found {data.resize}, expected 0 or at least {size}, the "
            "side of the crop that is cut from it (data.eval_size, data.image_size)"
        )
    if data.get("augment") == "resized_crop" and not data.image_size:
        raise ValueError(
            "data.image_size: found 0, expected a size in pixels for data.augment "
            "'resized_crop'"
        )


def _check_views(data) -> None:
    """Fields of views that need or exclude each other."""
    train_size = tuple(data.get("train_size", ()))
    if (data.get("augment") in ON_A_CANVAS) != bool(train_size):
        expected = "()" if train_size else "a height and a width"
        raise ValueError(
            f"data.train_size: found {train_size}, expected {expected} for "
            f"data.augment {data.get('augment')!r}"
        )
    if data.get("augment") == "resize_flip" and not (
        data.get("resize") or data.get("train_resize")
    ):
        raise ValueError(
            "data.resize: found 0, expected the shorter side in pixels for "
            "data.augment 'resize_flip'"
        )
    if data.get("augment") == "resize_flip":
        for field, default in FACTORS.items():
            found = data.get(field, default)
            found = tuple(found) if field == "scale" else found
            if found != default:
                raise ValueError(
                    f"data.{field}: found {found}, expected the default {default} for "
                    "data.augment 'resize_flip', which draws no factors"
                )
    elif data.get("train_resize"):
        raise ValueError(
            f"data.train_resize: found {tuple(data.train_resize)}, expected () for "
            f"data.augment {data.get('augment')!r}: 'resize_flip' alone reads it"
        )
    least, most = data.get("scale", (1.0, 1.0))
    if data.get("augment") == "scale_crop_flip" and (
        0 < most - least < data.get("scale_step", 0)
    ):
        raise ValueError(
            f"data.scale_step: found {data.scale_step}, expected 0 or at most "
            f"{most - least:g}, the range of data.scale"
        )
    if data.get("resize_longest") and not (
        data.get("resize") or data.get("train_resize")
    ):
        raise ValueError(
            f"data.resize_longest: found {data.resize_longest}, expected 0 without "
            "data.resize or data.train_resize"
        )
    if data.get("two_canvases") and not (data.get("canvas") or train_size):
        raise ValueError(
            "data.two_canvases: found True, expected False without data.canvas and "
            "data.train_size"
        )
    for field in ("eval_size", "image_size"):
        if data.get("canvas") and data.get(field):
            raise ValueError(
                f"data.canvas: found {tuple(data.canvas)}, expected () beside "
                f"data.{field} {data[field]}"
            )
