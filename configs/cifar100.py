"""CIFAR-100, recipe A1 and the pairs of the paper's table 9.

    python -m diffkd_jax.main --config=configs/cifar100.py:wrn_40_2-wrn_40_1 \
        --config.data.path=DIR

``DIR`` holds the standard python files ``train`` and ``test``. The argument is
``<teacher>-<student>``, any two names of ``diffkd_jax.models.MODELS``. The teacher is
trained first, once, by the same recipe, unless ``--config.teacher.init`` names one.
``--config.method=kd`` and the other keys of ``config.methods`` are the baselines;
``:smoke`` runs two steps on embedded pictures.

Paper, top-1 of teacher, student alone, student by DiffKD: WRN-40-2 to WRN-40-1 75.61,
71.98, 74.09; ResNet-56 to ResNet-20 72.34, 69.06, 71.92; ResNet-32x4 to ResNet-8x4
79.42, 72.50, 76.72. Not reproduced yet. The remaining pairs of the table need backbones
that are not here yet. The paper does not state the weights of the losses on CIFAR;
they are all 1, as on ImageNet.
"""

from configs import common


def get_config(argument: str = "wrn_40_2-wrn_40_1"):
    config = common.cifar(argument, "cifar100")
    config.data.mean = (0.5071, 0.4867, 0.4408)
    config.data.std = (0.2675, 0.2565, 0.2761)
    return common.shrink(config) if argument == "smoke" else config
