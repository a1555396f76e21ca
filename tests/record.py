"""Numbers and names that a change must not move unnoticed.

The goldens inject noise, so they see no change of draws, names or order; this does.
``python -m tests.record`` writes the record anew, for a change that is meant: alone, in
a commit that gives the reason.
"""

import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import optax

from diffkd_jax import DiffKD, Tap, diffkd_step, distillation, init_state, main
from diffkd_jax.core.distances import kl
from diffkd_jax.core.norm import BatchNorm
from diffkd_jax.tasks.classification import task
from diffkd_jax.tasks.classification.mix import make_prepare
from diffkd_jax.train.outputs.metrics import read_rows
from diffkd_jax.weights.output_files import MODEL_FILE
from tests.helpers.configs import tiny_config
from tests.helpers.goldens import GOLDEN
from tests.helpers.own_model import Own

FILE = GOLDEN / "record.json"
STEPS = 8


def _norm(**options):
    return BatchNorm(group_size=4, **options)


def step_rows():
    """Losses and norms of eight steps, and names and shapes of the state.

    Feature and logit taps, an autoencoder, norm groups, an average and mixing.
    """
    key = jax.random.key(7)
    image = jax.random.randint(key, (8, 16, 16, 1), 0, 256).astype(jnp.uint8)
    batch = {"image": image, "target": {"label": jnp.arange(8) % 3}}
    student, teacher = Own(3, 4), Own(3, 6)
    mixed = make_prepare(3, mixup=0.8, cutmix=1.0, switch=0.5, erase=0.25)

    def prepare(key, batch):
        return mixed(key, {**batch, "image": batch["image"] / 255.0})

    ready = jax.jit(prepare)(key, batch)
    teacher_variables = jax.jit(teacher.init)(jax.random.key(2), ready["image"])

    def student_apply(params, state, batch, key):
        return student.apply(
            {"params": params, **state},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )

    def teacher_apply(variables, batch):
        return teacher.apply(variables, batch["image"])

    block = DiffKD(num_steps=2, norm=_norm)
    distill = distillation(
        {
            "features": Tap(
                "features", "features", block=block.clone(latent_channels=5)
            ),
            "logits": Tap("logits", "logits", kl, block=block),
        }
    )
    optimizer = optax.sgd(0.05, momentum=0.9)

    @jax.jit
    def init():
        variables = student.init(jax.random.key(1), ready["image"])
        params = variables.pop("params")
        outputs, _ = student_apply(params, variables, ready, key)
        return init_state(
            jax.random.key(3),
            params,
            jax.tree.map(jnp.copy, variables),
            outputs,
            teacher_apply(teacher_variables, ready),
            distillation=distill,
            optimizer=optimizer,
            ema=True,
            seed=5,
        )

    state = init()
    step = jax.jit(
        lambda state, teacher, batch: diffkd_step(
            state,
            teacher,
            batch,
            student_apply=student_apply,
            teacher_apply=teacher_apply,
            distillation=distill,
            task_loss=task.loss,
            optimizer=optimizer,
            weights={"features/autoencoder": 0.5},
            prepare=prepare,
            ema_decay=0.9,
        )
    )
    rows = []
    for _ in range(STEPS):
        state, metrics = step(state, teacher_variables, batch)
        norms = {"norm/average": optax.tree.norm(state.ema["params"])}
        rows.append({k: float(v) for k, v in (metrics | norms).items() if v.ndim == 0})
    return rows, shapes(state)


def shapes(tree):
    """Path to shape and dtype of every leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def run_counts(workdir):
    """Right answers of each evaluation of a tiny run, and the names in its export."""
    from safetensors.numpy import load_file

    config = tiny_config(method="kd")
    main.run(config, str(workdir))
    rows = read_rows(workdir / "metrics.jsonl")
    right = [r["eval/top1"] * config.data.limit for r in rows if "eval/top1" in r]
    return [round(n) for n in right], shapes(load_file(workdir / MODEL_FILE))


def measure(workdir):
    """The whole record, JSON values."""
    rows, state = step_rows()
    right, export = run_counts(pathlib.Path(workdir))
    return {"rows": rows, "state": state, "right": right, "export": export}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        FILE.write_text(json.dumps(measure(folder), indent=1, sort_keys=True) + "\n")
