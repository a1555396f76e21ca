"""Models named by import path: somebody else's, and a backbone made small."""

from typing import Any

import flax.linen as nn

from diffkd_jax.models.backbones.swin import Swin


class Own(nn.Module):
    num_classes: int
    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(self.width, (3, 3), (4, 4), dtype=self.dtype, name="conv")(x)
        x = nn.relu(nn.BatchNorm(not train, name="norm")(x))
        logits = nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))
        return {"features": x, "logits": logits}


def make(num_classes, width=4, dtype=None):
    return Own(num_classes, width, dtype)


def small_swin(num_classes, drop_path):
    return Swin((1, 1, 1, 1), 32, num_classes, drop_path=drop_path)
