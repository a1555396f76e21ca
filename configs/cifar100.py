r"""CIFAR-100 with recipe A1 and the pairs of the paper's table 9.

    python -m diffkd_jax.main --config=cifar100:wrn_40_2-wrn_40_1 \
        --config.data.path=DIR

``DIR`` holds the files ``train`` and ``test`` of the Python version. The argument is
``<teacher>-<student>``, any two names of ``diffkd_jax.models.MODELS``. The teacher is
trained first, once, with the same recipe, unless ``--config.teacher.init`` names one.
``--config.method=kd`` and the other keys of ``config.methods`` run the baselines.
``:smoke`` runs two steps on embedded images.

| argument | paper: teacher, student alone, KD, DiffKD (top-1) | GFLOP |
|---|---|---|
| wrn_40_2-wrn_40_1 | 75.61, 71.98, 73.54, 74.09 | 1.20 |
| resnet56-resnet20 | 72.34, 69.06, 70.66, 71.92 | 0.50 |
| resnet32x4-resnet8x4 | 79.42, 72.50, 73.33, 76.72 | 3.49 |
| cifar_resnet50-cifar_mobilenet_v2 | 79.34, 64.6, 67.35, 69.21 | 4.23 |
| resnet32x4-shufflenet_v1 | 79.42, 70.5, 74.07, 76.57 | 2.38 |
| resnet32x4-shufflenet_v2 | 79.42, 71.82, 74.45, 77.52 | 2.40 |

GFLOP counts the operations of a training step with DiffKD for each image, as XLA
reports them (``experiments/bench/step_cost.py``). 240 epochs are 12 million images.
Under the assumption of a sustained 10 TFLOP/s this takes 24 minutes for 1.20 GFLOP and
70 minutes for 3.49 GFLOP, without the training of the teacher. One device is enough. A
run uses all devices of a host; several hosts start as in ``configs/imagenet.py``.

In the last three pairs the maps have different sizes (4x4 and 2x2, 8x8 and 4x4).
Neither the paper nor the official code has a rule for them. Here the larger map, the
teacher's, is averaged over 2x2. DIST, on whose code the official code is built, trains
the last three students with a learning rate of 0.01. The paper does not say so, and
0.05 is kept here. The paper does not state the weights of the losses on CIFAR either.
They are all 1, as on ImageNet. The results are not reproduced yet.
"""

from diffkd_jax.config import cifar, shrink


def get_config(argument: str = "wrn_40_2-wrn_40_1"):
    """Returns the config for the argument that follows the name and a colon."""
    config = cifar(argument, "cifar100")
    config.data.mean = (0.5071, 0.4867, 0.4408)
    config.data.std = (0.2675, 0.2565, 0.2761)
    return shrink(config) if argument == "smoke" else config
