"""CIFAR-10, recipe A1 of the paper (which reports CIFAR-100 only).

    python -m diffkd_jax.main --config=cifar10:wrn_16_2-wrn_16_1 \
        --config.data.path=DIR

``DIR`` holds the standard python batches (``data_batch_1`` ... ``test_batch``), or the
same as lossless PNG sheets with label lists. See ``configs/cifar100.py`` for the rest.
A shortened run on a part of the pictures is ``experiments/2026-11-23_cifar10``.
"""

from diffkd_jax.config import cifar, shrink


def get_config(argument: str = "wrn_16_2-wrn_16_1"):
    config = cifar(argument, "cifar10")
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    return shrink(config) if argument == "smoke" else config
