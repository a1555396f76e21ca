"""The values that the fields of ``config.data`` may have."""

import math

# From and to, both included.
RANGES: dict[str, tuple[float, float]] = {
    "holdout": (0, math.inf),
    "limit": (0, math.inf),
    "num_classes": (0, math.inf),
    "batch_size": (1, math.inf),
    "eval_batch_size": (1, math.inf),
    "padding": (0, math.inf),
    "rand_augment": (0, 10),
    "rand_augment_std": (0, 100),
    "color_jitter": (0, 1),
    "image_size": (0, 8192),
    "eval_size": (0, 8192),
    "resize": (0, 8192),
    "num_threads": (0, 1024),
    "num_workers": (0, 1024),
    "max_unreadable": (0, 1),
    "stalled_seconds": (1, math.inf),
}


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
