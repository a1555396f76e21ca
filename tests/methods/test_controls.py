"""A control replaces what its name says; all else is as in the run of DiffKD."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from diffkd_jax import DiffKD, Tap, distillation, main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.core.modules import NoisePredictor
from diffkd_jax.core.regressor import Regressor
from diffkd_jax.methods import CONTROLS, METHODS, build_method
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster.signals import Stopped
from diffkd_jax.train.commands.train import train
from diffkd_jax.train.teacher import draw_teacher
from diffkd_jax.train.workdir import checkpoint
from diffkd_jax.train.workdir.checkpoint_manager import open_checkpoints
from diffkd_jax.train.workdir.identity import Identity, find_differences, to_json
from tests.helpers.configs import tiny_config

# Parts of a block that a control lacks or has in addition.
REPLACED = {"projection": "noise_predictor", "regressor": "noise_predictor|regressor"}


def built(method, **fields):
    return build(tiny_config(method=method, **fields))


def flat_state(run):
    state = run.init()
    return flatten_dict({"params": state.params, "state": state.model_state}, sep="/")


@pytest.mark.parametrize("of", ["diffkd", "diffkd_features", "diffkd_logits"])
@pytest.mark.parametrize("name", CONTROLS)
def test_all_but_the_replaced_part_is_that_of_diffkd(name, of):
    """Parameters, losses' weights, learning rates, batches and the compiled task."""
    fields = {"methods.diffkd.latent_channels": 5, "optimizer.learning_rate": 0.05}
    fields |= {"weights": {}, f"methods.{of}.weight": 0.5}
    control = built(name, **fields, **{f"methods.{name}.of": of})
    diffkd = built(of, **fields)
    ours, theirs = flat_state(control), flat_state(diffkd)
    replaced = REPLACED.get(name, "nothing").split("|")
    if name == "self":  # the teacher is as wide as the student, and so are the blocks
        ours, theirs = ({k: v for k, v in x.items() if k.startswith("params/student/")}
                        for x in (ours, theirs))  # fmt: skip
    assert all(any(p in path for p in replaced) for path in ours.keys() ^ theirs.keys())
    if name in REPLACED:
        assert not any("noise_predictor" in path for path in ours)
        assert any("regressor" in path for path in ours) == (name == "regressor")
    for path in ours.keys() & theirs.keys():
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
    assert control.method.weights == diffkd.method.weights
    assert list(control.method.taps) == list(diffkd.method.taps)
    losses = {n for n in diffkd.shapes.losses if name not in REPLACED
              or not n.endswith("/diffusion")}  # fmt: skip
    assert set(control.shapes.losses) == losses
    for step in (0, 3, 7):
        assert control.plan.schedule(step) == diffkd.plan.schedule(step)
    assert control.plan._replace(schedule=None) == diffkd.plan._replace(schedule=None)
    for one, other in zip(
        training_batches(control), training_batches(diffkd), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLS)
def test_the_moving_average_of_a_control_is_that_of_diffkd(name):
    """At the start, and after a step on the task alone, which is the same for both."""
    fields = {"train.ema_decay": 0.9, "weights": {"features": 0.0, "logits": 1e-12}}
    averages = []
    for method in (name, "diffkd"):
        run = built(method, **fields)
        state = run.init()
        first = jax.device_get(state.ema)
        jax.tree.map(
            np.testing.assert_array_equal, first["params"], state.params["student"]
        )
        drawn = draw_teacher(run.teacher, run.shapes.batch, 0)
        batch = dict(next(iter(training_batches(run))))
        batch.pop("skipped")
        state, _ = run.step(state, drawn.variables, batch)
        averages.append((first, jax.device_get(state.ema)))
    ours, theirs = averages
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        *(ours[1], theirs[1]),
    )
    kernels = [average["params"]["head"]["kernel"] for average in ours]
    assert (kernels[0] != kernels[1]).any()


@pytest.mark.slow
def test_a_frozen_denoiser_stays_under_an_average_and_after_a_stop(tmp_path):
    """To the bit, and so does the run: the same models as without a stop."""
    fields = {"train.ema_decay": 0.9, "methods.diffkd.denoiser": "frozen"}
    fields["teacher.epochs"] = 1.0
    config = tiny_config(**fields)
    train(config, tmp_path / "whole")
    teacher = {"teacher.init": str(tmp_path / "whole/teacher")}
    config = tiny_config(**fields, **teacher)
    calls = iter(range(10**6))
    with pytest.raises(Stopped):
        train(config, tmp_path / "parts", lambda: 15 if next(calls) > 12 else 0)
    train(config, tmp_path / "parts")
    for file in ("model.safetensors", "model_ema.safetensors"):
        ours, theirs = ((tmp_path / n / file).read_bytes() for n in ("parts", "whole"))
        assert ours == theirs
    run = build(config)
    with open_checkpoints(tmp_path / "parts", run.task, {}) as checkpoints:
        steps = checkpoints.all_steps()
        last = checkpoint.restore(checkpoints, run.init())
    assert int(last.step) == max(steps) == 8
    paths = [p for p in flat_state(run) if "frozen" in p and "noise_predictor" in p]
    assert len(paths) > 10
    ours = flatten_dict({"state": jax.device_get(last.model_state)}, sep="/")
    for path in paths:
        np.testing.assert_array_equal(ours[path], flat_state(run)[path], err_msg=path)


