"""The denoising loop of DiffKD."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..backend.compiler import scan_unroll
from .diffusion import DDIMPlan, ddim_step
from .modules import NoisePredictor


def denoise(
    predictor: NoisePredictor,
    x: Float[Array, "b h w c"],
    plan: DDIMPlan,
    *,
    train: bool,
    unroll: int | None = None,
    keep_steps: bool = False,
    remat: bool = False,
    gradient: str = "full",
) -> tuple[Float[Array, "b h w c"], Float[Array, "steps b h w c"] | None]:
    """Denoises features by a DDIM plan, as one ``lax.scan`` (eq. 5).

    Call it inside a Flax module that owns ``predictor`` and has called it during
    initialisation, since a scan cannot create variables.

    Args:
      predictor: noise predictor, a bound module.
      x: ``[b, h, w, c]``, starting point.
      plan: DDIM plan of ``num_steps`` rows.
      train: if true, use batch statistics, and let each step update the running ones;
        if false, use running statistics.
      unroll: unroll factor of the scan. None unrolls all steps on CPU, and none on
        other platforms or with ``remat``.
      keep_steps: if true, also return the result of each step.
      remat: if true, recompute each step in the backward pass instead of storing it.
      gradient: how to differentiate: ``full``; ``inputs``, which treats the predictor's
        parameters as constants; or ``straight``, which treats the predicted noise as a
        constant.

    Returns:
      The denoised feature, and all steps ``[num_steps, b, h, w, c]`` or None.

    >>> from diffkd_jax.core.diffusion import ddim_plan
    >>> class Denoiser(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         predictor, plan = NoisePredictor(), ddim_plan(2)
    ...         predictor(x, plan.t[:1], train=True)
    ...         return denoise(predictor, x, plan, train=True)[0]
    >>> x = jnp.ones((1, 4, 4, 8))
    >>> jax.eval_shape(Denoiser().init_with_output, jax.random.key(0), x)[0].shape
    (1, 4, 4, 8)
    """

    def predict(predictor: NoisePredictor, x_t: Array, t: Array) -> Array:
        return predictor(x_t, t, train=train)

    if gradient == "inputs":
        predict = nn.map_variables(predict, "params", jax.lax.stop_gradient)

    def step(
        predictor: NoisePredictor, x_t: Array, row: DDIMPlan
    ) -> tuple[Array, Array | None]:
        t = jnp.broadcast_to(row.t, x_t.shape[:1])
        eps = predict(predictor, x_t, t)
        if gradient == "straight":
            eps = jax.lax.stop_gradient(eps)
        x_t = ddim_step(x_t, eps, row)
        return x_t, x_t if keep_steps else None

    num_steps = plan.t.shape[0]
    # Running statistics are state only while they are updated.
    scan = nn.scan(
        nn.remat(step, prevent_cse=False) if remat else step,
        variable_broadcast="params" if train else ["params", "batch_stats"],
        variable_carry="batch_stats" if train else False,
        split_rngs={"params": False},
        length=num_steps,
        # The compiler would find that an unrolled loop recomputes equal values, and
        # would store them again.
        unroll=unroll or (1 if remat else scan_unroll(num_steps)),
    )
    x_0, steps = scan(predictor, x, plan)
    return x_0, steps
