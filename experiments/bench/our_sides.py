"""Our side of ``vs_pytorch.py``: programs to time, and what they have to agree in.

Each function writes what PyTorch starts from to a file of arrays, and returns a call to
be timed and a dict of numbers.
"""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pairs import config_of, data_of, drawn_teacher, first_batch, freeze, stepping
from vs_cases import BLOCKS, MOMENTUM, PAIRS, RATE, SIDES, features, noise

from diffkd_jax.backend import compiler, convolution
from diffkd_jax.backend.compiler import MANY_RUNS, compiler_options
from diffkd_jax.core import distances
from diffkd_jax.core.diffkd import DiffKD, DiffKDNoise
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster.sharding import jit_step
from diffkd_jax.train.run import student_variables
from diffkd_jax.weights.torch.convert import export_state_dict
from diffkd_jax.weights.torch.names.classifiers import references
from tests.helpers import diffkd_names


def count(*trees):
    return sum(x.size for x in jax.tree.leaves(trees))


def leave_out_onednn():
    """Compiles from now on as with a jaxlib that has no oneDNN."""
    for module in (compiler, convolution):
        module.has_onednn = lambda: False


def compiled(function):
    return jax.jit(function, compiler_options=compiler_options(many=True))


def block(case, dtype, file):
    """All losses of a block and their gradient, by parameters and student."""
    batch, own, other, latent, side = BLOCKS[case]
    student, teacher = (
        jnp.asarray(features(what, batch, c, side))
        for what, c in zip(SIDES, (own, other), strict=True)
    )
    module = DiffKD(latent, dtype=dtype)
    distance = distances.mse if side else distances.kl
    keys = {"params": jax.random.key(0), "diffusion": jax.random.key(1)}
    variables = jax.jit(module.init)(keys, student, teacher)
    table = diffkd_names.DIFFKD_FEATURES if side else diffkd_names.DIFFKD_LOGITS
    np.savez(file, **export_state_dict(variables, table))

    def loss(params, student, stats, key, given):
        out, _ = module.apply(
            {"params": params, "batch_stats": stats},
            *(student, teacher),
            noise=given,
            rngs={"diffusion": key},
            mutable=["batch_stats"],
        )
        return distance(out.student, out.teacher) + sum(out.losses.values())

    step = compiled(jax.value_and_grad(loss, (0, 1)))
    params, stats = variables["params"], variables["batch_stats"]
    given = (params, student, stats, keys["diffusion"])
    value, gradient = step(*given, DiffKDNoise(*noise(batch, latent or other, side)))
    about = {"loss": float(value), "gradient": float(optax.tree.norm(gradient))}
    about["parameters"] = count(params)
    return lambda: jax.block_until_ready(step(*given, None)), about


def pair(name, dtype):
    """A run with a teacher of drawn weights, a raw batch, arrays for PyTorch."""
    recipe, batch, *_ = PAIRS[name]
    config = config_of(recipe, batch)
    config.train.norm_group_size = 0
    config.optimizer.learning_rate, config.optimizer.momentum = RATE, MOMENTUM
    config.optimizer.nesterov = False
    config.optimizer.decay_norms_and_biases = True
    if dtype:
        config.student.options = config.teacher.options = {"dtype": dtype}
    run = build(config, data_of(config))
    raw = first_batch(run)
    variables = drawn_teacher(run)
    arrays = named("teacher", run.teacher, variables)
    arrays |= {"image": raw["image"], "label": raw["target"]["label"]}
    arrays |= {"mean": config.data.mean, "std": config.data.std}
    arrays["decay"] = config.optimizer.weight_decay
    teacher = run.teacher._replace(variables=freeze(run, variables))
    return run._replace(teacher=teacher), raw, arrays, count(variables["params"])


def named(prefix, model, variables):
    table = next(iter(references(model.module).values()))
    return prefixed(prefix, export_state_dict(variables, table))


def prefixed(prefix, arrays):
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def teacher(case, dtype, file):
    """Its logits, as the step has them."""
    run, raw, arrays, parameters = pair(case.split("-")[1], dtype)
    np.savez(file, **arrays)
    batch, variables = run.data.normalise(raw), run.teacher_variables
    forward = compiled(lambda *a: run.teacher.infer(*a)["logits"])
    loss = float(jnp.square(forward(variables, batch)).mean())
    about = {"loss": loss, "parameters": parameters}
    return lambda: jax.block_until_ready(forward(variables, batch)), about


def step(case, dtype, file):
    """The trainer's own step, DiffKD on features and logits."""
    run, raw, arrays, parameters = pair(case.split("-")[1], dtype)
    state, variables = run.init(), run.teacher_variables
    arrays |= named("student", run.student, student_variables(state))
    params, kept = state.params["distiller"], state.model_state["distiller"]
    tables = {
        "features": diffkd_names.DIFFKD_FEATURES,
        "logits": diffkd_names.DIFFKD_LOGITS,
    }
    for tap, table in tables.items():
        (inner,) = params[tap]  # the block beside nothing: no projection
        own = {"params": params[tap][inner]}
        own["batch_stats"] = kept[tap]["batch_stats"][inner]
        arrays |= prefixed(tap, export_state_dict(own, table))
    np.savez(file, **arrays)
    parameters += count(state.params)
    given = lambda self, x: DiffKDNoise(*noise(len(x), x.shape[-1], x.shape[1]))
    with mock.patch.object(DiffKD, "_draw", given):
        _, seen = compiled(run.pure_step)(state, variables, raw)
    about = {"loss": float(seen["loss/total"]), "parameters": parameters}
    about["gradient"] = float(seen["norm/gradient"])
    step = jit_step(run.pure_step, run.devices, MANY_RUNS)
    return stepping(step, state, variables, raw), about


KINDS = {"block": block, "teacher": teacher, "step": step}
