"""Arithmetic and memory of a whole training step of the ImageNet pairs; runs none.

    python experiments/bench/step_cost.py r34-r18 r50-r34 --memory

Floating-point operations are those of the program before optimisation, counted by XLA
(a multiply-add is two). Memory is what the program, compiled for the platform at hand,
holds at once on one device: arguments (state, teacher, batch) and temporaries.
"""

import argparse

import jax
import numpy as np

from configs import imagenet
from diffkd_jax.data.split import Split
from diffkd_jax.train import setup, sharding
from diffkd_jax.train.loop import Loop

GIB = 2**30


def lower(pair, batch, method="diffkd"):
    """One training step of a pair at 224x224, not compiled yet."""
    config = imagenet.get_config(f"{pair},{method}")
    config.data.batch_size = batch
    config.train.norm_group_size = min(batch, config.train.norm_group_size)
    normalise = setup.transforms.make_normalise(config.data, 3)
    split = Split(1_281_167, lambda rows: {})
    names = tuple(map(str, range(1000)))
    data = setup.Data(split, split, names, (224, 224, 3), normalise)
    mesh = sharding.make_mesh(1)
    group = config.train.norm_group_size
    student = setup.make_model(config.student, data, group)
    teacher = setup.make_model(config.teacher, data)
    variables = jax.eval_shape(
        lambda key: teacher.module.init(key, np.zeros((1, 224, 224, 3), np.float32)),
        jax.random.key(0),
    )
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
    chosen = config.methods[method]
    taps = setup.make_taps(chosen, group)
    loop = Loop(
        config,
        None,
        data,
        mesh,
        student,
        teacher._replace(variables=zeros) if taps else None,
        taps,
        chosen,
        evaluate=None,
    )
    state = jax.eval_shape(loop.initial_state)
    batch_of = {
        "image": jax.ShapeDtypeStruct((batch, 224, 224, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((batch,), np.int32),
    }
    return loop.step.lower(state, loop.teacher_variables, batch_of)


def operations(lowered, batch):
    return lowered.cost_analysis()["flops"] / batch / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", default=list(imagenet.PAIRS))
    parser.add_argument("--batch", type=int, default=32, help="pictures a device")
    parser.add_argument("--memory", action="store_true", help="compile, for memory")
    arguments = parser.parse_args()
    print("| pair | GFLOP a picture | undistilled | arguments, GiB | temporary, GiB |")
    print("|---|---|---|---|---|")
    for pair in arguments.pairs:
        lowered = lower(pair, arguments.batch)
        alone = operations(lower(pair, arguments.batch, "none"), arguments.batch)
        cells = [f"{operations(lowered, arguments.batch):.1f}", f"{alone:.1f}", "", ""]
        if arguments.memory:
            memory = lowered.compile().memory_analysis()
            held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
            cells[2:] = [f"{held / GIB:.2f}", f"{temporary / GIB:.2f}"]
        print(f"| {pair} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
