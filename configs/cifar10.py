r"""CIFAR-10 with recipe A1 of the paper, which reports CIFAR-100 only.

    python -m diffkd_jax.main --config=cifar10:wrn_16_2-wrn_16_1 \
        --config.data.path=DIR

``DIR`` holds the batches of the Python version (``data_batch_1`` ... ``test_batch``),
or the same images as lossless PNG sheets with lists of labels. ``configs/cifar100.py``
describes the rest. ``experiments/2026-11-23_cifar10`` is a short run on a part of the
images.
"""

from diffkd_jax.config import cifar, shrink


def get_config(argument: str = "wrn_16_2-wrn_16_1"):
    """Returns the config for the argument that follows the name and a colon."""
    config = cifar(argument, "cifar10")
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    return shrink(config) if argument == "smoke" else config
