"""The data sets that a config can name, and the function that loads one of them."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ...named import call, find, keywords
from ..split import Dataset
from .arrays import load_embedded, load_idx, load_npz
from .cifar import load_cifar10, load_cifar100
from .cityscapes import load_cityscapes
from .coco import load_coco
from .folders import load_folder
from .pairs import load_masks
from .records import load_tfds
from .scene_boxes import load_scene_boxes
from .scenes import load_scenes
from .shards import load_tar
from .voc import load_voc
from .voc_boxes import load_voc_boxes

DATASETS: dict[str, Callable[..., Dataset]] = {
    "fashion_mnist_embedded": load_embedded,
    "fashion_mnist": load_idx,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "npz": load_npz,
    "folder": load_folder,
    "tar": load_tar,
    "tfds": load_tfds,
    "cityscapes": load_cityscapes,
    "masks": load_masks,
    "voc": load_voc,
    "scenes": load_scenes,
    "scene_boxes": load_scene_boxes,
    "coco": load_coco,
    "voc_boxes": load_voc_boxes,
}


def options_taken(name: str) -> set[str] | None:
    """Returns the names of a data set's options, or None for one that is not built in.

    Args:
      name: value of ``data.name``.

    >>> sorted(options_taken("scenes"))
    ['count', 'objects', 'scale', 'size']
    """
    key = name.partition("/")[0]
    return set(keywords(DATASETS[key])) if key in DATASETS else None


def load(
    name: str,
    path: str = "",
    splits: Sequence[str] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Dataset:
    """Loads a data set by its name.

    Args:
      name: a key of :data:`DATASETS`; ``tfds/<name>`` for a data set of TFDS; or
        ``package.module:name`` for a function ``(path, **options) -> Dataset``, which
        is imported.
      path: file or folder of the data set.
      splits: names of the splits to load, for loaders that can leave out the others;
        all by default.
      options: further arguments of the loader, ``data.options``.

    Raises:
      ValueError: the name is unknown, or files are damaged or inconsistent.
      FileNotFoundError: a file is missing; the message says what was expected.

    >>> data = load("fashion_mnist_embedded")
    >>> data.splits["train"].size, data.splits["test"].size, len(data.class_names)
    (8000, 2000, 10)
    """
    if ":" in name.partition("/")[0]:
        loaded = call(find(name, DATASETS, "data.name"), options, "data.options", path)
        if not isinstance(loaded, Dataset):
            raise ValueError(
                f"data.name: found {name!r}, which gives {type(loaded).__name__}, "
                "expected a diffkd_jax.data.Dataset"
            )
        return loaded
    key, _, tfds_name = name.partition("/")
    if key not in DATASETS or bool(tfds_name) != (key == "tfds"):
        names = [f"{k}/<name>" if k == "tfds" else k for k in DATASETS]
        raise ValueError(f"data.name: found {name!r}, expected one of {names}")
    function = DATASETS[key]
    arguments: tuple[Any, ...] = (path, tfds_name) if tfds_name else (path,)
    if "splits" in keywords(function):
        arguments = (*arguments, splits)
    dataset: Dataset = call(function, options, "data.options", *arguments)
    return dataset
