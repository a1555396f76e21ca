"""What a step does to its batch: erase, mix; pure functions.

Mixup and CutMix are those of timm in batch mode: one draw for the whole batch, partners
in reverse order.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

MOST_TRIES = 10


def mix(
    key: jax.Array,
    batch: Mapping[str, Any],
    *,
    num_classes: int,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    switch: float = 0.5,
) -> dict[str, Any]:
    """Mixes each picture with its partner by mixup (Zhang 2018) or CutMix (Yun 2019).

    Args:
      key: random key.
      batch: ``image`` ``[b, h, w, c]``, ``target`` with ``label`` int ``[b]``.
      num_classes: width of the shares.
      mixup: alpha of the Beta distribution of the share, 0 for never.
      cutmix: likewise, for CutMix.
      switch: probability of CutMix where both are on.

    Returns:
      The batch with mixed ``image`` and, in ``target``, ``mixed``: the shares of the
      classes, float32 ``[b, classes]``.

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
    own = jnp.where(use_cutmix, ~inside[..., None], share).astype(image.dtype)
    mixed = own * image + (1 - own) * image[::-1]
    shares = share * shares + (1.0 - share) * shares[::-1]
    return {**batch, "image": mixed, "target": {**batch["target"], "mixed": shares}}


def random_erase(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Replaces a random rectangle of a picture by normal noise (Zhong et al. 2020).

    "Pixel" mode: each value is drawn. The area is 2 to 33 % of the picture, the aspect
    0.3 to 3.3; a picture for which ten draws do not fit is left alone.

    Args:
      key: random key.
      image: normalised ``[b, h, w, c]``.
      probability: share of the pictures that are erased.
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
    # Drawn in half precision, noise would take a hundred values or so.
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    noise = jax.random.normal(key_noise, image.shape, dtype).astype(image.dtype)
    return jnp.where(erased[..., None], noise, image)


def make_prepare(num_classes: int, *, erase: float = 0.0, **options: float) -> Callable:
    """``(key, batch) -> batch``: pictures erased, then mixed.

    Args:
      num_classes: width of the shares.
      erase: see :func:`random_erase`.
      **options: see :func:`mix`.
    """

    def apply(key, batch):
        key_erase, key_mix = jax.random.split(key)
        if erase:
            image = random_erase(key_erase, batch["image"], erase)
            batch = {**batch, "image": image}
        if not (options["mixup"] or options["cutmix"]):
            return batch
        return mix(key_mix, batch, num_classes=num_classes, **options)

    return apply


def _box(key: jax.Array, size: tuple[int, int], side: jax.Array) -> jax.Array:
    """True inside a box of ``side`` times the picture's sides, cut at its border."""
    axes = []
    for length, k in zip(size, jax.random.split(key), strict=True):
        half = (length * side).astype(int) // 2
        center = jax.random.randint(k, (), 0, length)
        i = jnp.arange(length)
        axes.append((i >= center - half) & (i < center + half))
    return axes[0][:, None] & axes[1][None]
