"""Data sets of arrays in a ``.npz`` file, and the one that ships with us."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from ..class_names import FASHION_CLASSES, names_of_labels
from ..formats.single_files import read_idx, read_npz
from ..images.masks import MAX_CLASSES as MAX_MASK_CLASSES
from ..images.masks import VOID, MaskRule, parse_rule, to_classes
from ..split import (
    MAX_CLASSES,
    Dataset,
    Split,
    array_split,
    as_images,
    check_labels,
    in_memory,
    whole_labels,
)
from .pairs import class_list


def load_embedded(path: str = "") -> Dataset:
    """The class-balanced 8,000/2,000 subset of Fashion-MNIST that ships with us."""
    del path
    file = resources.files("diffkd_jax.data") / "embedded/fashion_mnist.npz"
    with resources.as_file(file) as local:
        return load_npz(str(local))._replace(class_names=FASHION_CLASSES)


def load_npz(path: str, *, mapping: Any = "") -> Dataset:
    """Arrays in a ``.npz``: ``<split>/image`` uint8, ``<split>/label`` integers.

    Labels are ``[n]``, a class a picture, or ``[n, h, w]``, a class a pixel, 255 where
    it does not count. An optional array ``class_names`` names the classes.

    Args:
      path: the file.
      mapping: of values of masks to classes, see
        :func:`diffkd_jax.data.sources.pairs.load_masks`.

    Raises:
      ValueError: a damaged file, other arrays, or labels that are no classes.
    """
    arrays = read_npz(path)
    names = [k.removesuffix("/image") for k in arrays if k.endswith("/image")]
    if not names or any(f"{n}/label" not in arrays for n in names):
        raise ValueError(
            f"{path}: found arrays {sorted(arrays)}, expected '<split>/image' and "
            "'<split>/label', such as 'train/image'"
        )
    labels = [whole_labels(arrays[f"{n}/label"]) for n in names]
    masked = labels[0].ndim == 3
    if not masked:
        if mapping:
            raise ValueError(
                f"data.options.mapping: found {mapping!r}, expected none for {path}, "
                "which has no masks"
            )
        for n, label in zip(names, labels, strict=True):
            check_labels(label, MAX_CLASSES, f"{path}: {n}")
    if "class_names" in arrays:
        given = arrays["class_names"]
        if given.ndim != 1 or given.dtype.kind != "U":
            raise ValueError(
                f"{path}: found class_names {given.dtype} {given.shape}, expected one "
                "text a class"
            )
        classes = tuple(str(name) for name in given)
    elif masked:
        classes = tuple(str(k) for k in range(_most(labels, mapping) + 1))
    else:
        top = max(int(label.max(initial=0)) for label in labels)
        classes = tuple(str(k) for k in range(top + 1))
    rule = parse_rule(len(classes), mapping) if masked else None
    splits = {}
    for n, label in zip(names, labels, strict=True):
        image, where = arrays[f"{n}/image"], f"{path}: {n}"
        splits[n] = (
            array_split(image, label, len(classes), where)
            if rule is None
            else mask_split(image, label, rule, where)
        )
    return Dataset(splits, classes, {"ignore": VOID} if masked else {})


def mask_split(
    image: np.ndarray, label: np.ndarray, rule: MaskRule, where: str
) -> Split:
    """A split of pictures and masks in memory, checked.

    Raises:
      ValueError: shapes, dtypes or values, with ``where`` in front.

    >>> label = np.array([[[0, 255]]])
    >>> split = mask_split(np.zeros((1, 1, 2), np.uint8), label, MaskRule(1), "here")
    >>> split.fetch(np.array([0]))["target"]["label"]
    array([[[  0, 255]]], dtype=uint8)
    """
    image = as_images(image, where)
    if label.shape != image.shape[:3]:
        raise ValueError(
            f"{where}: found images {image.shape} and labels {label.shape}, expected "
            f"labels {image.shape[:3]}, a class a pixel"
        )
    # One by one: an index is copied as 64 bits.
    classes = np.stack(
        [to_classes(x, rule, f"{where}: example {i}") for i, x in enumerate(label)]
    )
    fetch = lambda rows: {"image": image[rows], "target": {"label": classes[rows]}}
    return Split(len(classes), fetch, stored=in_memory(image))


def _most(labels: Sequence[np.ndarray], mapping: Any) -> int:
    """The largest class in masks, or that a mapping gives."""
    rule = parse_rule(MAX_MASK_CLASSES, mapping)
    named = dict(rule.mapping)
    found = {int(v) for label in labels for v in np.unique(label)}
    given = [named.get(v, v) for v in found]
    return max((c for c in [*given, *named.values()] if 0 <= c < VOID), default=0)


def load_idx(path: str, *, classes: Any = "") -> Dataset:
    """Idx files, plain or ``.gz``, such as those of Fashion-MNIST and of MNIST.

    The names of the classes are those of clothes if the labels are those of
    Fashion-MNIST, else numbers: digits and letters come in files of the same names.

    Args:
      path: folder of the four files.
      classes: names of the classes, as a tuple or with commas between, or how many
        there are; 10 by default.

    Raises:
      ValueError: damaged files, or labels that are no classes.
      FileNotFoundError: a missing file.
    """
    names = class_list(10 if classes == "" else classes)
    splits, labels = {}, []
    for name, prefix in (("train", "train"), ("test", "t10k")):
        image = read_idx(path, f"{prefix}-images-idx3-ubyte", 3)
        label = read_idx(path, f"{prefix}-labels-idx1-ubyte", 1)
        splits[name] = array_split(image, label, len(names), f"{path}: {name}")
        labels.append(label)
    if classes == "":
        names = names_of_labels(*labels, classes=len(names))
    return Dataset(splits, names)
