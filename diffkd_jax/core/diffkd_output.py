"""The result of DiffKD for one pair of features, with statistics of gamma."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .shapes import Feature

GAMMA_BINS = 20


class DiffKDOutput(NamedTuple):
    """The result of one call of :class:`diffkd_jax.DiffKD`.

    Attributes:
      student: denoised student feature, to be compared with ``teacher``.
      teacher: target of the comparison: the teacher's latent (or feature), without
        gradient.
      gamma: ``[b]``, share of the student feature that is kept, in (0, 1).
      diffusion_loss: scalar, mean squared error of the predicted noise (eq. 4).
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
    diffusion_loss: Float[Array, ""]
    autoencoder_loss: Float[Array, ""] | None

    @property
    def losses(self) -> dict[str, jax.Array]:
        """Returns ``diffusion`` and, with an autoencoder, ``autoencoder``."""
        losses = {"diffusion": self.diffusion_loss}
        if self.autoencoder_loss is not None:
            losses["autoencoder"] = self.autoencoder_loss
        return losses

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
