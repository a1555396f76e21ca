"""Arithmetic and memory of a whole training step with DiffKD; runs none.

    PYTHONPATH=. python experiments/bench/step_cost.py imagenet:r34-r18 --memory

Floating-point operations are those of the program before optimisation, counted by XLA
(a multiply-add is two). Memory is what the program, compiled for the platform at hand,
holds at once on one device: arguments (state, teacher, batch) and temporaries.
"""

import argparse
import importlib

import jax
import numpy as np

from configs import imagenet
from diffkd_jax.data import Data, Split
from diffkd_jax.data.transforms import make_normalise
from diffkd_jax.models.contract import split as split_variables
from diffkd_jax.models.files import shapes_of
from diffkd_jax.train.build import build
from diffkd_jax.train.choose import batch_shapes

GIB = 2**30
CIFAR = [
    "wrn_40_2-wrn_40_1",
    "resnet56-resnet20",
    "resnet32x4-resnet8x4",
    "cifar_resnet50-cifar_mobilenet_v2",
    "resnet32x4-shufflenet_v1",
    "resnet32x4-shufflenet_v2",
]
ALL = [f"imagenet:{p}" for p in imagenet.PAIRS] + [f"cifar100:{p}" for p in CIFAR]


def lower(name, batch, method="diffkd"):
    """One training step of ``<config>:<pair>`` at full size, not compiled yet."""
    file, _, argument = name.partition(":")
    config = importlib.import_module(f"configs.{file}").get_config(argument)
    config.method, config.data.batch_size = method, batch
    group = min(batch, config.train.norm_group_size)
    config.train.norm_group_size = group
    shape = (config.data.image_size or 32,) * 2 + (3,)
    split, classes = Split(batch, lambda rows: {}), config.data.num_classes
    meta = {"num_classes": classes, "channels": 3, "image_size": list(shape[:2])}
    normalise = make_normalise(config.data, 3)
    data = Data(
        split,
        split,
        meta,
        shape,
        shape,
        {},
        {"label": np.zeros(1, np.int32)},
        lambda batch: {**batch, "image": normalise(batch["image"])},
    )
    run = build(config, data)
    pictures = batch_shapes(data, batch)
    pictures["image"] = jax.ShapeDtypeStruct((batch, *shape), np.uint8)
    teacher = {}
    if run.teacher is not None:
        shapes = shapes_of(run.teacher, shape)
        folded = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        image = jax.ShapeDtypeStruct((1, *shape), np.float32)
        params, state = run.teacher.freeze(*split_variables(folded), {"image": image})
        teacher = {"params": params, **state}
    return run.step.lower(run.shapes(), teacher, pictures)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=ALL, help="<config>:<pair>")
    parser.add_argument("--batch", type=int, default=32, help="pictures a device")
    parser.add_argument("--memory", action="store_true", help="compile, for memory")
    arguments = parser.parse_args()
    batch = arguments.batch
    print("| pair | GFLOP a picture | undistilled | arguments, GiB | temporary, GiB |")
    print("|---|---|---|---|---|")
    for name in arguments.names:
        steps = [lower(name, batch, method) for method in ("diffkd", "none")]
        cells = [f"{s.cost_analysis()['flops'] / batch / 1e9:.3g}" for s in steps]
        if arguments.memory:
            memory = steps[0].compile().memory_analysis()
            held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
            cells += [f"{held / GIB:.2f}", f"{temporary / GIB:.2f}"]
        print(f"| {name} | {' | '.join(cells + [''] * (4 - len(cells)))} |", flush=True)


if __name__ == "__main__":
    main()