def test_a_control_has_the_options_of_the_method_that_it_controls():
    config = resolve(
        tiny_config(
            method="projection",
            **{"methods.projection.of": "diffkd_fpn", "methods.diffkd_fpn.weight": 3.0},
        )
    )
    method = build_method(config.method, config.methods)
    assert method.weights["p3/distance"] == 3.0
    assert "p3/diffusion" not in method.weights
    assert {tap.block.num_steps for tap in method.taps.values()} == {0}


@pytest.mark.parametrize(
    ("name", "of", "message"),
    [
        ("projection", "kd", "methods.projection.of: found 'kd', none of whose taps"),
        ("regressor", "diffkdd", "methods.regressor.of: found 'diffkdd', expected one"),
        ("self", "regressor", "methods.self.of: found 'regressor', a control itself"),
    ],
)
def test_a_method_that_cannot_be_controlled_is_refused(name, of, message):
    with pytest.raises(ValueError, match=message):
        build_method(name, {name: {"of": of}})


def count(module, channels, leave_out=()):
    x = np.zeros((2, 2, 2, channels), np.float32)
    inputs = (x, np.zeros(2, int)) if isinstance(module, NoisePredictor) else (x,)
    variables = jax.eval_shape(
        lambda key: module.init(key, *inputs, train=False), jax.random.key(0)
    )
    params = {k: v for k, v in variables["params"].items() if k not in leave_out}
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("channels", [8, 10, 16, 19, 24, 64, 100, 256])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_the_regressor_is_as_large_as_the_denoiser(kernel_size, channels, width):
    predictor = NoisePredictor(kernel_size, width=width)
    denoiser = count(predictor, channels, ["time_embedding"])
    regressor = count(Regressor(kernel_size, width=width), channels)
    assert regressor == pytest.approx(denoiser, rel=0.02 if width == 1 else 0.03)


