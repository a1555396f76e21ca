"""The section ``data``: which data a run has, and how images become batches."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, Strict, model_validator

from ..bounds import Share, Words
from .augmentations import AUGMENTATIONS, AugmentationName
from .section import AtLeastOne, Count, Free, OfMachine, Section, raise_for_faults

# Fields that an augmentation without random factors does not read.
FACTORS = ("scale", "scale_step")
MOST_SIDE, MOST_SCALE = 8192, 16

Pixels = Annotated[int, Field(ge=0, le=MOST_SIDE)]
Seconds = Annotated[float, Field(ge=1)]


def _checked(holds: bool, value: Any) -> Any:
    if not holds:
        raise ValueError
    return value


Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
Size = Annotated[
    tuple[Side, ...],
    Strict(False),
    AfterValidator(lambda v: _checked(len(v) in (0, 2), v)),
    Words(f"() or a height and a width, 1 to {MOST_SIDE} pixels"),
]
Sides = Annotated[
    tuple[Side, ...],
    Strict(False),
    Words(f"shorter sides, 1 to {MOST_SIDE} pixels"),
]
Scale = Annotated[
    tuple[float, ...],
    Strict(False),
    AfterValidator(
        lambda v: _checked(len(v) == 2 and 0 < v[0] <= v[1] <= MOST_SCALE, v)
    ),
    Words(f"the least and the largest factor, above 0 and at most {MOST_SCALE}"),
]
LEVELS = "one or one a channel: levels of 0 to 255 are brought to 0 to 1 before"
Mean = Annotated[
    tuple[Share, ...],
    Strict(False),
    AfterValidator(lambda v: _checked(bool(v), v)),
    Words(f"numbers at least 0 and at most 1, {LEVELS}"),
]
Std = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], ...],
    Strict(False),
    AfterValidator(lambda v: _checked(bool(v), v)),
    Words(f"numbers above 0 and at most 1, {LEVELS}"),
]


class DataConfig(Section):
    """The data set of a run, and how batches are made of its images.

    >>> DataConfig(name="cifar10", path="/data/cifar10").batch_size
    64
    """

    name: str = ""
    """Data set: fashion_mnist_embedded, cifar10, ..., tfds/NAME, or an import path."""
    path: Annotated[str, Free] = ""
    """File or folder of the data set, if it needs one."""
    options: Mapping[str, Any] = {}
    """Further arguments of the data set's function."""
    train_split: str = "train"
    """Split to train on."""
    eval_split: str = "test"
    """Split to evaluate on; "holdout" to choose hyperparameters."""
    holdout: Count = 0
    """Training images that are kept for eval_split "holdout"."""
    limit: Count = 0
    """Images of each split that are used, drawn over all classes; 0 for all."""
    num_classes: Count = 0
    """Number of classes that the data must have; 0 for no check."""
    batch_size: AtLeastOne = 64
    """Images in a training step, over all devices."""
    eval_batch_size: AtLeastOne = 256
    """Images in an evaluation batch, rounded up to a multiple of the devices."""
    augment: AugmentationName = "crop_flip"
    """Augmentation of training images."""
    padding: Count = 4
    """Pixels on each side before the crop of crop_flip."""
    flip: bool = True
    """Mirror half of the training images."""
    train_size: Size = ()
    """Height and width to train on, for scale_crop_flip and resize_flip."""
    scale: Scale = (0.5, 2.0)
    """Least and largest factor of the image size, for scale_crop_flip."""
    scale_step: Annotated[float, Field(ge=0, le=16)] = 0.1
    """Step between two factors of scale; 0 for any factor between."""
    rand_augment: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Magnitude of RandAugment; 0 for none."""
    rand_augment_std: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Standard deviation of the magnitude of RandAugment."""
    color_jitter: Share = 0.0
    """Largest relative change of brightness, contrast and saturation; 0 for none."""
    image_size: Pixels = 0
    """Side of training images in pixels; 0 keeps the size."""
    eval_size: Pixels = 0
    """Side of evaluation images in pixels; 0 for image_size."""
    canvas: Annotated[Size, Free] = ()
    """Height and width to which whole images are padded in evaluation."""
    resize: Pixels = 0
    """Shorter side before the central crop or on the canvas; 0 for its own."""
    resize_longest: Annotated[int, Field(ge=0, le=2 * MOST_SIDE)] = 0
    """Largest longer side on a canvas, in pixels; 0 for any."""
    train_resize: Sides = ()
    """Shorter sides of which resize_flip draws one; () for resize."""
    two_canvases: bool = False
    """Turn canvas and train_size for tall images; a batch has one kind of them."""
    keep_empty: bool = False
    """Train on images without an object too."""
    max_objects: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Objects of a training image that are kept, the largest ones."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of resizing."""
    channels: Literal[0, 3] = 0
    """3 turns grey images into RGB; 0 keeps them."""
    mean: Mean = (0.0,)
    """Mean of the levels, from 0 to 1, that is subtracted from images."""
    std: Std = (1.0,)
    """Standard deviation of the levels by which images are divided."""
    exact_crops: bool = False
    """Let resized_crop filter as Pillow does, which is slower."""
    num_threads: Annotated[int, Field(ge=0, le=1024), OfMachine] = 2
    """Threads that prepare batches."""
    num_workers: Annotated[int, Field(ge=0, le=1024), OfMachine] = 0
    """Worker processes that prepare batches; 0 for threads."""
    max_unreadable: Annotated[Share, OfMachine] = 0.001
    """Share of images that may be unreadable."""
    max_doubtful: Annotated[Share, Free] = 0.01
    """Share of duplicates and of evaluation images that are also in training."""
    max_level: Annotated[int, Field(ge=0, le=65535)] = 0
    """Level of white in images of 16 bits, such as 4095; 0 for 65535."""
    stalled_seconds: Annotated[Seconds, OfMachine] = 600.0
    """Seconds without a batch after which the run ends."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        raise_for_faults(data_faults(self, "data."))
        return self


def data_faults(data: DataConfig, at: str) -> Iterator[str]:
    """Yields an error line for each combination of fields that is not allowed.

    Args:
      data: the section; each of its fields is valid by itself.
      at: path of the section for the lines, such as ``data.``.
    """
    yield from _faults_of_views(data, at)
    size = data.eval_size or data.image_size
    if 0 < data.resize < size:
        yield (
            f"{at}resize: found {data.resize}, expected 0 or at least {size}, the "
            f"side of the crop that is cut from it ({at}eval_size, {at}image_size)"
        )
    if data.eval_split == "holdout" and not data.holdout:
        yield (
            f"{at}holdout: found 0, expected a number of images for {at}eval_split "
            "'holdout'"
        )
    if AUGMENTATIONS[data.augment].crops and not data.image_size:
        yield (
            f"{at}image_size: found 0, expected a size in pixels for {at}augment "
            f"{data.augment!r}"
        )
    for field in ("eval_size", "image_size"):
        if data.canvas and (side := getattr(data, field)):
            yield (
                f"{at}canvas: found {data.canvas}, expected () beside {at}{field} "
                f"{side}"
            )


def _faults_of_views(data: DataConfig, at: str) -> Iterator[str]:
    """Yields an error line for each wrong combination of crop and canvas fields."""
    augment, shorter = data.augment, data.resize or data.train_resize
    augmentation = AUGMENTATIONS[data.augment]
    if augmentation.on_canvas != bool(data.train_size):
        wanted = "()" if data.train_size else "a height and a width"
        yield (
            f"{at}train_size: found {data.train_size}, expected {wanted} for "
            f"{at}augment {augment!r}"
        )
    if augmentation.fits and not shorter:
        yield (
            f"{at}resize: found 0, expected the shorter side in pixels for "
            f"{at}augment {augment!r}"
        )
    for field in FACTORS if augmentation.fits else ():
        default = DataConfig.model_fields[field].default
        if (value := getattr(data, field)) != default:
            yield (
                f"{at}{field}: found {value}, expected the default {default} for "
                f"{at}augment {augment!r}, which draws no factors"
            )
    if data.train_resize and not augmentation.fits:
        yield (
            f"{at}train_resize: found {data.train_resize}, expected () for "
            f"{at}augment {augment!r}: 'resize_flip' alone reads it"
        )
    low, high = data.scale
    if augmentation.scales and 0 < high - low < data.scale_step:
        yield (
            f"{at}scale_step: found {data.scale_step}, expected 0 or at most "
            f"{high - low:g}, the range of {at}scale"
        )
    if data.resize_longest and not shorter:
        yield (
            f"{at}resize_longest: found {data.resize_longest}, expected 0 without "
            f"{at}resize or {at}train_resize"
        )
    if data.two_canvases and not (data.canvas or data.train_size):
        yield (
            f"{at}two_canvases: found True, expected False without {at}canvas and "
            f"{at}train_size"
        )
