"""The method as XLA compiles it, and on meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diffkd_jax import DiffKD, DiffKDNoise, Tap, distillation
from diffkd_jax.core.diffkd_output import GAMMA_BINS, _counts

KEY = jax.random.key(0)


def losses(num_steps, batch):
    """Sum of a denoising tap's losses, as a function of its params and the outputs."""
    tap = Tap("logits", "logits", block=DiffKD(num_steps=num_steps))
    distill = distillation({"logits": tap})
    outputs = {"logits": jax.random.normal(KEY, (batch, 3))}
    params, state = jax.eval_shape(lambda: distill.init(KEY, outputs, outputs))

    def total(params, state, outputs):
        terms, _, info = distill.loss(params, state, KEY, outputs, outputs)
        return sum(terms.values()), info

    return total, params, state, outputs


@pytest.mark.optimised
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a loop elsewhere")
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_no_loop_is_left_on_cpu(num_steps):
    """The gradient of a convolution inside one is tens of times slower."""
    module, x = DiffKD(num_steps=num_steps), jnp.ones((4, 3))
    eps = jnp.ones((4, 1, 1, 3))
    noise = DiffKDNoise(eps, eps, jnp.arange(4))  # draws are loops on CPU
    rngs = {"params": KEY, "diffusion": KEY}
    variables = jax.eval_shape(module.init, rngs, x, x)

    def loss(params, stats):
        whole = {"params": params, "batch_stats": stats}
        out, _ = module.apply(whole, x, x, noise=noise, mutable=["batch_stats"])
        return out.student.sum()

    step = jax.jit(jax.grad(loss)).lower(variables["params"], variables["batch_stats"])
    assert " while(" not in step.compile().as_text()


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto])
def test_a_batch_on_a_mesh_of_either_kind(axis_type, devices):
    """``jax.make_mesh`` makes explicit axes by default."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(axis_type,))
    total, params, state, outputs = losses(1, 8)
    split = NamedSharding(mesh, PartitionSpec("data"))
    outputs = jax.device_put(outputs, split)
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(total, has_aux=True))
        gradient, info = jax.eval_shape(step, params, state, outputs)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert info["logits"]["gamma/histogram"].shape == (GAMMA_BINS,)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gamma_is_counted_as_by_numpy_and_jax(dtype):
    edges = np.linspace(0, 1, GAMMA_BINS + 1)
    drawn = np.random.default_rng(0).random(2000)
    odd = [-0.1, 1.1, np.nextafter(1, 0), np.nan, np.inf, -np.inf, 1.0, 1.0]
    gamma = jnp.asarray(np.concatenate([edges, drawn, odd]), dtype)
    expected, _ = jnp.histogram(gamma, GAMMA_BINS, (0.0, 1.0))
    np.testing.assert_array_equal(_counts(gamma), expected)
    assert _counts(jnp.ones(5))[-1] == 5


@pytest.mark.parametrize("time_aware", [False, True])
def test_recomputed_steps_give_the_same_gradient(time_aware):
    rngs = {"params": KEY, "diffusion": KEY}
    student, teacher = (
        jax.random.normal(jax.random.key(i), (2, 4, 4, 8)) for i in (1, 2)
    )

    def run(remat):
        module = DiffKD(num_steps=2, remat=remat, time_aware=time_aware)
        variables = jax.jit(module.init)(rngs, student, teacher)
        stats = variables["batch_stats"]

        def loss(params, student):
            out, state = module.apply(
                {"params": params, "batch_stats": stats},
                student,
                teacher,
                rngs=rngs,
                mutable=["batch_stats"],
            )
            return jnp.square(out.student - out.teacher).mean(), state

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(
            variables["params"], student
        )

    with jax.enable_x64(True):
        kept, recomputed = run(False), run(True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        kept,
        recomputed,
    )
