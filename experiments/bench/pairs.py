"""Pairs of a config at full size on drawn pictures, for the benchmarks beside this."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from configs import imagenet
from diffkd_jax.config.resolve import resolve
from diffkd_jax.data import Data
from diffkd_jax.data.array_splits import make_array_split
from diffkd_jax.data.transforms.normalise import make_image_normaliser
from diffkd_jax.models.model import split as split_variables
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster import sharding
from diffkd_jax.train.components import batch_shapes
from diffkd_jax.train.run import Run
from diffkd_jax.weights.untrained import shapes_of

CIFAR = [
    "wrn_40_2-wrn_40_1",
    "resnet56-resnet20",
    "resnet32x4-resnet8x4",
    "cifar_resnet50-cifar_mobilenet_v2",
    "resnet32x4-shufflenet_v1",
    "resnet32x4-shufflenet_v2",
]
ALL = [f"imagenet:{p}" for p in imagenet.PAIRS] + [f"cifar100:{p}" for p in CIFAR]


def config_of(name: str, batch: int, method: str = "diffkd") -> Any:
    """The config of ``<config>:<pair>``, on one device."""
    file, _, argument = name.partition(":")
    config = importlib.import_module(f"configs.{file}").get_config(argument)
    config.method, config.data.batch_size, config.num_devices = method, batch, 1
    config.train.norm_group_size = min(batch, config.train.norm_group_size)
    return config


def data_of(config, batches: int = 1) -> Data:
    """So many batches of noise, of the size and the classes that the config has."""
    shape = (config.data.image_size or 32,) * 2 + (3,)
    classes, draw = config.data.num_classes, np.random.default_rng(0)
    count = batches * config.data.batch_size
    image = draw.integers(0, 256, (count, *shape), np.uint8)
    label = draw.integers(0, classes, count).astype(np.int32)
    split = make_array_split(image, label, classes, "noise")
    normalise = make_image_normaliser(resolve(config).data, 3)
    return Data(
        train=split,
        evaluation=split,
        meta={"num_classes": classes, "channels": 3, "image_size": list(shape[:2])},
        train_shape=shape,
        eval_shape=shape,
        splits={},
        target={"label": np.zeros(1, np.int32)},
        normalise=lambda batch: {**batch, "image": normalise(batch["image"])},
    )


def run_of(name: str, batch: int, method: str = "diffkd") -> Run:
    """A run of a pair; its teacher has no variables."""
    config = config_of(name, batch, method)
    return build(config, data_of(config))


def shapes_for(run: Run) -> tuple[Any, Any, Mapping]:
    """Shapes of state, of the teacher as it is frozen, and of a raw batch."""
    batch = batch_shapes(run.data, run.plan.batch_size)
    shape = batch["image"].shape
    raw = {**batch, "image": jax.ShapeDtypeStruct(shape, np.uint8)}
    if run.teacher is None:
        return run.shapes.state, {}, raw
    unfolded = shapes_of(run.teacher, shape[1:])
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), unfolded)
    frozen = freeze(run, zeros)
    return run.shapes.state, jax.tree.map(jax.typeof, frozen), raw


def freeze(run: Run, variables: Mapping) -> Mapping:
    """A teacher's variables, ready to infer."""
    image = jax.ShapeDtypeStruct((1, *run.data.train_shape), np.float32)
    params, state = run.teacher.freeze(*split_variables(variables), {"image": image})
    return {"params": params, **state}


def drawn_teacher(run: Run) -> Mapping:
    """Drawn variables of a run's teacher, not frozen, on the host.

    Running statistics are those of the first batch: in inference the maps of an
    untrained network grow beyond reason without them.
    """

    @jax.jit
    def draw(batch):
        params, state = run.teacher.init(jax.random.key(1), batch)
        _, after = run.teacher.apply(params, state, batch, train=True)
        # A running value keeps nine tenths of the old one.
        settled = jax.tree.map(lambda new, old: 10 * new - 9 * old, after, state)
        return {"params": params, **settled}

    return jax.device_get(draw(run.data.normalise(first_batch(run))))


def stepping(step: Callable, state: Any, teacher: Any, batch: Mapping) -> Callable:
    """A call that takes a step from where the last one ended, and waits for it."""
    held = [state]

    def call():
        held[0], metrics = step(held[0], teacher, batch)
        jax.block_until_ready((held[0], metrics))

    return call


def first_batch(run: Run) -> Mapping:
    """A raw batch on the device."""
    rows = np.arange(run.plan.batch_size)
    batch = run.data.train.fetch(rows)
    extra = {"index": rows.astype(np.int32), "mask": np.ones(len(rows), np.float32)}
    return jax.device_put(batch | extra, sharding.split_batch(run.devices.mesh))
