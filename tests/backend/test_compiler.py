"""Options of the compiler: which ones are chosen, and that results stay the same."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffkd_jax import DiffKD
from diffkd_jax.backend import compiler
from diffkd_jax.backend.convolution import convolve
from diffkd_jax.core.norm import BatchNorm

# Programs as users have them: oneDNN is an optimisation.
pytestmark = pytest.mark.optimised
NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolve_plainly(x, kernel, *, stride=1, padding="SAME", dilation=1, groups=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, rhs_dilation=(dilation, dilation),
        dimension_numbers=NUMBERS, feature_group_count=groups,
    )  # fmt: skip


CONVOLUTIONS = {
    "3x3": ((3, 3, 16, 16), {}),
    "1x1": ((1, 1, 16, 24), {}),
    "stride": ((3, 3, 16, 24), {"stride": 2}),
    "uneven padding": ((4, 3, 16, 8), {"padding": ((2, 1), (0, 2))}),
    "dilation": ((3, 3, 16, 16), {"dilation": 2}),
    "depthwise": ((3, 3, 1, 16), {"groups": 16}),
    "grouped": ((3, 3, 4, 16), {"groups": 4}),
}


def draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture
def onednn():
    if not compiler.has_onednn():
        pytest.skip("this jaxlib has no oneDNN")
    return compiler.ONEDNN_OPTIONS


def assert_agree(function, *arguments, options, calls):
    """Checks values and gradients of ``sum(function ** 2)`` with oneDNN and without."""

    def loss(*arguments):
        return jnp.square(function(*arguments)).sum()

    numbers = tuple(range(len(arguments)))
    both = lambda *a: (function(*a), jax.grad(loss, numbers)(*a))
    plain = jax.jit(both, compiler_options=compiler.CPU_OPTIONS)
    compiled = jax.jit(both, compiler_options=options).lower(*arguments).compile()
    assert compiled.as_text().count("__onednn$convolution") >= calls
    pairs = zip(
        jax.tree.leaves(compiled(*arguments)),
        jax.tree.leaves(plain(*arguments)),
        strict=True,
    )
    for ours, expected in pairs:
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_onednn_agree(name, onednn):
    shape, options = CONVOLUTIONS[name]
    function = functools.partial(convolve_plainly, **options)
    x, kernel = draw((4, 9, 11, 16)), draw(shape, 1)
    assert_agree(function, x, kernel, options=onednn, calls=1)


@pytest.mark.parametrize("remat", [False, True])
def test_networks_with_batch_norm_agree(remat, onednn):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = nn.Conv(16, (3, 3), use_bias=False)(x)
                x = nn.relu(BatchNorm(use_running_average=False)(x))
            return x

    net, x = (nn.remat(Net)() if remat else Net()), draw((4, 8, 8, 16))
    variables = net.init(jax.random.key(0), x)

    def function(params, x):
        return net.apply(variables | {"params": params}, x, mutable=["batch_stats"])[0]

    assert_agree(function, variables["params"], x, options=onednn, calls=6)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_unrolled_denoising_loop_agrees(devices, onednn, monkeypatch):
    """On one device, its convolutions take the forms that suit oneDNN."""
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    block, student, teacher = (
        DiffKD(num_steps=5),
        draw((4, 8, 8, 16)),
        draw((4, 8, 8, 32)),
    )
    key = jax.random.key(0)
    variables = block.init({"params": key, "diffusion": key}, student, teacher)

    def function(params, student):
        out, _ = block.apply(
            variables | {"params": params}, student, teacher,
            rngs={"diffusion": key}, mutable=True,
        )  # fmt: skip
        return out.student

    assert_agree(function, variables["params"], student, options=onednn, calls=10)


@pytest.mark.parametrize("stride", [1, 2])
def test_only_the_gradient_for_the_kernel_is_kept_from_onednn(
    stride, onednn, monkeypatch
):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    x, kernel = draw((4, 8, 8, 16)), draw((3, 3, 16, 16), 1)

    def loss(function, x, kernel):
        options = {"dimension_numbers": NUMBERS, "rhs_dilation": (1, 1)}
        return (function(x, kernel, (stride,) * 2, "SAME", **options) ** 2).sum()

    def count(function, argument):
        gradient = jax.grad(functools.partial(loss, function), argument)
        compiled = jax.jit(gradient, compiler_options=onednn).lower(x, kernel).compile()
        return compiled.as_text().count('custom_call_target="__onednn$convolution"')

    # A gradient for a map holds the result too, and is Eigen's if strided.
    by_map = 2 if stride == 1 else 1
    assert [count(convolve, i) for i in (0, 1)] == [by_map, 1]
    assert [count(lax.conv_general_dilated, i) for i in (0, 1)] == [by_map, 2]


def test_programs_for_several_devices_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(compiler, "has_onednn", lambda: True)
    assert jax.device_count() == 8
    assert compiler.compiler_options(many=True) == compiler.CPU_OPTIONS
    monkeypatch.setattr(compiler.jax, "device_count", lambda: 1)
    assert compiler.compiler_options(many=True) == compiler.ONEDNN_OPTIONS
    assert compiler.compiler_options() == compiler.CPU_OPTIONS
    assert compiler.compiler_options(once=True) == compiler.ONCE_OPTIONS


def test_a_compiler_without_onednn_keeps_its_options(monkeypatch):
    monkeypatch.setattr(compiler, "has_onednn", lambda: False)
    monkeypatch.setattr(compiler.jax, "device_count", lambda: 1)
    assert compiler.compiler_options(many=True) == compiler.CPU_OPTIONS
