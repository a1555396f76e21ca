"""A data set, a method, a task and models of one's own, as a user writes them."""

import itertools
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from diffkd_jax import Method, Tap
from diffkd_jax.data import Dataset, Split
from diffkd_jax.models import Model, from_nnx
from diffkd_jax.tasks import Evidence, Task

CLASSES = ("dark", "bright", "striped")


def load(path, *, size=48, side=8):
    """Made-up images of three kinds, with their mean brightness."""
    del path

    def make(seed, count):
        rng = np.random.default_rng(seed)
        label = np.arange(count) % 3
        level = np.array([40, 200, 120])[label][:, None, None, None]
        image = np.clip(level + rng.normal(0, 20, (count, side, side, 3)), 0, 255)
        image[label == 2, ::2] *= 0.3
        image = image.astype(np.uint8)
        depth = image.mean((1, 2, 3), keepdims=True) / 255.0

        def fetch(rows):
            target = {
                "label": label[rows].astype(np.int32),
                "depth": depth[rows].astype(np.float32),
            }
            return {"image": image[rows], "target": target}

        return Split(count, fetch)

    splits = {"train": make(0, size), "test": make(1, size // 2)}
    return Dataset(splits, meta={"class_names": CLASSES, "note": "made up"})


STUCK = threading.Event()  # until it is set


def hanging(path, *, row=40):
    """One example whose decoder does not come back."""
    splits = dict(load(path, size=64, side=28).splits)
    fetch = splits["train"].fetch

    def waits(rows):
        from tests.helpers.own_code import STUCK  # a worker has its own

        if row in rows:
            STUCK.wait()
        return fetch(rows)

    splits["train"] = Split(64, waits)
    return Dataset(splits, meta={"class_names": CLASSES})


def one_bad_step(*, at=5):
    """No distillation; one step has a loss that is not a number."""
    return Method({}, {"task": lambda step: jnp.where(step == at - 1, jnp.nan, 1.0)})


def normed(x):
    a = jnp.square(x).mean(-1).reshape(len(x), -1)
    return a / jnp.maximum(jnp.linalg.norm(a, axis=-1, keepdims=True), 1e-6)


def attention(*, outputs=("features",), beta=10.0):
    """Attention transfer: taps without a block."""

    def distance(student, teacher, target):
        return jnp.square(normed(student) - normed(teacher)).mean()

    taps = {name: Tap(name, name, distance, block=None) for name in outputs}
    return Method(taps, {f"{name}/distance": beta for name in outputs})


def depth(meta, *, cap=1.0):
    """Regression of one number for each image; less is better."""
    assert meta["channels"] == 3

    def error(outputs, batch):
        predicted = jnp.minimum(outputs["depth"], cap)
        return predicted - batch["target"]["depth"][:, 0, 0]

    def loss(outputs, batch):
        return {"task": jnp.square(error(outputs, batch)).mean()}

    def predict(outputs, batch):
        return {"depth": jnp.minimum(outputs["depth"], cap)}

    def evidence(outputs, batch):
        square = jnp.square(error(outputs, batch)).mean(-1)
        sums = {"count": batch["mask"].sum(), "square": (batch["mask"] * square).sum()}
        return Evidence(sums, {"depth": outputs["depth"]})

    def score(total):
        assert total.rows["depth"].shape[0] == total.sums["count"]
        return {"rmse": float(total.sums["square"] / total.sums["count"]) ** 0.5}

    return Task(loss, predict, evidence, score, "rmse", higher_is_better=False)


class NnxNet(nnx.Module):
    def __init__(self, channels, classes, width, rngs):
        self.conv = nnx.Conv(channels, width, (3, 3), strides=(2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, image):
        x = nnx.relu(self.norm(self.conv(image)))
        pooled = self.dropout(x.mean((1, 2)))
        logits = self.head(pooled)
        return {"features": x, "logits": logits, "depth": logits[:, :1]}


def in_nnx(meta, *, width=8):
    return from_nnx(lambda rngs: NnxNet(meta["channels"], meta["num_classes"], width,
                                        rngs))  # fmt: skip


def plain(meta, *, width=8):
    """Two functions; the running mean of the features is carried."""

    def init(key, batch):
        del batch
        keys = jax.random.split(key)
        draw = lambda k, *shape: 0.1 * jax.random.normal(k, shape)
        params = {
            "conv": draw(keys[0], 3, 3, meta["channels"], width),
            "head": draw(keys[1], width, meta["num_classes"]),
        }
        return params, {"statistics": {"mean": jnp.zeros(width)}}

    def apply(params, state, batch, *, train, key=None):
        x = jax.lax.conv_general_dilated(
            batch["image"], params["conv"], (2, 2), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        old = state["statistics"]["mean"]
        mean = 0.9 * old + 0.1 * x.mean((0, 1, 2)) if train else old
        x = jax.nn.relu(x - mean)
        if train and key is not None:
            x = x * jax.random.bernoulli(key, 0.9, x.shape)
        logits = x.mean((1, 2)) @ params["head"]
        outputs = {"features": x, "logits": logits, "depth": logits[:, :1]}
        return outputs, {"statistics": {"mean": mean}}

    return Model(init, apply)


def lion(schedule):
    return optax.lion(schedule)


def exploding(schedule):
    """One step is enough."""
    del schedule
    return optax.sgd(1e30)


class Nothing(NamedTuple):
    """No model, no task."""


def nothing(meta):
    return Nothing()


def named_in_three_scripts(path):
    """The same, with names of classes in three scripts."""
    data = load(path)
    return data._replace(meta=data.meta | {"class_names": ("café", "猫", "犬")})


def classification_that_draws(meta, **options):
    """Classification with an error in its ``draw``."""
    from diffkd_jax.tasks.classification.task import classification

    return classification(meta, **options)._replace(draw=lambda *given: [1 / 0])


def broken_on_the_first(path):
    """A data set with an error that only process 0 meets, after some batches."""
    splits = dict(load(path, size=64, side=28).splits)
    fetch = splits["train"].fetch
    calls = itertools.count()

    def fails(rows):
        if next(calls) > 60 and jax.process_index() == 0:
            raise LookupError("a slip")
        return fetch(rows)

    splits["train"] = Split(64, fails)
    return Dataset(splits, meta={"class_names": CLASSES})
