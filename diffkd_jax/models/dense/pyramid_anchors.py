"""Anchors on the levels of a feature pyramid."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ...ops.anchors import grid_anchors


def covered_size(
    module: Any, level: str, size: Sequence[int], image_size: Sequence[int]
) -> Sequence[int]:
    """Returns height and width of the area that the cells of a map cover, in pixels.

    This is the size of the image. With ``module.nominal_strides`` it is what the map
    covers at the stride of its level.

    Args:
      module: a detector with the field ``nominal_strides``.
      level: level of the map, such as "p3".
      size: height and width of the map, in cells.
      image_size: height and width of the image, in pixels.

    >>> from diffkd_jax.models import build_network
    >>> net = build_network("fcos_resnet18", num_classes=80, nominal_strides=True)
    >>> covered_size(net, "p3", (5, 7), (33, 50))
    (40, 56)
    """
    if not module.nominal_strides:
        return image_size
    stride = 2 ** int(level[1:])
    return size[0] * stride, size[1] * stride


def place_anchors(
    module: Any,
    maps: Mapping[str, Float[Array, "b _ _ _"]],
    image_size: Sequence[int],
    sides: Sequence[Sequence[float]],
) -> dict[str, Float[np.ndarray, "_ 4"]]:
    """Places the anchors of a detector on the cells of its pyramid.

    Args:
      module: a detector with the fields ``ratios``, ``rounded_anchors`` and
        ``nominal_strides``.
      maps: ``[b, h, w, c]`` by level.
      image_size: height and width of the image, in pixels.
      sides: for each level the sides of its square anchors, in pixels.

    Returns:
      ``[h * w * anchors, 4]`` by level, ``x1 y1 x2 y2`` in pixels of the image.

    Raises:
      ValueError: the number of ``sides`` is not that of the levels.

    >>> from diffkd_jax.models import build_network
    >>> net = build_network("retinanet_resnet18", num_classes=80, ratios=(1.0,))
    >>> maps = {"p3": np.zeros((1, 1, 2, 8))}
    >>> place_anchors(net, maps, (8, 16), [[4]])["p3"].tolist()
    [[-2.0, -2.0, 2.0, 2.0], [6.0, -2.0, 10.0, 2.0]]
    """
    if len(sides) != len(maps):
        raise ValueError(
            f"anchor_sizes: found {len(sides)} of them, expected one for each of "
            f"{tuple(maps)}"
        )
    anchors = {}
    for (level, y), level_sides in zip(maps.items(), sides, strict=True):
        size = y.shape[1:3]
        covered = covered_size(module, level, size, image_size)
        anchors[level] = grid_anchors(
            size, covered, level_sides, module.ratios, module.rounded_anchors
        )
    return anchors
