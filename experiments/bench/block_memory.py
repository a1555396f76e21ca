"""Memory of DiffKD on a feature pyramid, with and without recomputing the predictor.

    PYTHONPATH=. python experiments/bench/block_memory.py [batch] [level ...]

Counts what the compiler sets aside for the value and the gradient of all losses of the
blocks, for maps of 256 channels of pictures of 800x1344; nothing is run.
"""

import sys

import jax
import jax.numpy as jnp

from diffkd_jax.core.distill import distillation
from diffkd_jax.methods import METHODS

PICTURE, CHANNELS = (800, 1344), 256
LEVELS = ("p3", "p4", "p5", "p6", "p7")


def memory(batch: int, levels: tuple[str, ...], remat: bool) -> int:
    """Bytes of temporary arrays."""
    sizes = {level: 2 ** int(level[1:]) for level in levels}
    maps = {
        level: jax.ShapeDtypeStruct(
            (batch, *(-(-side // stride) for side in PICTURE), CHANNELS), jnp.float32
        )
        for level, stride in sizes.items()
    }
    out = {"fpn": maps}
    distill = distillation(METHODS["diffkd_fpn"](levels=levels, remat=remat).taps)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(distill.init, key, out, out)

    def total(params, student, state, key, teacher):
        losses, state, _ = distill.loss(params, state, key, student, teacher)
        return sum(losses.values()), state

    gradient = jax.jit(jax.grad(total, (0, 1), has_aux=True))
    compiled = gradient.lower(params, out, state, key, out).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def main(batch: str = "1", *levels: str) -> None:
    chosen = levels or LEVELS
    for remat in (False, True):
        size = memory(int(batch), tuple(chosen), remat)
        print(f"{','.join(chosen)} x {batch}, remat {remat}: {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
