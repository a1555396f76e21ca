"""Trains noise predictors alone, and measures them as denoisers.

    export NPROC=1 JAX_PLATFORMS=cpu
    python experiments/2026-12-01_denoiser/run.py features FILE STUDENT
    python experiments/2026-12-01_denoiser/run.py linear FILE
    python experiments/2026-12-01_denoiser/run.py train FILE TAP LENGTHS SEEDS

``STUDENT`` is the file of a student without distillation, ``FILE`` an ``.npz`` file of
features that the first command writes. ``train`` takes ``features`` or ``logits``,
lengths such as ``1000,5000``, seeds such as ``0,1,2``, and names of optimizers if it is
not that of the quickstart. Each finished predictor adds a row to ``results.jsonl``, and
a call skips the rows that are there. So a call that was stopped can be repeated.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffkd_jax.configs import quickstart
from measure import LEVELS, denoise_all, linear_predictors, noise_errors

from diffkd_jax.backend.compiler import compiler_options
from diffkd_jax.config.resolve import resolve
from diffkd_jax.core.diffusion import add_noise, alpha_bar
from diffkd_jax.core.modules import NoisePredictor
from diffkd_jax.data import open_data
from diffkd_jax.weights.files import load_model

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results.jsonl"
TEACHER = HERE.parent / "2026-11-23_fashion_mnist" / "teacher.safetensors"
FORMS = ("paper", "zero table", "time_aware")
# Optimizers by name: that of the quickstart, a smaller rate, and Adam.
OPTIMIZERS = {"sgd 0.1": 0.1, "sgd 0.02": 0.02, "adam 0.001": 0.001}
BATCH = 64


def write_features(file: str, student: str) -> None:
    """Writes the features of teacher and student; training images mirrored too."""
    data = open_data(resolve(quickstart.get_config()).data)
    models = {"teacher": load_model(TEACHER), "student": load_model(student)}
    arrays = {}
    for name, split in (("train", data.train), ("unseen", data.evaluation)):
        everything = split.fetch(np.arange(split.size))
        image = data.normalise(everything)["image"]
        if name == "train":
            image = np.concatenate([image, image[:, :, ::-1]])
        for who, model in models.items():
            forward = jax.jit(lambda x, model=model: model(x))
            parts = [forward(part) for part in np.split(image, len(image) // 200)]
            for tap in ("features", "logits"):
                values = np.concatenate([np.asarray(part[tap]) for part in parts])
                arrays[f"{name}/{who}/{tap}"] = values.astype(np.float32)
    np.savez(file, **arrays)


def read_features(file: str, tap: str) -> dict[str, np.ndarray]:
    """Returns the maps of a tap by split and network, vectors as maps of one pixel."""
    stored = np.load(file)
    names = [name for name in stored.files if name.endswith(tap)]
    maps = {name.rpartition("/")[0]: stored[name] for name in names}
    return {k: v if v.ndim == 4 else v[:, None, None] for k, v in maps.items()}


def make_predictor(form: str, tap: str, seed: int, channels: int):
    """Returns the module of a form and its initial variables."""
    kernel_size = 3 if tap == "features" else 1
    module = NoisePredictor(kernel_size, time_aware=form == "time_aware")
    size = 7 if tap == "features" else 1
    x = jnp.zeros((4, size, size, channels))
    variables = module.init(jax.random.key(seed), x, jnp.zeros(4, int), train=True)
    if form == "zero table":
        table = variables["params"]["time_embedding"]["embedding"]
        variables["params"]["time_embedding"]["embedding"] = jnp.zeros_like(table)
    return module, variables


def make_optimizer(name: str, steps: int) -> optax.GradientTransformation:
    """Returns the optimizer, with a cosine schedule over the training."""
    rate = optax.cosine_decay_schedule(OPTIMIZERS[name], steps)
    if name.startswith("adam"):
        return optax.adam(rate)
    sgd = optax.sgd(rate, 0.9, nesterov=True)
    return optax.chain(optax.add_decayed_weights(5e-4), sgd)


def train(x_0, form: str, tap: str, name: str, steps: int, seed: int):
    """Trains a predictor by the diffusion loss; returns it and its last losses."""
    module, variables = make_predictor(form, tap, seed, x_0.shape[-1])
    state = {k: v for k, v in variables.items() if k != "params"}
    optimizer = make_optimizer(name, steps)
    powers = jnp.asarray(alpha_bar())

    def loss(params, x, t, eps):
        x_t = add_noise(x, eps, powers[t])
        predicted, _ = module.apply(
            {"params": params, **state}, x_t, t, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(jnp.square(predicted - eps))

    def step(params, opt_state, key, x_0):
        keys = jax.random.split(key, 3)
        x = x_0[jax.random.randint(keys[0], (BATCH,), 0, len(x_0))]
        eps = jax.random.normal(keys[1], x.shape)
        t = jax.random.randint(keys[2], (BATCH,), 0, 1000)
        value, gradient = jax.value_and_grad(loss)(params, x, t, eps)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    step = jax.jit(step, compiler_options=compiler_options())
    params, opt_state = variables["params"], optimizer.init(variables["params"])
    key, losses = jax.random.key(1000 + seed), []
    for i in range(steps):
        params, opt_state, value = step(
            params, opt_state, jax.random.fold_in(key, i), x_0
        )
        losses.append(value)

    def predict(x_t, t):
        variables = {"params": params, **state}
        return module.apply(variables, x_t, t, train=True, mutable=["batch_stats"])[0]

    return jax.jit(predict), float(np.mean(losses[-200:]))


def main(what: str, file: str, *arguments: str) -> None:
    """Runs one of the three commands."""
    if what == "features":
        write_features(file, *arguments)
        return
    done = (
        [json.loads(line) for line in RESULTS.read_text().splitlines()]
        if (RESULTS.exists())
        else []
    )
    if what == "linear":
        for tap in ("features", "logits"):
            maps = read_features(file, tap)
            predict = linear_predictors(maps["train/teacher"])
            add({"tap": tap, "form": "linear"}, predict, maps)
        return
    tap, lengths, seeds, *names = arguments
    maps = read_features(file, tap)
    x_0 = jnp.asarray(maps["train/teacher"])
    for steps in map(int, lengths.split(",")):
        for seed in map(int, seeds.split(",")):
            for name in names or ["sgd 0.1"]:
                for form in FORMS:
                    row = {"tap": tap, "form": form, "optimizer": name}
                    row |= {"steps": steps, "seed": seed}
                    if any(row.items() <= other.items() for other in done):
                        continue
                    predict, last = train(x_0, form, tap, name, steps, seed)
                    add({**row, "train_loss": round(last, 4)}, predict, maps)


def add(row, predict, maps) -> None:
    """Measures a predictor and adds its row to the results."""
    row = {**row, "levels": LEVELS, **noise_errors(predict, maps["unseen/teacher"])}
    row["denoised"] = denoise_all(predict, maps)
    with RESULTS.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    print(json.dumps(row)[:400], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
