"""What ``vs_pytorch.py`` compares, and numbers that are the same on both sides."""

import numpy as np

RATE, MOMENTUM = 1e-4, 0.9  # small: the steps that are timed train on one batch
SIDES = ("student", "teacher")
# Pictures, channels of student and teacher, of the latent, side of the maps (0: none).
BLOCKS = {
    "block-wrn": (64, 64, 128, None, 8),
    "block-r34": (8, 512, 512, 1024, 7),
    "block-logits": (64, 1000, 1000, None, 0),
}
# Pair, pictures, channels of student and teacher, of the latent, side, classes.
PAIRS = {
    "wrn": ("cifar100:wrn_40_2-wrn_40_1", 64, (64, 128, None, 8), 100),
    "r34": ("imagenet:r34-r18", 8, (512, 512, 1024, 7), 1000),
}
CASES = [*BLOCKS, "teacher-wrn", "teacher-r34", "step-wrn", "step-r34"]


def normal(what, *shape):
    """Normal numbers, the same ones for a name and a shape."""
    seed = list(f"{what} {shape}".encode())
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def features(what, batch, channels, side):
    """Maps as they come from a ReLU, or vectors."""
    if side:
        return np.maximum(normal(what, batch, side, side, channels), 0)
    return normal(what, batch, channels)


def noise(batch, channels, side):
    """Noise of student and of teacher, NHWC, and time steps."""
    drawn = normal("noise", batch, side or 1, side or 1, channels)
    return drawn, drawn[::-1].copy(), np.arange(batch) * 15 % 1000
