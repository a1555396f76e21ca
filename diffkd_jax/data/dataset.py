"""The data of a run: opened, checked and split as the section ``data`` says."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..config.augmentations import AUGMENTATIONS
from ..config.data import DataConfig
from . import leaks
from .findings import refuse_findings, some_of
from .formats.text import make_name_finder
from .images import white_level
from .images.objects import drop_empty_images
from .pipeline.groups import group_by_shape
from .pipeline.unreadable import first_readable
from .sources import registry
from .split import Dataset, Split, hold_out, limit_split
from .transforms import LABELS, TargetTransform, recognise_target
from .transforms.draws import Draws
from .transforms.normalise import make_batch_normaliser
from .transforms.target import SplitInfo

LOG = logging.getLogger(__name__)


class Data(NamedTuple):
    """The data that a run trains and evaluates on.

    Attributes:
      train: the training split.
      evaluation: the evaluation split.
      meta: JSON values: ``num_classes``; ``class_names`` in label order; ``channels``
        and ``image_size`` (height, width) of a normalised training image; ``mean`` and
        ``std`` of the normalisation; with masks, ``ignore`` (the class that does not
        count) and optionally ``palette``.
      train_shape: shape of a normalised training image, ``(h, w, c)``.
      eval_shape: shape of a normalised evaluation image.
      splits: all splits by name.
      target: target of one training example, arrays ``[1, ...]``, for their shapes.
      normalise: function that normalises the uint8 images of a batch. Outside ``size``,
        if the batch holds it, the result is zero.
      sized: whether training batches hold ``size``, int32 ``[n, 2]``: height and width
        without padding.
      assumed: whether the data are blank, for a dry run.
      transform: how targets follow their images.
    """

    train: Split
    evaluation: Split
    meta: dict[str, Any]
    train_shape: tuple[int, ...]
    eval_shape: tuple[int, ...]
    splits: Mapping[str, Split]
    target: dict[str, np.ndarray]
    normalise: Callable[[Mapping[str, Any]], dict[str, Any]]
    sized: bool = False
    assumed: bool = False
    transform: TargetTransform = LABELS

    def record(self) -> dict[str, list[Any]]:
        """Returns what a run records to recognise its data."""
        pictures = [self.train.size, self.evaluation.size]
        return {"classes": list(self.meta["class_names"]), "pictures": pictures}


def open_data(options: DataConfig) -> Data:
    """Opens the data of a run, and holds out a part of the training split if asked to.

    Classes without a training image are named in the log.

    Args:
      options: the section ``data`` of a config.

    Raises:
      ValueError: unknown names, a number of classes other than ``data.num_classes``, or
        a larger share of findings than ``data.max_doubtful``.

    >>> data = open_data(DataConfig(name="fashion_mnist_embedded"))
    >>> data.train_shape, data.train.size, data.meta["num_classes"]
    ((28, 28, 1), 8000, 10)
    """
    used = {options.train_split, options.eval_split} - {"holdout"}
    dataset = registry.load(
        options.name, options.path, tuple(sorted(used)), dict(options.options)
    )
    splits = _find_splits(dataset, options)
    names, classes = _check_classes(dataset, options)
    _warn_of_empty_classes(splits[options.train_split], names)
    for name in used:
        refuse_findings(splits[name].findings, options.max_doubtful)
    train, splits = _select_examples(splits, options)
    transform = dataset.transform or recognise_target(_first_target(train))
    transform.check(options)
    # Inspection comes before images are read that may not fit.
    shown_names = names or tuple(map(str, range(classes)))
    train, splits = _inspect(train, splits, transform, options, shown_names)
    evaluation = splits[options.eval_split]
    sample = first_readable(evaluation, lambda b: transform.evaluate(b, options))
    *eval_size, channels = sample["image"].shape[1:]
    _check_image(options, eval_size, channels)
    size = (options.image_size,) * 2 if options.image_size else tuple(eval_size)
    first_draws = Draws(0, 0, np.zeros(1, int))
    if transform.own_size or options.train_size or options.canvas:
        augment = lambda batch: transform.train(batch, first_draws, options)
        sample = first_readable(train, augment)
        size = sample["image"].shape[1:3]
    if not options.max_level:
        white_level.warn_of_dark_images(train, f"{options.name} {options.train_split}")
    out = options.channels or channels
    return Data(
        train=train,
        evaluation=evaluation,
        meta={
            **dataset.meta,
            "num_classes": classes,
            "class_names": list(names),
            "channels": out,
            "image_size": list(size),
            "mean": list(options.mean),
            "std": list(options.std),
        },
        train_shape=(*size, out),
        eval_shape=(*eval_size, out),
        splits=splits,
        target=sample["target"],
        normalise=make_batch_normaliser(options, channels),
        sized="size" in sample,
        transform=transform,
    )


def _find_splits(dataset: Dataset, options: DataConfig) -> dict[str, Split]:
    """Returns the splits by name, in the Unicode form in which the config writes it."""
    splits = dict(dataset.splits)
    find = make_name_finder(list(splits))
    for field in ("train_split", "eval_split"):
        wanted = getattr(options, field)
        name = find(wanted)
        if name is not None and name != wanted:
            splits[wanted] = splits.pop(name)
    for field in ("eval_split", "train_split"):
        if (split := getattr(options, field)) not in {*splits, "holdout"}:
            raise ValueError(
                f"data.{field}: found {split!r}, expected one of {[*splits, 'holdout']}"
            )
    if options.train_split == "holdout":
        raise ValueError(
            f"data.train_split: found 'holdout', expected one of {[*splits]}"
        )
    return splits


def _check_classes(
    dataset: Dataset, options: DataConfig
) -> tuple[tuple[str, ...], int]:
    """Returns the names of the classes, and how many there are."""
    names = tuple(dataset.class_names or dataset.meta.get("class_names", ()))
    classes = len(names) or int(dataset.meta.get("num_classes", 0))
    if dataset.meta.get("num_classes", classes) != classes:
        raise ValueError(
            f"data.name: found num_classes {dataset.meta['num_classes']} beside "
            f"{len(names)} class_names, expected one number"
        )
    if options.num_classes not in (0, classes):
        raise ValueError(
            f"data.num_classes: found {options.num_classes}, expected {classes}, the "
            f"classes of {options.name!r}"
        )
    return names, classes


def _select_examples(
    splits: dict[str, Split], options: DataConfig
) -> tuple[Split, dict[str, Split]]:
    """Returns the training examples, and all splits: held out, limited and grouped."""
    splits = {
        name: white_level.set_white_level(split, options.max_level)
        for name, split in splits.items()
    }
    if options.holdout:
        remaining, held_out = hold_out(splits[options.train_split], options.holdout)
        splits |= {options.train_split: remaining, "holdout": held_out}
    train = drop_empty_images(splits[options.train_split], options.keep_empty)
    if options.limit:
        splits = {
            name: limit_split(split, options.limit) for name, split in splits.items()
        }
        train = limit_split(train, options.limit)
    if options.two_canvases:
        train = group_by_shape(train)
        splits = {name: group_by_shape(split) for name, split in splits.items()}
    if options.train_split != options.eval_split:
        findings = leaks.find_leaks(train, splits[options.eval_split], options.name)
        refuse_findings(findings, options.max_doubtful)
    # Worker processes get a copy of the splits; stored images are not needed there.
    splits = {name: split._replace(stored=None) for name, split in splits.items()}
    return train._replace(stored=None), splits


def _inspect(
    train: Split,
    splits: dict[str, Split],
    transform: TargetTransform,
    options: DataConfig,
    class_names: tuple[str, ...],
) -> tuple[Split, dict[str, Split]]:
    """Lets the transform inspect the training examples and all splits."""

    def inspect(split: Split, name: str, *, train: bool, evaluate: bool) -> Split:
        about = SplitInfo(f"{options.name} {name}", class_names, train, evaluate)
        return transform.inspect(split, options, about)

    train = inspect(train, options.train_split, train=True, evaluate=False)
    inspected = {
        name: inspect(split, name, train=False, evaluate=name == options.eval_split)
        for name, split in splits.items()
    }
    return train, inspected


def _first_target(split: Split) -> Mapping[str, Any]:
    """Returns the target of the first example; its image is not decoded."""
    target: Mapping[str, Any] = split.fetch(np.zeros(1, int)).get("target", {})
    return target


def _warn_of_empty_classes(train: Split, names: tuple[str, ...]) -> None:
    """Warns of classes without a training image."""
    if train.label is None or not names:
        return
    has_image = np.bincount(train.label, minlength=len(names)) > 0
    if not has_image.all():
        unseen = some_of(names[k] for k in np.flatnonzero(~has_image))
        LOG.warning("classes without a training image: %s", unseen)


def _check_image(options: DataConfig, size: Sequence[int], channels: int) -> None:
    """Refuses augmentation that does not fit the size or channels of images."""
    if AUGMENTATIONS[options.augment].shifts and options.padding > max(size):
        raise ValueError(
            f"data.padding: found {options.padding}, expected 0 to {max(size)}, the "
            "side of the images"
        )
    for field in ("rand_augment", "color_jitter"):
        if (strength := getattr(options, field)) and channels not in (1, 3):
            raise ValueError(
                f"data.{field}: found {strength} for images of {channels} "
                "channels, expected 0"
            )
