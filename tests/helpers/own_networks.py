"""Networks of one's own for each task: built-in ones behind a norm on ``[b, c]``."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from diffkd_jax.models import build_network


class Gated(nn.Module):
    """A network whose image is scaled by features that a batch norm sees as vectors."""

    inner: Any

    @nn.compact
    def __call__(self, x, *, train=False):
        vector = nn.Dense(4)(jnp.mean(x, (1, 2)))
        gate = nn.Dense(1)(nn.BatchNorm(not train)(vector))
        return self.inner(x * (1 + gate[:, None, None]), train=train)


def gated(num_classes, network, **options):
    return Gated(build_network(network, num_classes=num_classes, **options))
