"""Evaluation by windows that slide over an image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..task import Batch, Outputs


def slide(
    apply: Callable[[Batch], Outputs],
    batch: Batch,
    *,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    resize: Callable[[jax.Array, tuple[int, ...]], jax.Array],
) -> dict[str, Float[Array, "b h w classes"]]:
    """Averages the logits of windows that slide over the images.

    The last window of each row or column ends at the border of the image. On an axis on
    which the image is smaller than the window, there is one window, as large as the
    image.

    Args:
      apply: function ``batch -> outputs`` with ``logits`` ``[b, h', w', classes]``.
      batch: ``image`` ``[b, h, w, c]``, and whatever else the model reads.
      window: height and width of a window, in pixels.
      stride: vertical and horizontal distance between neighbouring windows, in pixels.
      resize: function ``(logits, size) -> logits`` that resizes to a window.

    Returns:
      ``logits`` float32 ``[b, h, w, classes]``.

    >>> apply = lambda batch: {"logits": batch["image"]}
    >>> batch = {"image": jnp.arange(6.0).reshape(1, 1, 6, 1)}
    >>> resize = lambda logits, size: logits
    >>> out = slide(apply, batch, window=(1, 4), stride=(1, 3), resize=resize)
    >>> out["logits"].ravel().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    image = batch["image"]
    b, h, w, channels = image.shape
    size = (min(window[0], h), min(window[1], w))
    starts = [
        sorted({*range(0, length - side, step), length - side})
        for length, side, step in zip((h, w), size, stride, strict=True)
    ]
    corners = jnp.array([(y, x) for y in starts[0] for x in starts[1]])

    def window_logits(corner: jax.Array) -> jax.Array:
        y, x = corner
        cut = jax.lax.dynamic_slice(image, (0, y, x, 0), (b, *size, channels))
        logits = apply({**batch, "image": cut})["logits"].astype(jnp.float32)
        return logits if logits.shape[1:3] == size else resize(logits, size)

    def add(
        carried: tuple[jax.Array, jax.Array], corner: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        total, times = carried
        start = (0, corner[0], corner[1], 0)
        sums = jax.lax.dynamic_slice(total, start, (b, *size, total.shape[-1]))
        sums = sums + window_logits(corner)
        total = jax.lax.dynamic_update_slice(total, sums, start)
        counts = jax.lax.dynamic_slice(times, start[1:], (*size, 1))
        times = jax.lax.dynamic_update_slice(times, counts + 1, start[1:])
        return (total, times), None

    classes = jax.eval_shape(window_logits, corners[0]).shape[-1]
    zeros = jnp.zeros((b, h, w, classes)), jnp.zeros((h, w, 1))
    (total, times), _ = jax.lax.scan(add, zeros, corners)
    return {"logits": total / times}
