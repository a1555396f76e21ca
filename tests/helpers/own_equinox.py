"""A student in Equinox, as a user writes it."""

import equinox as eqx
import jax

from diffkd_jax.models import from_equinox


class EquinoxNet(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, channels, classes, width, key):
        keys = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(channels, width, 3, stride=2, padding=1, key=keys[0])
        self.norm = eqx.nn.BatchNorm(width, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.1)
        self.head = eqx.nn.Linear(width, classes, key=keys[1])

    def __call__(self, image, state, *, key=None):
        x, state = self.norm(self.conv(image.transpose(2, 0, 1)), state)
        x = jax.nn.relu(x)
        logits = self.head(self.dropout(x.mean((1, 2)), key=key))
        outputs = {"features": x.transpose(1, 2, 0), "logits": logits}
        return outputs | {"depth": logits[:1]}, state


def in_equinox(meta, *, width=8):
    make = lambda key: eqx.nn.make_with_state(EquinoxNet)(
        meta["channels"], meta["num_classes"], width, key
    )
    return from_equinox(make)