@pytest.mark.slow
def test_a_random_teacher_is_drawn_by_the_seed_and_never_trained(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fields = {"train.max_steps": 1, "teacher.epochs": 0.0, "seed": seed}
        main.run(tiny_config(method="random_teacher", **fields), str(tmp_path / name))
    a, b, c = (
        json.loads((tmp_path / n / "config.json").read_text())["teacher_checksum"]
        for n in "abc"
    )
    assert a == b != c
    assert not (tmp_path / "a/teacher").exists()


@pytest.mark.slow
def test_the_teacher_of_self_is_the_student_without_distillation(tmp_path):
    fields = {"train.max_steps": 2, "weights": {"task": 0.5}}
    main.run(tiny_config(method="none", **fields), str(tmp_path / "none"))
    main.run(tiny_config(method="self", **fields), str(tmp_path / "self"))
    ours, theirs = (
        (tmp_path / n / "model.safetensors").read_bytes()
        for n in ("self/teacher", "none")
    )
    assert ours == theirs
    summary = json.loads((tmp_path / "self/summary.json").read_text())
    alone = json.loads((tmp_path / "none/summary.json").read_text())
    assert summary["teacher_top1"] == alone["final_top1"]


def test_a_control_is_another_run_with_other_options_of_what_it_controls():
    def differences(**fields):
        config = resolve(tiny_config(method="projection", **fields))
        recorded = to_json(resolve(tiny_config(method="projection")))
        identity = Identity("0.4.0", {}, [], recorded, {})
        return list(find_differences(identity, config, with_teacher=True))

    assert differences(**{"methods.diffkd.latent_channels": 5}) == [
        "methods.diffkd.latent_channels"
    ]
    assert differences(**{"methods.kd.tau": 5.0}) == []


@pytest.mark.parametrize("name", ["random_teacher", "self"])
def test_a_student_does_not_inherit_from_a_control(name):
    with pytest.raises(
        ValueError, match=r"student\.inherit: found .* source '(ran|stu)"
    ):
        built(name, **{"student.inherit": ("head/*",)})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_built_by_its_defaults(name):
    method = build_method(name, {})
    assert bool(method.taps) == (name != "none")


PAIR = {"x": jax.random.normal(jax.random.key(2), (4, 3, 3, 8))}


def losses_and_gradient(**options):
    """Losses, new state and gradient of one DiffKD tap, and its initial variables."""
    method = distillation({"x": Tap("x", "x", block=DiffKD(num_steps=2, **options))})
    params, state = method.init(jax.random.key(0), PAIR, PAIR)

    def total(params):
        losses, new_state, info = method.loss(
            params, state, jax.random.key(1), PAIR, PAIR
        )
        return sum(losses.values()), (losses, new_state, info)

    gradient, others = jax.jit(jax.grad(total, has_aux=True))(params)
    return params, state, gradient, *others


def test_a_frozen_denoiser_is_carried_and_not_trained():
    """Weight decay would change it if it were a parameter."""
    params, state, gradient, losses, new_state, _ = losses_and_gradient(
        denoiser="frozen"
    )
    trained, *_ = losses_and_gradient()
    assert "noise_predictor" not in params["x"]["diffkd"]
    frozen = state["x"]["frozen"]["diffkd"]["noise_predictor"]
    jax.tree.map(
        np.testing.assert_array_equal, frozen, trained["x"]["diffkd"]["noise_predictor"]
    )
    jax.tree.map(
        np.testing.assert_array_equal, state["x"]["frozen"], new_state["x"]["frozen"]
    )
    assert list(losses) == ["x/distance"]
    assert np.abs(gradient["x"]["diffkd"]["student_projection"]["kernel"]).max() > 0


def test_without_a_diffusion_loss_the_distance_still_trains_the_denoiser():
    _, _, gradient, losses, _, _ = losses_and_gradient(denoiser="distance")
    _, _, _, with_loss, _, _ = losses_and_gradient()
    assert list(losses) == ["x/distance"]
    np.testing.assert_allclose(losses["x/distance"], with_loss["x/distance"], rtol=1e-5)
    kernel = gradient["x"]["diffkd"]["noise_predictor"]["conv"]["kernel"]
    assert np.abs(kernel).max() > 0


@pytest.mark.parametrize("denoiser", ["diffusion", "distance", "frozen", "regressor"])
@pytest.mark.parametrize("gradient", ["full", "inputs", "straight"])
def test_the_options_work_with_each_denoiser_and_gradient(denoiser, gradient):
    _, _, gradients, losses, _, info = losses_and_gradient(
        denoiser=denoiser,
        gradient=gradient,
        time_aware=True,
        min_noise=0.25,
        predictor_width=0.5,
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert ("x/diffusion" in losses) == (denoiser == "diffusion")
    kernel = gradients["x"]["diffkd"]["student_projection"]["kernel"]
    assert np.abs(kernel).max() > 0
    assert info["x"]["gamma/max"] <= 0.75


def test_the_least_noise_bounds_gamma():
    (*_, free), (*_, bounded) = (
        losses_and_gradient(),
        losses_and_gradient(min_noise=0.6),
    )
    for name in ("gamma/min", "gamma/mean", "gamma/max"):
        np.testing.assert_allclose(bounded["x"][name], 0.4 * free["x"][name], rtol=1e-6)
    assert bounded["x"]["gamma/max"] <= 0.4 < free["x"]["gamma/max"]


@pytest.mark.parametrize(("kernel_size", "inner"), [(1, 16), (3, 1)])
def test_the_width_of_the_predictor_is_that_of_its_inner_layers(kernel_size, inner):
    shapes = jax.eval_shape(
        functools.partial(NoisePredictor(kernel_size, width=0.5).init, train=True),
        *(jax.random.key(0), jnp.ones((2, 3, 3, 8)), jnp.zeros(2, int)),
    )["params"]
    first = shapes["conv0"] if kernel_size == 1 else shapes["bottleneck0"]["conv0"]
    assert first["kernel"].shape == (1, 1, 8, inner)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_a_fixed_gamma_has_no_adapter(gamma):
    params, _, gradient, _, _, info = losses_and_gradient(gamma=gamma)
    assert "noise_adapter" not in params["x"]["diffkd"]
    assert info["x"]["gamma/mean"] == gamma
    kernel = gradient["x"]["diffkd"]["student_projection"]["kernel"]
    assert (np.abs(kernel).max() > 0) == (gamma > 0)  # without it the student is lost


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoiser": "none"}, "denoiser: found 'none', expected one of"),
        (
            {"num_steps": 0, "denoiser": "frozen"},
            "denoiser: found 'frozen' with num_st",
        ),
        ({"gamma": 1.5}, "gamma: found 1.5, expected"),
        ({"num_steps": -1}, "num_steps: found -1, expected"),
        ({"min_noise": 1.5}, "min_noise: found 1.5, expected"),
        (
            {"min_noise": 0.1, "gamma": 0.5},
            "min_noise: found 0.1 with gamma=0.5, expected 0",
        ),
        ({"predictor_width": 0.0}, "predictor_width: found 0.0, expected"),
    ],
)
def test_wrong_options_of_diffkd_are_refused(options, message):
    fields = {f"methods.diffkd.{name}": value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        built("diffkd", **fields)
    with pytest.raises(ValueError, match=message.split(", exp")[0]):
        jax.eval_shape(
            lambda: DiffKD(**options).init_with_output(
                {"params": jax.random.key(0), "diffusion": jax.random.key(1)},
                PAIR["x"],
                PAIR["x"],
            )
        )
