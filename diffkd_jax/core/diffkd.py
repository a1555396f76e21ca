"""DiffKD: denoises the student's feature with a diffusion model.

The diffusion model is trained on the teacher's feature.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from .conv_layers import apply_conv
from .denoising import denoise
from .diffkd_output import DiffKDNoise, DiffKDOutput
from .diffusion import add_noise, alpha_bar, ddim_plan, match_noise
from .modules import KERNEL_SIZES, AutoEncoder, NoiseAdapter, NoisePredictor
from .norm import BatchNorm
from .regressor import Regressor
from .shapes import Feature, as_map, check_ranks, match_spatial

GRADIENTS = ("full", "inputs", "straight")
DENOISERS = ("diffusion", "distance", "frozen", "regressor")


class DiffKD(nn.Module):
    """A Flax module that applies DiffKD to one pair of features.

    It holds the autoencoder, the noise adapter, the noise predictor and the output
    projection. It runs the denoising loop and computes the losses of the diffusion
    model and the autoencoder. Features are vectors, tokens, or maps with channels last
    (NHWC).

    Random draws come from the stream ``diffusion`` unless ``noise`` is given. If the
    collection ``intermediates`` is mutable, the module sows ``trajectory`` into it:
    ``[num_steps + 1, b, h, w, c]``, the starting point and the result of each step,
    before the output projection.

    Gradients: the distance between ``student`` and ``teacher`` reaches the student, its
    projection, the noise adapter, the noise predictor and the output projection. The
    diffusion loss reaches only the noise predictor, the autoencoder loss only the
    autoencoder. Nothing reaches the teacher.

    Attributes:
      latent_channels: width of the autoencoder, or None for no autoencoder.
      kernel_size: 3 for maps, 1 for vectors, None to choose by rank (1 for rank 2, 3
        otherwise).
      num_steps: number of denoising steps; 5 in the paper. With 0 there is no noise
        predictor and no diffusion loss: projections and noise matching are left.
      num_train_steps: number of diffusion time steps; 1000 in the paper.
      token_shape: (h, w) of rank-3 features, or None for a square.
      unroll: unroll factor of the denoising scan, see :func:`denoise`.
      norm: batch-norm module class, called as ``norm(use_running_average=...)``.
      dtype: compute dtype, or None for the dtype of the inputs. Parameters, statistics
        and losses are float32 or wider.
      remat: if true, recompute each denoising step in the backward pass. This needs
        less memory and more time; much more time on CPU, where the loop is otherwise
        unrolled.
      gradient: how the distance is differentiated through denoising. ``full`` is the
        method of the paper. ``inputs`` trains the noise predictor by the diffusion loss
        alone. ``straight`` treats each predicted noise as a constant, which removes
        nearly all of the backward pass. The last two are cheaper, but they are
        not the method of the paper.
      denoiser: the network that denoises, and what trains it. ``diffusion`` is the
        method of the paper: a noise predictor that the diffusion loss and the distance
        train. The others are controls without a diffusion loss. ``distance`` trains the
        noise predictor by the distance alone. ``frozen`` leaves it at its random
        initial values. ``regressor`` applies a :class:`Regressor` once in its place.
      gamma: share of the student that noise matching keeps, from 0 to 1, the same for
        all examples. None for the noise adapter of the paper.
      min_noise: smallest share of noise that noise matching mixes into the student,
        from 0 to 1. Above 0, gamma of the noise adapter is multiplied by ``1 -
        min_noise``. The paper has no such bound: its gamma can come close to 1, where
        the student is denoised without noise.
      time_aware: if true, denoising depends on the time step, see
        :class:`~diffkd_jax.core.modules.NoisePredictor`. In the paper's network it does
        not.
      predictor_width: factor of the inner widths of the noise predictor; 1 in the
        paper.

    >>> student, teacher = jnp.ones((4, 4, 4, 8)), jnp.ones((4, 4, 4, 16))
    >>> rngs = {"params": jax.random.key(0), "diffusion": jax.random.key(1)}
    >>> out, variables = jax.jit(DiffKD(latent_channels=8).init_with_output)(
    ...     rngs, student, teacher)
    >>> out.student.shape, out.gamma.shape, sorted(variables)
    ((4, 4, 4, 8), (4,), ['batch_stats', 'params'])
    """

    latent_channels: int | None = None
    kernel_size: int | None = None
    num_steps: int = 5
    num_train_steps: int = 1000
    token_shape: tuple[int, int] | None = None
    unroll: int | None = None
    norm: Callable[..., Any] = BatchNorm
    dtype: DTypeLike | None = None
    remat: bool = False
    gradient: str = "full"
    denoiser: str = "diffusion"
    gamma: float | None = None
    min_noise: float = 0.0
    time_aware: bool = False
    predictor_width: float = 1.0

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Returns the names of the block's own losses, beside the distance."""
        diffusion = self.num_steps > 0 and self.denoiser == "diffusion"
        names = {"diffusion": diffusion, "autoencoder": bool(self.latent_channels)}
        return tuple(name for name, exists in names.items() if exists)

    @property
    def frozen_modules(self) -> tuple[str, ...]:
        """Returns the names of the modules inside that keep their initial values."""
        return ("noise_predictor",) if self.denoiser == "frozen" else ()

    @nn.compact
    def __call__(
        self,
        student: Feature,
        teacher: Feature,
        *,
        train: bool = True,
        noise: DiffKDNoise | None = None,
    ) -> DiffKDOutput:
        """Denoises the student's feature and computes the losses.

        Args:
          student: ``[b, c]``, ``[b, n, c]`` or ``[b, h, w, c]``.
          teacher: the same rank; channels and map size may differ.
          train: if true, use and update batch statistics.
          noise: the random draws, or None to draw them here.

        Returns:
          Outputs of rank 2 for features of rank 2, otherwise of rank 4.

        Raises:
          ValueError: ranks or batch sizes differ, or a field is out of range.
        """
        self._check(student, teacher)
        kernel_size = self.kernel_size or (1 if student.ndim == 2 else 3)
        restore = (lambda x: x[:, 0, 0]) if student.ndim == 2 else (lambda x: x)
        x, target = match_spatial(
            as_map(student, self.token_shape),
            jax.lax.stop_gradient(as_map(teacher, self.token_shape)),
        )
        shared: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype}
        latent = self.latent_channels or target.shape[-1]
        x = apply_conv(x, latent, dtype=self.dtype, name="student_projection")
        target, autoencoder_loss = self._encode(target, shared, train)
        if noise is None:
            noise = self._draw(x)

        if self.gamma is None:
            adapter = NoiseAdapter(kernel_size, **shared, name="noise_adapter")
            gamma = adapter(x, train=train)
            if self.min_noise:
                gamma = (1.0 - self.min_noise) * gamma
        else:
            dtype = jnp.promote_types(x.dtype, jnp.float32)
            gamma = jnp.full(x.shape[:1], self.gamma, dtype)
        x = match_noise(x, noise.student.astype(x.dtype), gamma)
        predictor = None
        if self.denoiser == "regressor":
            network = Regressor(
                kernel_size, **shared, width=self.predictor_width, name="regressor"
            )
            x = network(x, train=train)
        elif self.num_steps:
            predictor, x = self._denoise(kernel_size, shared, x, noise.t, train)
        refined = apply_conv(x, latent, dtype=self.dtype, name="output_projection")
        refined = self.norm(use_running_average=not train, name="output_norm")(refined)

        # The official code too computes this after the loop. The order decides the
        # running statistics.
        noises = self._predict_noise(predictor, target, noise, train)
        return DiffKDOutput(
            student=restore(refined),
            teacher=restore(target),
            gamma=gamma,
            diffusion_loss=_mean_squared_error(*noises) if noises else None,
            autoencoder_loss=autoencoder_loss,
        )

    def _predict_noise(
        self,
        predictor: NoisePredictor | None,
        target: Array,
        noise: DiffKDNoise,
        train: bool,
    ) -> tuple[Array, Array] | None:
        """Returns predicted and true noise; None without a diffusion loss."""
        if predictor is None or self.denoiser != "diffusion":
            return None
        eps = noise.teacher.astype(target.dtype)
        alpha_bar_t = jnp.asarray(alpha_bar(self.num_train_steps))[noise.t]
        noisy = add_noise(target, eps, alpha_bar_t)
        return predictor(noisy, noise.t, train=train), eps

    def _denoise(
        self, kernel_size: int, shared: dict[str, Any], x: Array, t: Array, train: bool
    ) -> tuple[NoisePredictor, Array]:
        """Returns the noise predictor and the denoised feature; sows the trajectory."""
        predictor = NoisePredictor(
            kernel_size,
            self.num_train_steps,
            **shared,
            width=self.predictor_width,
            time_aware=self.time_aware,
            name="noise_predictor",
        )
        if self.is_initializing():
            predictor(x, t, train=train)
        keep_steps = self.is_mutable_collection("intermediates")
        x_0, steps = denoise(
            predictor,
            x,
            ddim_plan(self.num_steps, self.num_train_steps),
            train=train,
            unroll=self.unroll,
            keep_steps=keep_steps,
            remat=self.remat,
            gradient=self.gradient,
        )
        if steps is not None:
            self.sow("intermediates", "trajectory", jnp.concatenate([x[None], steps]))
        return predictor, x_0

    def _check(self, student: jax.Array, teacher: jax.Array) -> None:
        """Refuses fields that are out of range."""
        check_ranks(student, teacher)
        if self.gradient not in GRADIENTS:
            raise ValueError(
                f"gradient: found {self.gradient!r}, expected one of {GRADIENTS}"
            )
        if self.denoiser not in DENOISERS:
            raise ValueError(
                f"denoiser: found {self.denoiser!r}, expected one of {DENOISERS}"
            )
        if not self.num_steps and self.denoiser != "diffusion":
            raise ValueError(
                f"denoiser: found {self.denoiser!r} with num_steps=0, expected "
                "'diffusion', or steps above 0: without steps nothing denoises"
            )
        if self.gamma is not None and not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma: found {self.gamma}, expected 0 to 1, or None")
        if not 0 <= self.min_noise <= 1:
            raise ValueError(f"min_noise: found {self.min_noise}, expected 0 to 1")
        if self.min_noise and self.gamma is not None:
            raise ValueError(
                f"min_noise: found {self.min_noise} with gamma={self.gamma}, expected "
                "0: a fixed gamma already says how much noise there is"
            )
        if not self.predictor_width > 0:
            raise ValueError(
                f"predictor_width: found {self.predictor_width}, expected above 0"
            )
        if self.kernel_size not in (None, *KERNEL_SIZES):
            raise ValueError(
                f"kernel_size: found {self.kernel_size}, expected one of {KERNEL_SIZES}"
            )
        if self.latent_channels is not None and self.latent_channels < 1:
            raise ValueError(
                f"latent_channels: found {self.latent_channels}, expected >= 1 or None"
            )

    def _encode(
        self, teacher: Array, shared: dict[str, Any], train: bool
    ) -> tuple[Array, Array | None]:
        """Returns the latent target, without gradient, and the autoencoder's loss."""
        if not self.latent_channels:
            return teacher.astype(self.dtype or teacher.dtype), None
        autoencoder = AutoEncoder(self.latent_channels, **shared, name="autoencoder")
        latent, reconstruction = autoencoder(teacher, train=train)
        loss = _mean_squared_error(reconstruction, teacher)
        return jax.lax.stop_gradient(latent), loss

    def _draw(self, x: jax.Array) -> DiffKDNoise:
        """Draws the noise of one call."""
        keys = jax.random.split(self.make_rng("diffusion"), 3)
        # Half precision would draw noise from only about a hundred values.
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return DiffKDNoise(
            student=jax.random.normal(keys[0], x.shape, dtype).astype(x.dtype),
            teacher=jax.random.normal(keys[1], x.shape, dtype),
            t=jax.random.randint(keys[2], x.shape[:1], 0, self.num_train_steps),
        )


def _mean_squared_error(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the mean squared error, in float32 or wider."""
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.mean(jnp.square(a.astype(dtype) - b.astype(dtype)))
