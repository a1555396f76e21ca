"""Augmentation of whole batches in a training step: random erasing, mixup, CutMix.

All functions are pure. Mixup and CutMix are those of timm in batch mode: one draw for
the whole batch, partners in reverse order.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..task import Batch

MOST_TRIES = 10


def mix(
    key: jax.Array,
    batch: Batch,
    *,
    num_classes: int,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    switch: float = 0.5,
) -> Batch:
    """Mixes each image with its partner by mixup (Zhang 2018) or CutMix (Yun 2019).

    The partner of image ``i`` is image ``b - 1 - i``, and the share is the part of the
    result that comes from image ``i`` itself. One share and one choice between mixup
    and CutMix are drawn for the whole batch.

    Args:
      key: random key.
      batch: ``image`` ``[b, h, w, c]``, ``target`` with ``label`` int ``[b]``.
      num_classes: number of classes.
      mixup: alpha of the Beta distribution from which mixup draws its share; 0 turns
        mixup off.
      cutmix: alpha of the Beta distribution of the share for CutMix; 0 turns CutMix
        off.
      switch: probability of CutMix if both are on, in [0, 1].

    Returns:
      The batch with mixed ``image`` and, in ``target``, ``mixed``: the share of each
      class in each image, float32 ``[b, num_classes]``, in [0, 1].

    >>> target = {"label": jnp.array([0, 2])}
    >>> batch = {"image": jnp.ones((2, 4, 4, 1)), "target": target}
    >>> out = mix(jax.random.key(0), batch, num_classes=3, mixup=1.0)["target"]["mixed"]
    >>> out.sum(-1).tolist(), float(out[0, 1])
    ([1.0, 1.0], 0.0)
    """
    shares = jax.nn.one_hot(batch["target"]["label"], num_classes)
    if not mixup and not cutmix:
        return {**batch, "target": {**batch["target"], "mixed": shares}}
    image = batch["image"]
    key_which, key_share, key_box = jax.random.split(key, 3)
    use_cutmix = jax.random.bernoulli(key_which, switch if mixup else 1.0)
    if not cutmix:
        use_cutmix = jnp.array(False)
    alpha = jnp.where(use_cutmix, cutmix, mixup)
    share = jax.random.beta(key_share, alpha, alpha)
    inside = _box(key_box, image.shape[1:3], jnp.sqrt(1.0 - share))
    share = jnp.where(use_cutmix, 1.0 - inside.mean(), share)
    weight = jnp.where(use_cutmix, ~inside[..., None], share).astype(image.dtype)
    mixed = weight * image + (1 - weight) * image[::-1]
    shares = share * shares + (1.0 - share) * shares[::-1]
    return {**batch, "image": mixed, "target": {**batch["target"], "mixed": shares}}


def random_erase(
    key: jax.Array, image: Float[Array, "b h w c"], probability: float
) -> Float[Array, "b h w c"]:
    """Replaces a random rectangle of an image by normal noise (Zhong et al. 2020).

    This is the "pixel" mode: each value of the rectangle is drawn independently. The
    area is 2 to 33 % of the image, the aspect ratio 0.3 to 3.3. If ten rectangles are
    drawn and none fits, the image stays unchanged.

    Args:
      key: random key.
      image: ``[b, h, w, c]``, normalised images.
      probability: probability that an image is erased, in [0, 1].

    Returns:
      ``[b, h, w, c]``, the images.

    >>> random_erase(jax.random.key(0), jnp.ones((2, 8, 8, 1)), 0.0).min().item()
    1.0
    """
    b, h, w, _ = image.shape
    keys = jax.random.split(key, 4)
    tries = (b, MOST_TRIES)
    area = h * w * jax.random.uniform(keys[0], tries, minval=0.02, maxval=1 / 3)
    log = jnp.log(jnp.array([0.3, 1 / 0.3]))
    aspect = jax.random.uniform(keys[1], tries, minval=log[0], maxval=log[1])
    height = jnp.round(jnp.sqrt(area * jnp.exp(aspect))).astype(int)
    width = jnp.round(jnp.sqrt(area / jnp.exp(aspect))).astype(int)
    fits = (height < h) & (width < w)
    first = jnp.argmax(fits, 1)[:, None]
    height, width = (jnp.take_along_axis(x, first, 1)[:, 0] for x in (height, width))
    corner = jax.random.uniform(keys[2], (2, b))
    top = jnp.floor(corner[0] * (h - height + 1)).astype(int)
    left = jnp.floor(corner[1] * (w - width + 1)).astype(int)
    rows, columns = jnp.arange(h)[None], jnp.arange(w)[None]
    in_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])
    key_noise, key_chosen = jax.random.split(keys[3])
    chosen = jax.random.bernoulli(key_chosen, probability, (b,)) & fits.any(1)
    erased = in_rows[:, :, None] & in_columns[:, None] & chosen[:, None, None]
    # Half precision would draw noise from only about a hundred values.
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    noise = jax.random.normal(key_noise, image.shape, dtype).astype(image.dtype)
    return jnp.where(erased[..., None], noise, image)


def make_prepare(
    num_classes: int,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    switch: float = 0.5,
    erase: float = 0.0,
) -> Callable[[jax.Array, Batch], Batch]:
    """Returns a function ``(key, batch) -> batch`` that erases and then mixes images.

    Args:
      num_classes: number of classes.
      mixup: alpha of mixup, 0 for off, see :func:`mix`.
      cutmix: alpha of CutMix, 0 for off, see :func:`mix`.
      switch: probability of CutMix if both are on, in [0, 1].
      erase: probability that an image is erased, in [0, 1], see :func:`random_erase`.

    >>> target = {"label": jnp.array([0, 2])}
    >>> batch = {"image": jnp.ones((2, 4, 4, 1)), "target": target}
    >>> prepare = make_prepare(3, mixup=1.0)
    >>> prepare(jax.random.key(0), batch)["target"]["mixed"].shape
    (2, 3)
    """

    def prepare(key: jax.Array, batch: Batch) -> Batch:
        key_erase, key_mix = jax.random.split(key)
        if erase:
            image = random_erase(key_erase, batch["image"], erase)
            batch = {**batch, "image": image}
        if not (mixup or cutmix):
            return batch
        options = {"mixup": mixup, "cutmix": cutmix, "switch": switch}
        return mix(key_mix, batch, num_classes=num_classes, **options)

    return prepare


def _box(
    key: jax.Array, size: tuple[int, int], side: Float[Array, ""]
) -> Bool[Array, "h w"]:
    """Marks a random box of ``side`` times the image's sides, clipped to the image."""
    axes = []
    for length, k in zip(size, jax.random.split(key), strict=True):
        half = (length * side).astype(int) // 2
        center = jax.random.randint(k, (), 0, length)
        i = jnp.arange(length)
        axes.append((i >= center - half) & (i < center + half))
    return axes[0][:, None] & axes[1][None]
