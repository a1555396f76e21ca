"""The data of a run: opened, checked and split as the section ``data`` says."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..config.data import DataConfig
from . import leaks
from .findings import refuse_findings, some_of
from .formats.text import make_name_finder
from .images import white_level
from .images.objects import drop_empty_images
from .pipeline.groups import group_by_shape
from .pipeline.unreadable import first_readable
from .sources import registry
from .split import Split, hold_out, limit_split
from .transforms import LABELS, TargetTransform, recognise_target
from .transforms.draws import Draws
from .transforms.normalise import make_batch_normaliser
from .transforms.target import About

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
    """
    used = {options.train_split, options.eval_split} - {"holdout"}
    dataset_options = dict(options.options)
    dataset = registry.load(
        options.name, options.path, tuple(sorted(used)), dataset_options
    )
    names = tuple(dataset.class_names or dataset.meta.get("class_names", ()))
    splits = dict(dataset.splits)
    _find_splits(splits, options)
    for field in ("eval_split", "train_split"):
        if (split := getattr(options, field)) not in {*splits, "holdout"}:
            raise ValueError(
                f"data.{field}: found {split!r}, expected one of {[*splits, 'holdout']}"
            )
    if options.train_split == "holdout":
        raise ValueError(f"data.train_split: found 'holdout', expected of {[*splits]}")
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
    _warn_of_empty_classes(splits[options.train_split], names)
    for name in used:
        refuse_findings(splits[name].findings, options.max_doubtful)
    splits = {
        k: white_level.set_white_level(v, options.max_level) for k, v in splits.items()
    }
    if options.holdout:
        rest, held = hold_out(splits[options.train_split], options.holdout)
        splits |= {options.train_split: rest, "holdout": held}
    train = drop_empty_images(splits[options.train_split], options.keep_empty)
    if options.limit:
        splits = {
            name: limit_split(split, options.limit) for name, split in splits.items()
        }
        train = limit_split(train, options.limit)
    if options.two_canvases:
        train = group_by_shape(train)
        splits = {name: group_by_shape(split) for name, split in splits.items()}
    evaluation = splits[options.eval_split]
    if options.train_split != options.eval_split:
        findings = leaks.find_leaks(train, evaluation, options.name)
        refuse_findings(findings, options.max_doubtful)
    # Worker processes get a copy of the splits; stored images are not needed there.
    train, evaluation = (s._replace(stored=None) for s in (train, evaluation))
    splits = {name: split._replace(stored=None) for name, split in splits.items()}
    transform = dataset.transform or recognise_target(_first_target(train))
    transform.check(options)
    # Inspection comes before images are read that may not fit.
    shown = names or tuple(map(str, range(classes)))
    about = lambda name, **use: About(f"{options.name} {name}", shown, **use)
    train = transform.inspect(
        train, options, about(options.train_split, train=True, evaluate=False)
    )
    splits = {
        name: transform.inspect(
            split,
            options,
            about(name, train=False, evaluate=name == options.eval_split),
        )
        for name, split in splits.items()
    }
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
        train,
        evaluation,
        {
            **dataset.meta,
            "num_classes": classes,
            "class_names": list(names),
            "channels": out,
            "image_size": list(size),
            "mean": list(options.mean),
            "std": list(options.std),
        },
        (*size, out),
        (*eval_size, out),
        splits,
        sample["target"],
        make_batch_normaliser(options, channels),
        "size" in sample,
        transform=transform,
    )


def _first_target(split: Split) -> Mapping[str, Any]:
    """Returns the target of the first example; its image is not decoded."""
    target: Mapping[str, Any] = split.fetch(np.zeros(1, int)).get("target", {})
    return target


def _find_splits(splits: dict[str, Split], options: DataConfig) -> None:
    """Renames splits, in place, that the config writes in another Unicode form."""
    find = make_name_finder(list(splits))
    for field in ("train_split", "eval_split"):
        wanted = getattr(options, field)
        name = find(wanted)
        if name is not None and name != wanted:
            splits[wanted] = splits.pop(name)


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
    if options.augmentation.shifts and options.padding > max(size):
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
