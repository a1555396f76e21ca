"""Agreement with the official modules, from stored inputs, noise and weights."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from diffkd_jax import DiffKD, DiffKDNoise
from diffkd_jax.core import diffkd, diffusion, distances
from diffkd_jax.weights.torch import convert
from tests.helpers import diffkd_names
from tests.helpers.goldens import GOLDEN

BLOCKS = ["feature_autoencoder", "feature_plain", "feature_expand_3steps", "logits"]
OUT_TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
GRAD_TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


@pytest.fixture(scope="module")
def schedule():
    with np.load(GOLDEN / "schedule_and_distances.npz") as z:
        return dict(z)


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def reference_plan(schedule):
    """The reference computes DDIM coefficients in float32, square roots included.

    Its float32 square root of 1 - alpha_bar[400] is one unit above the correctly
    rounded one; both facts are visible in the stored run of ``ddim/x_0``.
    """
    powers = schedule["alpha_bar"].astype(np.float32)

    def plan(num_steps, num_train_steps=1000):
        stride = num_train_steps // (2 * num_steps)
        t = stride * np.arange(num_steps - 1, -1, -1)
        now = powers[t]
        then = np.where(t >= stride, powers[t - stride], np.float32(1))
        one = np.float32(1)
        signal, noise, next_signal, next_noise = np.sqrt(
            [now, one - now, then, one - then]
        )
        noise = np.where(t == 400, np.nextafter(noise, np.float32(2)), noise)
        columns = (signal, noise, next_signal, next_noise)
        return diffusion.DDIMPlan(jnp.asarray(t), *(jnp.asarray(c) for c in columns))

    return plan


def relative_error(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected)
    return np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12)


def to_nhwc(array):
    return array.transpose(0, 2, 3, 1)


def load_block(name, dtype):
    with np.load(GOLDEN / f"{name}.npz") as z:
        golden = dict(z)
    meta = json.loads(str(golden["meta"]))
    vectors = meta["kernel_size"] == 1
    cast = lambda x: jnp.asarray(to_nhwc(x), dtype)
    student, teacher = cast(golden["in/student"]), cast(golden["in/teacher"])
    if vectors:
        student, teacher = student[:, 0, 0], teacher[:, 0, 0]
    noise = DiffKDNoise(
        cast(golden["in/eps_student"]),
        cast(golden["in/eps_teacher"]),
        jnp.asarray(golden["in/timesteps"]),
    )
    module = DiffKD(
        latent_channels=meta["latent_channels"], num_steps=meta["num_steps"], unroll=1
    )
    template = jax.eval_shape(
        module.init,
        {"params": jax.random.key(0), "diffusion": jax.random.key(0)},
        student,
        teacher,
    )
    rename = diffkd_names.DIFFKD_LOGITS if vectors else diffkd_names.DIFFKD_FEATURES
    state_dict = {k[6:]: v for k, v in golden.items() if k.startswith("param/")}
    state_dict |= fresh_statistics(golden)
    variables = convert.import_state_dict(state_dict, template, rename)
    return (
        golden,
        module,
        rename,
        jax.tree.map(jnp.asarray, variables),
        student,
        teacher,
        noise,
    )


def fresh_statistics(golden):
    """Running statistics before the call: zero means, unit variances."""
    names = [k.removeprefix("stats_after/") for k in golden if "stats_after/" in k]
    return {
        name: np.full(
            golden[f"stats_after/{name}"].shape, float(name.endswith("running_var"))
        )
        for name in names
    }


def distance_of(name):
    return distances.kl if name == "logits" else distances.mse


def losses(module, variables, student, teacher, noise, distance):
    out, updates = module.apply(
        variables, student, teacher, noise=noise, mutable=["batch_stats"]
    )
    terms = {
        "distance": distance(out.student, out.teacher),
        "diffusion": out.diffusion_loss,
        "autoencoder": out.autoencoder_loss,
    }
    return {k: v for k, v in terms.items() if v is not None}, (out, updates)


@functools.cache
def run_block(name, dtype):
    """A golden, its names, and what we make of it: one program for both tests."""
    golden, module, rename, variables, student, *rest = load_block(name, dtype)
    with np.load(GOLDEN / "schedule_and_distances.npz") as z:
        schedule = dict(z)

    def terms(params, student):
        own = {**variables, "params": params}
        found, rest_of = losses(module, own, student, *rest, distance_of(name))
        return found, (found, *rest_of)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffkd, "ddim_plan", reference_plan(schedule))
        patch.setattr(diffkd, "alpha_bar", lambda n: schedule["alpha_bar"])
        gradients, found = jax.jit(jax.jacrev(terms, (0, 1), has_aux=True))(
            variables["params"], student
        )
    return golden, rename, found, gradients


@pytest.fixture
def block(request, dtype):
    return dtype, run_block(request.param, dtype)


@pytest.mark.parametrize("block", BLOCKS, indirect=True)
def test_outputs_losses_and_statistics(block):
    dtype, (golden, rename, (terms, out, updates), _) = block
    tolerance = OUT_TOLERANCE[dtype]
    shape_of = lambda x: x.reshape(
        golden["out/student"].shape[0], *((1, 1, -1) if x.ndim == 2 else x.shape[1:])
    )
    assert (
        relative_error(shape_of(out.student), to_nhwc(golden["out/student"]))
        < tolerance
    )
    assert (
        relative_error(shape_of(out.teacher), to_nhwc(golden["out/teacher"]))
        < tolerance
    )
    assert relative_error(out.gamma, golden["out/gamma"]) < tolerance
    expected = {
        k.removeprefix("loss/"): v
        for k, v in golden.items()
        if k.startswith("loss/") and not np.isnan(v)
    }
    assert set(terms) == set(expected)
    for term, value in expected.items():
        assert relative_error(terms[term], value) < tolerance, term
    stats = convert.export_state_dict(updates, rename)
    expected = {
        k.removeprefix("stats_after/"): v
        for k, v in golden.items()
        if k.startswith("stats_after/")
    }
    assert set(stats) == set(expected)
    for key, value in expected.items():
        assert relative_error(stats[key], value) < tolerance, key


@pytest.mark.parametrize("block", BLOCKS, indirect=True)
def test_gradients_of_each_loss_term(block):
    dtype, (golden, rename, _, gradients) = block
    tolerance = GRAD_TOLERANCE[dtype]
    terms = sorted(
        {m[1] for k in golden if (m := re.match(r"grad/(\w+)/", k))},
    )
    for term in terms:
        by_params, by_student = gradients[term]
        found = convert.export_state_dict({"params": by_params}, rename)
        found["student"] = np.asarray(
            by_student[:, None, None] if by_student.ndim == 2 else by_student
        ).transpose(0, 3, 1, 2)
        expected = {
            k.removeprefix(f"grad/{term}/"): v
            for k, v in golden.items()
            if k.startswith(f"grad/{term}/")
        }
        largest = max(np.abs(v).max() for v in expected.values())
        for key, value in found.items():
            if key not in expected:
                assert not value.any(), f"{term} must not reach {key}"
                continue
            # Gradients that batch norm cancels are rounding noise around zero.
            scale = max(np.abs(expected[key]).max(), 1e-2 * largest)
            error = np.abs(value - expected[key]).max() / scale
            assert error < tolerance, (term, key, error)
        assert set(expected) <= set(found)


def test_gradient_files_hold_gradients():
    """Guards the test above against files without entries."""
    for name in BLOCKS:
        with np.load(GOLDEN / f"{name}.npz") as z:
            assert {"grad/distance/student", "grad/distance/trans.weight"} <= set(z)


def test_alpha_bar(schedule):
    assert np.abs(diffusion.alpha_bar() - schedule["alpha_bar"]).max() < 2.5e-7


@pytest.mark.parametrize("num_steps", [1, 3, 5, 10, 20])
def test_timesteps(schedule, num_steps):
    found = diffusion.ddim_plan(num_steps).t
    np.testing.assert_array_equal(found, schedule[f"timesteps/{num_steps}"])


def run_ddim(plan, schedule, dtype):
    x = jnp.asarray(schedule["ddim/x_T"], dtype)
    for i, eps in enumerate(schedule["ddim/eps"]):
        row = jax.tree.map(lambda column, i=i: column[i], plan)
        x = diffusion.ddim_step(x, jnp.asarray(eps, dtype), row)
    return x


def test_ddim_run(schedule, dtype):
    x = run_ddim(reference_plan(schedule)(5), schedule, dtype)
    tolerance = {"float64": 1e-12, "float32": 1e-6}[dtype]
    assert relative_error(x, schedule["ddim/x_0"]) < tolerance


def test_ddim_run_with_our_own_schedule(schedule, dtype):
    x = run_ddim(diffusion.ddim_plan(5), schedule, dtype)
    assert relative_error(x, schedule["ddim/x_0"]) < 1e-6


@pytest.mark.parametrize("tau", [1, 4])
@pytest.mark.parametrize("name", ["kl", "dist"])
def test_distances(schedule, dtype, name, tau):
    student = jnp.asarray(schedule["distance/student"], dtype)
    teacher = jnp.asarray(schedule["distance/teacher"], dtype)
    found = distances.DISTANCES[name](student, teacher, tau=float(tau))
    expected = schedule[f"distance/{name}_tau{tau}"]
    assert relative_error(found, expected) < OUT_TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["feature_autoencoder", "logits"])
def test_block_import_is_strict(name):
    _, _, rename, variables, *_ = load_block(name, "float32")
    state_dict = convert.export_state_dict(variables, rename)
    state_dict["surprise.weight"] = np.zeros(1)
    state_dict["trans.weight"] = np.zeros((3, 3))
    del state_dict["trans.bias"]
    with pytest.raises(ValueError, match="does not fit") as error:
        convert.import_state_dict(state_dict, variables, rename)
    text = str(error.value)
    assert "missing (1):\n  trans.bias" in text
    assert "unexpected (1):\n  surprise.weight" in text
    assert "mis-shaped (1):\n  trans.weight: found (3, 3)" in text


def test_block_export_is_the_inverse():
    golden, _, rename, variables, *_ = load_block("feature_autoencoder", "float32")
    exported = convert.export_state_dict(variables, rename)
    for key, value in golden.items():
        if key.startswith("param/"):
            np.testing.assert_array_equal(
                exported[key[6:]], value.astype(np.float32), err_msg=key
            )
    assert len(flatten_dict(variables)) == len(exported)
