"""Properties of the method that hold for all numbers."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkd_jax import DiffKD, DiffKDNoise, Projection, Tap, distillation
from diffkd_jax.core import diffusion, distances
from diffkd_jax.core.denoising import denoise
from diffkd_jax.core.modules import AutoEncoder, NoiseAdapter, NoisePredictor
from diffkd_jax.core.norm import BatchNorm
from tests.helpers.jaxprs import find_scans

STUDENT = jax.random.normal(jax.random.key(10), (6, 4, 4, 8))
TEACHER = jax.random.normal(jax.random.key(11), (6, 4, 4, 12))
KEY = jax.random.key(0)
RNGS = {"params": jax.random.key(0), "diffusion": jax.random.key(1)}


def fresh(module, student=STUDENT, teacher=TEACHER):
    return jax.jit(module.init)(RNGS, student, teacher)


def call(module, variables, student=STUDENT, teacher=TEACHER, key=1, **kwargs):
    return module.apply(
        variables,
        student,
        teacher,
        rngs={"diffusion": jax.random.key(key)},
        mutable=["batch_stats"],
        **kwargs,
    )


def moved(variables):
    """Variables whose parameters are no longer at their initial values."""
    leaves, structure = jax.tree.flatten(variables["params"])
    keys = jax.random.split(KEY, len(leaves))
    leaves = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return {**variables, "params": jax.tree.unflatten(structure, leaves)}


def reached(tree):
    """Names of the top-level parts that hold a gradient."""
    return {
        name
        for name, part in tree.items()
        if any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part))
    }


ROUTES = {
    "distance": {
        "student",
        "student_projection",
        "noise_adapter",
        "noise_predictor",
        "output_projection",
        "output_norm",
    },
    "diffusion": {"noise_predictor"},
    "autoencoder": {"autoencoder"},
}


@pytest.mark.parametrize("term", ROUTES)
@pytest.mark.parametrize("time_aware", [False, True])
def test_gradient_routing(term, time_aware):
    module = DiffKD(latent_channels=8, unroll=1, time_aware=time_aware)
    variables = fresh(module)

    def loss(params, student, teacher):
        whole = {"params": params, "batch_stats": variables["batch_stats"]}
        out, _ = call(module, whole, student, teacher)
        return {
            "distance": distances.mse(out.student, out.teacher),
            "diffusion": out.diffusion_loss,
            "autoencoder": out.autoencoder_loss,
        }[term]

    by_params, by_student, by_teacher = jax.jit(jax.grad(loss, (0, 1, 2)))(
        variables["params"], STUDENT, TEACHER
    )
    found = reached({**by_params, "student": by_student, "teacher": by_teacher})
    assert found == ROUTES[term]
    chex.assert_tree_all_finite((by_params, by_student))


def test_gradients_that_leave_the_predictor_alone():
    """Outputs are equal. Gradients reach the student, but not the predictor."""
    variables = fresh(DiffKD(unroll=1))

    @functools.partial(jax.jit, static_argnames="gradient")
    def run(gradient):
        def loss(params, student):
            whole = {"params": params, "batch_stats": variables["batch_stats"]}
            out, state = call(DiffKD(gradient=gradient, unroll=1), whole, student)
            return distances.mse(out.student, out.teacher), state

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(
            variables["params"], STUDENT
        )

    forward, (by_params, by_student) = run("full")
    for gradient in ("inputs", "straight"):
        again, (params, student) = run(gradient)
        chex.assert_trees_all_close(again, forward, rtol=1e-4, atol=1e-6)
        assert reached(params) == reached(by_params) - {"noise_predictor"}
        same = np.allclose(student, by_student, rtol=1e-4, atol=1e-8)
        assert same == (gradient == "inputs")


def test_a_given_noise_leaves_a_straight_gradient():
    class Loop(nn.Module):
        @nn.compact
        def __call__(self, x):
            predictor = NoisePredictor(name="predictor")
            if self.is_initializing():
                predictor(x, jnp.zeros(len(x), int), train=True)
            plan = diffusion.ddim_plan(3)
            return denoise(predictor, x, plan, train=True, gradient="straight")[0]

    variables = jax.jit(Loop().init)(KEY, STUDENT)

    def total(x):
        out, _ = Loop().apply(variables, x, mutable=["batch_stats"])
        return out.sum()

    # Each step divides by its signal, and the next one multiplies by the same signal.
    expected = np.full(STUDENT.shape, 1 / diffusion.ddim_plan(3).signal[0])
    np.testing.assert_allclose(jax.jit(jax.grad(total))(STUDENT), expected, rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 20), st.integers(0, 2**31 - 1))
def test_ddim_steps_with_the_true_noise_recover_the_origin(num_steps, seed):
    with jax.enable_x64(True):
        plan = diffusion.ddim_plan(num_steps)
        x_0, eps = jax.random.normal(jax.random.key(seed), (2, 3, 5), jnp.float64)
        x = plan.signal[0] * x_0 + plan.noise[0] * eps
        for i in range(num_steps):
            x = diffusion.ddim_step(x, eps, jax.tree.map(lambda c, i=i: c[i], plan))
        np.testing.assert_allclose(x, x_0, atol=1e-10)


def test_gamma_one_leaves_the_student_unchanged():
    eps = jax.random.normal(jax.random.key(0), STUDENT.shape)
    mixed = diffusion.match_noise(STUDENT, eps, jnp.ones(6))
    np.testing.assert_array_equal(mixed, STUDENT)
    mixed = diffusion.match_noise(STUDENT, eps, jnp.zeros(6))
    np.testing.assert_array_equal(mixed, eps)


@pytest.mark.parametrize("num_steps", [1, 3, 5])
def test_one_scan_of_length_num_steps(num_steps):
    module = DiffKD(num_steps=num_steps)
    variables = jax.eval_shape(module.init, RNGS, STUDENT, TEACHER)
    jaxpr = jax.make_jaxpr(functools.partial(call, module))(variables)
    assert find_scans(jaxpr.jaxpr) == [num_steps]


class Denoiser(NoisePredictor):
    """A predictor with the two ways to run it, for comparison."""

    def scan(self, x, plan, train, unroll):
        return denoise(self, x, plan, train=train, unroll=unroll)[0]

    def loop(self, x, plan, train):
        for i in range(len(plan.t)):
            row = jax.tree.map(lambda c, i=i: c[i], plan)
            t = jnp.full(x.shape[0], row.t)
            x = diffusion.ddim_step(x, self(x, t, train=train), row)
        return x


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("unroll", [1, 3])
def test_scan_equals_a_python_loop(train, unroll):
    with jax.enable_x64(True):
        x = STUDENT.astype(jnp.float64)
        module, plan = Denoiser(), diffusion.ddim_plan(3)
        variables = module.init(jax.random.key(0), x, jnp.zeros(6, int), train=True)
        run = functools.partial(module.apply, variables, x, plan, train)
        by_scan = run(unroll, method="scan", mutable=["batch_stats"])
        by_loop = run(method="loop", mutable=["batch_stats"])
        chex.assert_trees_all_close(by_scan, by_loop, rtol=1e-9, atol=1e-9)
        before = {"batch_stats": variables["batch_stats"]}
        if train:
            with pytest.raises(AssertionError):
                chex.assert_trees_all_close(by_scan[1], before)
        else:
            chex.assert_trees_all_equal(by_scan[1], before)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_denoising_is_blind_to_time_in_training_only(kernel_size):
    with jax.enable_x64(True):
        x = STUDENT.astype(jnp.float64)
        module = NoisePredictor(kernel_size)
        t = lambda value: jnp.full(6, value)
        variables = module.init(jax.random.key(0), x, t(0), train=True)
        run = lambda t, train: module.apply(
            variables, x, t, train=train, mutable=["batch_stats"]
        )[0]
        np.testing.assert_allclose(run(t(0), True), run(t(900), True), atol=1e-11)
        assert np.abs(run(t(0), False) - run(t(900), False)).max() > 1e-2
        mixed = jnp.arange(6) * 150
        assert np.abs(run(mixed, True) - run(mixed[::-1], True)).max() > 1e-2


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_time_aware_denoiser_sees_the_time_in_training_too(kernel_size):
    module = NoisePredictor(kernel_size, time_aware=True)
    variables = moved(module.init(KEY, STUDENT, jnp.zeros(6, int), train=True))
    assert list(variables) == ["params"]
    run = lambda t, train: module.apply(variables, STUDENT, t, train=train)
    early, late = jnp.full(6, 10), jnp.full(6, 900)
    assert np.abs(run(early, True) - run(late, True)).max() > 1e-2
    np.testing.assert_array_equal(run(early, True), run(early, False))
    # An example is denoised the same, whatever the time steps of the others are.
    mixed = run(jnp.where(jnp.arange(6) < 3, early, late), True)
    np.testing.assert_allclose(mixed[:3], run(early, True)[:3], atol=1e-5)
    np.testing.assert_allclose(mixed[3:], run(late, True)[3:], atol=1e-5)


@pytest.mark.parametrize("aware", [False, True])
def test_the_denoised_feature_depends_on_time_only_if_time_aware(aware, monkeypatch):
    module = DiffKD(time_aware=aware, unroll=1)
    variables = moved(fresh(module))
    outputs = []
    for later in (0, 500):
        plan = diffusion.ddim_plan(5)
        plan = plan._replace(t=plan.t + later)
        monkeypatch.setattr("diffkd_jax.core.diffkd.ddim_plan", lambda *_, p=plan: p)
        outputs.append(call(module, variables)[0].student)
    difference = np.abs(outputs[0] - outputs[1]).max()
    assert difference > 1e-2 if aware else difference < 1e-3


def test_diffusion_loss_depends_on_time():
    module = DiffKD(unroll=1)
    variables = fresh(module)
    eps = jax.random.normal(jax.random.key(2), (2, 6, 4, 4, 12))
    run = jax.jit(functools.partial(call, module))
    losses = [
        run(variables, noise=DiffKDNoise(eps[0], eps[1], t))[0].diffusion_loss
        for t in (jnp.arange(6) * 10, jnp.arange(6) * 150)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_same_key_same_outputs():
    module = DiffKD(unroll=1)
    variables = fresh(module)
    run = jax.jit(functools.partial(call, module))
    outputs = [run(variables, key=k)[0] for k in (3, 3, 4)]
    assert np.array_equal(outputs[0].student, outputs[1].student)
    assert not np.array_equal(outputs[0].student, outputs[2].student)


@pytest.mark.parametrize(
    ("shape", "options", "count"),
    [
        # Executed parameter counts of the official blocks, in millions.
        (((2, 7, 7, 512), (2, 7, 7, 512)), {"latent_channels": 1024}, 7.64),
        (((2, 7, 7, 1024), (2, 7, 7, 2048)), {"latent_channels": 1024}, 11.3),
        (((2, 1000), (2, 1000)), {}, 23.3),
        (((2, 8, 8, 256), (2, 8, 8, 256)), {}, 0.69),
        (((2, 8, 8, 64), (2, 8, 8, 128)), {}, 0.25),
        (((2, 100), (2, 100)), {}, 0.35),
    ],
)
def test_parameter_counts_of_the_official_blocks(shape, options, count):
    pair = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shape]
    variables = jax.eval_shape(DiffKD(**options).init, RNGS, *pair)
    found = sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6
    assert found == pytest.approx(count, abs=0.06 if count > 1 else 0.006)


@pytest.mark.parametrize(("kernel_size", "spread"), [(3, 0.1), (1, 0.5)])
def test_gamma_starts_near_one_half(kernel_size, spread):
    module = NoiseAdapter(kernel_size)
    x = jax.random.normal(jax.random.key(0), (64, 4, 4, 64))
    gammas = [
        module.init_with_output(jax.random.key(k), x, train=True)[0] for k in range(8)
    ]
    assert abs(np.mean(gammas) - 0.5) < spread / 2
    assert np.std(gammas) < spread


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ((4, 8), (4, 12), (4, 12)),
        ((4, 9, 8), (4, 9, 12), (4, 3, 3, 12)),
        ((4, 3, 3, 8), (4, 3, 3, 12), (4, 3, 3, 12)),
        ((4, 2, 2, 8), (4, 4, 4, 12), (4, 2, 2, 12)),
        ((4, 5, 5, 8), (4, 3, 3, 12), (4, 3, 3, 12)),
    ],
)
@pytest.mark.parametrize("block", [Projection(), DiffKD(num_steps=1)])
def test_ranks_and_sizes(student, teacher, expected, block):
    seen = []

    def distance(a, b, target):
        seen.append((a.shape, b.shape))
        return distances.mse(a, b)

    distill = distillation({"tap": Tap("a", "b", distance, block)})
    pair = (
        {"a": jax.ShapeDtypeStruct(student, jnp.float32)},
        {"b": jax.ShapeDtypeStruct(teacher, jnp.float32)},
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(distill.init, key, *pair)
    losses, _, _ = jax.eval_shape(distill.loss, params, state, key, *pair)
    denoises = isinstance(block, DiffKD)
    terms = {"tap/distance"} | ({"tap/diffusion"} if denoises else set())
    assert set(losses) == terms
    assert set(seen) == {(expected, expected)}


def test_spatial_rule_is_announced_once(caplog):
    distill = distillation({"feature": Tap("a", "b")})
    pair = {"a": jnp.ones((2, 2, 2, 4))}, {"b": jnp.ones((2, 4, 4, 4))}
    with caplog.at_level("INFO"):
        params, state = distill.init(jax.random.key(0), *pair)
        for _ in range(2):
            distill.loss(params, state, jax.random.key(0), *pair)
    text = "tap 'feature': teacher 4x4 -> 2x2 by average pooling"
    assert [r.message for r in caplog.records] == [text]


BAD_TAPS = [
    (Tap("a", "nothing"), "tap 'x': teacher output: found no 'nothing'.*'b', 'deep/c'"),
    (Tap("a", "deep"), "tap 'x': teacher output: found a group at 'deep'"),
    (Tap("a", "flat"), r"tap 'x': found shapes \(4, 2, 2, 8\).*\(4, 8\).*same rank"),
    (Tap("a", "tall"), "tap 'x': found maps of 2x2 .* and 1x4"),
    (Tap("a", "b", block=DiffKD(num_steps=-1)), "tap 'x': num_steps: found -1"),
    (Tap("a", "b", block=DiffKD(gradient="no")), "tap 'x': gradient: found 'no'"),
    (Tap("a", "b", block=DiffKD(kernel_size=5)), "tap 'x': kernel_size: found 5"),
    (Tap("tokens", "tokens", block=DiffKD()), "tap 'x': found 5 tokens"),
    (Tap("a", "small"), "tap 'x': found batches of 4"),
    (Tap("flat", "flat", distances.dkd), "tap 'x': dkd: found no 'label'"),
]


@pytest.mark.parametrize(("tap", "message"), BAD_TAPS)
def test_bad_taps_are_named(tap, message):
    out = {
        "a": jnp.ones((4, 2, 2, 8)),
        "b": jnp.ones((4, 2, 2, 8)),
        "deep": {"c": jnp.ones((4, 2))},
        "flat": jnp.ones((4, 8)),
        "tall": jnp.ones((4, 1, 4, 8)),
        "tokens": jnp.ones((4, 5, 8)),
        "small": jnp.ones((2, 2, 2, 8)),
    }
    distill = distillation({"x": tap})

    def both():
        return distill.loss(*distill.init(KEY, out, out), KEY, out, out)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(both)


def test_gamma_is_shown_and_not_carried():
    distill = distillation({"x": Tap("a", "a", block=DiffKD(num_steps=1))})
    out = {"a": STUDENT}

    def both():
        return distill.loss(*distill.init(KEY, out, out), KEY, out, out)

    _, state, info = jax.jit(both)()
    found = info["x"]
    assert found["gamma/histogram"].sum() == 6
    assert 0 < found["gamma/min"] <= found["gamma/mean"] <= found["gamma/max"] < 1
    assert set(state["x"]) == {"batch_stats"}


def test_half_precision_computes_losses_in_float32():
    module = DiffKD(latent_channels=8, num_steps=2, dtype=jnp.bfloat16, unroll=1)
    variables = fresh(module)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out, _ = jax.jit(functools.partial(call, module))(variables)
    assert out.student.dtype == out.teacher.dtype == jnp.bfloat16
    assert out.diffusion_loss.dtype == out.autoencoder_loss.dtype == jnp.float32
    exact = DiffKD(latent_channels=8, num_steps=2, unroll=1)
    exact, _ = jax.jit(functools.partial(call, exact))(variables)
    assert abs(out.autoencoder_loss - exact.autoencoder_loss) < 0.05


def test_batch_norm_groups_equal_separate_batches():
    x = jax.random.normal(jax.random.key(0), (8, 3, 3, 4)) * 2 + 1
    norm = BatchNorm(False, group_size=4)
    variables = norm.init(jax.random.key(0), x)
    grouped, updated = norm.apply(variables, x, mutable=["batch_stats"])
    parts = [
        BatchNorm(False).apply(variables, part, mutable=["batch_stats"])
        for part in (x[:4], x[4:])
    ]
    np.testing.assert_allclose(
        grouped, np.concatenate([p[0] for p in parts]), atol=1e-6
    )
    mean = (parts[0][1]["batch_stats"]["mean"] + parts[1][1]["batch_stats"]["mean"]) / 2
    np.testing.assert_allclose(updated["batch_stats"]["mean"], mean, atol=1e-6)


def test_batch_norm_refuses_what_has_no_statistics():
    with pytest.raises(ValueError, match="one value per channel"):
        BatchNorm(False).init(jax.random.key(0), jnp.ones((1, 1, 1, 4)))
    with pytest.raises(ValueError, match="group_size: found 3"):
        BatchNorm(False, group_size=3).init(jax.random.key(0), jnp.ones((4, 2)))


def test_autoencoder_can_represent_what_fits_the_latent():
    """A linear map of rank 2 survives a latent of two channels."""
    x = TEACHER[..., :2] @ jax.random.normal(jax.random.key(0), (2, 12))
    module = AutoEncoder(2)
    variables = module.init(jax.random.key(1), x, train=True)

    @jax.jit
    def step(variables):
        def loss(params):
            whole = {"params": params, "batch_stats": variables["batch_stats"]}
            (_, y), _ = module.apply(whole, x, train=True, mutable=["batch_stats"])
            return distances.mse(y, x)

        value, grad = jax.value_and_grad(loss)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.05 * g, variables["params"], grad)
        return variables | {"params": params}, value

    for _ in range(400):
        variables, value = step(variables)
    assert value < 0.01 * jnp.var(x)
