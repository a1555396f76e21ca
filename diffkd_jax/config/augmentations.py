"""The kinds of augmentation that ``data.augment`` names."""

from typing import Literal, NamedTuple

AugmentationName = Literal[
    "none", "crop_flip", "resized_crop", "scale_crop_flip", "resize_flip"
]


class Augmentation(NamedTuple):
    """A kind of augmentation of training images, by what it does to an image.

    Attributes:
      mirrors: whether half of the images are mirrored if ``data.flip`` is set.
      shifts: whether images are cropped at their own size after ``data.padding`` pixels
        are added on each side.
      crops: whether a random area is cropped and resized to ``data.image_size``.
      scales: whether images are resized by a factor from ``data.scale``, and cropped or
        padded to ``data.train_size``.
      fits: whether whole images are resized to a shorter side, and padded to
        ``data.train_size``. The side is one of ``data.train_resize``, or
        ``data.resize``.

    >>> AUGMENTATIONS["resize_flip"].on_canvas, AUGMENTATIONS["crop_flip"].on_canvas
    (True, False)
    """

    mirrors: bool = True
    shifts: bool = False
    crops: bool = False
    scales: bool = False
    fits: bool = False

    @property
    def on_canvas(self) -> bool:
        """Returns whether all images are brought to ``data.train_size``."""
        return self.scales or self.fits

    @property
    def keeps_size(self) -> bool:
        """Returns whether images keep their own size."""
        return not (self.crops or self.on_canvas)


AUGMENTATIONS: dict[AugmentationName, Augmentation] = {
    "none": Augmentation(mirrors=False),
    "crop_flip": Augmentation(shifts=True),
    "resized_crop": Augmentation(crops=True),
    "scale_crop_flip": Augmentation(scales=True),
    "resize_flip": Augmentation(fits=True),
}
