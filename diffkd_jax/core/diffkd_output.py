"""The random values and the result of DiffKD for one pair of features."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .shapes import Feature

GAMMA_BINS = 20


class DiffKDNoise(NamedTuple):
    """The random values of one call of :class:`DiffKD`.

    Pass them to :class:`DiffKD` to reproduce the result of another implementation.

    Attributes:
      student: ``[b, h, w, latent]``, noise mixed into the student.
      teacher: ``[b, h, w, latent]``, noise of the diffusion loss.
      t: int ``[b]``, time steps of the diffusion loss.

    >>> from diffkd_jax import DiffKD
    >>> eps = jnp.zeros((2, 1, 1, 8))  # the latent of vectors is a 1x1 map
    >>> noise = DiffKDNoise(eps, eps, jnp.array([0, 999]))
    >>> rngs = {"params": jax.random.key(0)}
    >>> out, _ = jax.jit(DiffKD().init_with_output)(
    ...     rngs, jnp.ones((2, 8)), jnp.ones((2, 8)), noise=noise)
    >>> out.student.shape
    (2, 8)
    """

    student: Float[Array, "b h w latent"]
    teacher: Float[Array, "b h w latent"]
    t: Int[Array, " b"]


class DiffKDOutput(NamedTuple):
    """The result of one call of :class:`diffkd_jax.DiffKD`.

    Attributes:
      student: denoised student feature, to be compared with ``teacher``.
      teacher: target of the comparison: the teacher's latent (or feature), without
        gradient.
      gamma: ``[b]``, share of the student feature that is kept, in (0, 1).
      diffusion_loss: scalar, mean squared error of the predicted noise (eq. 4); None
        without it.
      autoencoder_loss: scalar, mean squared error of the reconstruction (eq. 6); None
        without an autoencoder.

    >>> x, zero = jnp.ones((2, 8)), jnp.zeros(())
    >>> out = DiffKDOutput(x, x, jnp.array([0.25, 0.75]), zero, None)
    >>> sorted(out.losses), float(out.info["gamma/mean"])
    (['diffusion'], 0.5)
    """

    student: Feature
    teacher: Feature
    gamma: Float[Array, " b"]
    diffusion_loss: Float[Array, ""] | None
    autoencoder_loss: Float[Array, ""] | None

    @property
    def losses(self) -> dict[str, jax.Array]:
        """Returns ``diffusion`` and ``autoencoder``, those of the two that exist."""
        losses = {
            "diffusion": self.diffusion_loss,
            "autoencoder": self.autoencoder_loss,
        }
        return {name: loss for name, loss in losses.items() if loss is not None}

    @property
    def info(self) -> dict[str, jax.Array]:
        """Returns statistics of gamma over the batch, float32.

        These are the scalars ``gamma/mean``, ``gamma/min`` and ``gamma/max``, and
        ``gamma/histogram`` ``[20]``, the counts in 20 equal bins of [0, 1].
        """
        gamma = self.gamma
        values = {"mean": gamma.mean(), "min": gamma.min(), "max": gamma.max()}
        values["histogram"] = _counts(gamma)
        return {f"gamma/{k}": v.astype(jnp.float32) for k, v in values.items()}


def _counts(gamma: jax.Array) -> jax.Array:
    """Counts the values in each bin, as ``jnp.histogram`` does.

    ``jnp.histogram`` itself is refused on meshes with explicit axes.
    """
    edges = jnp.linspace(0.0, 1.0, GAMMA_BINS + 1, dtype=gamma.dtype)
    below = (gamma[:, None] < edges[1:]).at[:, -1].set(gamma <= 1.0)
    return jnp.sum(below & (gamma[:, None] >= edges[:-1]), 0)
