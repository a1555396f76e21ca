"""Data sets of arrays: ``.npz`` files, idx files, and the embedded Fashion-MNIST."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from ..array_splits import (
    as_images,
    check_labels,
    make_array_split,
    stored_array,
    whole_labels,
)
from ..class_names import FASHION_CLASSES, recognise_class_names
from ..formats.class_lists import parse_class_names
from ..formats.single_files import read_idx, read_npz
from ..images.mask_rules import MAX_MASK_CLASSES, VOID, MaskRule, parse_rule, to_classes
from ..split import MAX_CLASSES, Dataset, Split


def load_embedded(path: str = "") -> Dataset:
    """Loads the embedded subset of Fashion-MNIST: 8,000 training and 2,000 test images.

    Each of the ten classes has the same number of images. The file is part of this
    package.

    Args:
      path: unused.

    >>> load_embedded().class_names[:2]
    ('T-shirt', 'Trouser')
    """
    del path
    file = resources.files("diffkd_jax.data") / "embedded/fashion_mnist.npz"
    with resources.as_file(file) as local:
        return load_npz(str(local))._replace(class_names=FASHION_CLASSES)


def load_npz(path: str, *, mapping: Any = "") -> Dataset:
    """Loads arrays of a ``.npz`` file, ``<split>/image`` and ``<split>/label``.

    Images are uint8 ``[n, h, w]`` or ``[n, h, w, c]``. Labels are integers: ``[n]`` for
    one class for each image, or ``[n, h, w]`` for one class for each pixel, where 255
    marks pixels to ignore. The optional array ``class_names`` names the classes.

    Args:
      path: path of the file.
      mapping: which class each value of a mask becomes, see
        :func:`diffkd_jax.data.sources.pairs.load_masks`.

    Raises:
      ValueError: the file is damaged, holds other arrays, or has labels that are not
        classes.

    >>> import tempfile
    >>> image, label = np.zeros((2, 4, 4), np.uint8), np.array([0, 1])
    >>> with tempfile.NamedTemporaryFile(suffix=".npz") as file:
    ...     np.savez(file, **{"train/image": image, "train/label": label})
    ...     file.flush()
    ...     load_npz(file.name).splits["train"].size
    2
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
        names_array = arrays["class_names"]
        if names_array.ndim != 1 or names_array.dtype.kind != "U":
            raise ValueError(
                f"{path}: found class_names {names_array.dtype} {names_array.shape}, "
                "expected one text for each class"
            )
        classes = tuple(str(name) for name in names_array)
    elif masked:
        classes = tuple(str(k) for k in range(_largest_class(labels, mapping) + 1))
    else:
        top = max(int(label.max(initial=0)) for label in labels)
        classes = tuple(str(k) for k in range(top + 1))
    rule = parse_rule(len(classes), mapping) if masked else None
    splits = {}
    for n, label in zip(names, labels, strict=True):
        image, split_name = arrays[f"{n}/image"], f"{path}: {n}"
        splits[n] = (
            make_array_split(image, label, len(classes), split_name)
            if rule is None
            else make_mask_split(image, label, rule, split_name)
        )
    return Dataset(splits, classes, {"ignore": VOID} if masked else {})


def make_mask_split(
    image: UInt8[np.ndarray, "n h w *c"],
    label: Integer[np.ndarray, "n h w"],
    rule: MaskRule,
    where: str,
) -> Split:
    """Creates a split of images and masks in memory, after checking them.

    Args:
      image: uint8 ``[n, h, w]`` or ``[n, h, w, c]``.
      label: integers ``[n, h, w]``, the masks.
      rule: how values of masks become classes.
      where: name of the split, for messages.

    Raises:
      ValueError: wrong shapes, dtypes or values; the message begins with ``where``.

    >>> image, label = np.zeros((1, 1, 2), np.uint8), np.array([[[0, 255]]])
    >>> split = make_mask_split(image, label, MaskRule(1), "here")
    >>> split.fetch(np.array([0]))["target"]["label"]
    array([[[  0, 255]]], dtype=uint8)
    """
    image = as_images(image, where)
    if label.shape != image.shape[:3]:
        raise ValueError(
            f"{where}: found images {image.shape} and labels {label.shape}, expected "
            f"labels {image.shape[:3]}, one class for each pixel"
        )
    # One mask at a time, since looking up classes takes 64 bits for each pixel.
    classes = np.stack(
        [to_classes(x, rule, f"{where}: example {i}") for i, x in enumerate(label)]
    )
    fetch = lambda rows: {"image": image[rows], "target": {"label": classes[rows]}}
    return Split(len(classes), fetch, stored=stored_array(image))


def _largest_class(labels: Sequence[np.ndarray], mapping: Any) -> int:
    """Returns the largest class in masks, or in a mapping if that is larger."""
    rule = parse_rule(MAX_MASK_CLASSES, mapping)
    class_of = dict(rule.mapping)
    values = {int(v) for label in labels for v in np.unique(label)}
    classes = [class_of.get(v, v) for v in values] + [*class_of.values()]
    return max((c for c in classes if 0 <= c < VOID), default=0)


def load_idx(path: str, *, classes: Any = "") -> Dataset:
    r"""Loads idx files, plain or ``.gz``, such as those of Fashion-MNIST and MNIST.

    The names of the classes are those of Fashion-MNIST if the labels are, and otherwise
    numbers, since data sets of digits and letters use the same file names.

    Args:
      path: folder of the four files.
      classes: names of the classes, as a tuple or separated by commas, or their number;
        10 by default.

    Raises:
      ValueError: a file is damaged, or a label is not a class.
      FileNotFoundError: a file is missing.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train", "t10k"):
    ...         for kind, head in (("images", (2051, 1, 1, 1)), ("labels", (2049, 1))):
    ...             file = f"{name}-{kind}-idx{len(head) - 1}-ubyte"
    ...             data = np.array(head, ">i4").tobytes() + b"\0"
    ...             _ = pathlib.Path(folder, file).write_bytes(data)
    ...     sorted(load_idx(folder, classes=1).splits)
    ['test', 'train']
    """
    names = parse_class_names(10 if classes == "" else classes)
    splits, labels = {}, []
    for name, prefix in (("train", "train"), ("test", "t10k")):
        image = read_idx(path, f"{prefix}-images-idx3-ubyte", 3)
        label = read_idx(path, f"{prefix}-labels-idx1-ubyte", 1)
        splits[name] = make_array_split(image, label, len(names), f"{path}: {name}")
        labels.append(label)
    if classes == "":
        names = recognise_class_names(*labels, classes=len(names))
    return Dataset(splits, names)
