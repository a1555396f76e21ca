"""The table of models, from the code.

python -m diffkd_jax.model_table > diffkd_jax/models/README.md
"""

import jax
import numpy as np
from absl import app

from .models import CIFAR_MODELS, IMAGENET_MODELS, build
from .models.references import references
from .train.summary import count_parameters, multiply_adds

# Files that the importer takes: name, and ImageNet top-1 in % as its authors published
# it (torchvision 0.29: its metadata; Swin-L: DiffKD, table 3; EfficientNet-Lite:
# the README of its TensorFlow original). Other files of the same definitions load too.
WEIGHTS: dict[str, tuple[tuple[str, float], ...]] = {
    "resnet18": (("resnet18-f37072fd.pth", 69.76),),
    "resnet34": (("resnet34-b627a593.pth", 73.31),),
    "resnet50": (
        ("resnet50-0676ba61.pth", 76.13),
        ("resnet50-11ad3fa6.pth", 80.86),
    ),
    "resnet101": (
        ("resnet101-63fe2227.pth", 77.37),
        ("resnet101-cd907fc2.pth", 81.89),
    ),
    "resnet152": (
        ("resnet152-394f9c45.pth", 78.31),
        ("resnet152-f82ba261.pth", 82.28),
    ),
    "resnext101_32x8d": (
        ("resnext101_32x8d-8ba56ff5.pth", 79.31),
        ("resnext101_32x8d-110c445d.pth", 82.83),
    ),
    "resnext101_64x4d": (("resnext101_64x4d-173b62eb.pth", 83.25),),
    "mobilenet_v2": (
        ("mobilenet_v2-b0353104.pth", 71.88),
        ("mobilenet_v2-7ebf99e0.pth", 72.15),
    ),
    "efficientnet_b0": (("efficientnet_b0_rwightman-7f5810bc.pth", 77.69),),
    "efficientnet_lite0": (("efficientnet-lite0-57934424.pth", 75.1),),
    "efficientnet_lite1": (("efficientnet-lite1-77cc7160.pth", 76.7),),
    "efficientnet_lite2": (("efficientnet-lite2-9656183e.pth", 77.6),),
    "swin_t": (("swin_t-704ceda3.pth", 81.47),),
    "swin_l": (("swin_large_patch4_window7_224_22kto1k.pth", 86.3),),
}
HEAD = """\
# Models

Made by `python -m diffkd_jax.model_table`. Every model takes images `[b, h, w, c]` of
any number of channels and returns a dict of named arrays, which taps name: the maps
below (`height x width x channels`), `pooled` and `logits`. Multiply-adds are those of
convolutions and matrix products, for one picture. "Names of" lists the PyTorch
definitions whose weights load: `python -m diffkd_jax.import_weights --help`. Their
files are not part of this project.

Options: `num_classes`, `dtype` (`"bfloat16"`: computes in it, parameters, norms and
logits stay float32), `norm_group_size`, and where they apply `output_stride` (8 or 16
by dilation), `dropout`, `drop_path`, `zero_init_last_norm`, `width`.
"""


def row(name: str, size: int, classes: int) -> str:
    """The line of one model, without computing anything.

    >>> row("resnet8", 32, 100).split("|")[1:4]
    [' resnet8 ', ' 0.08 ', ' 0.013 ']
    """
    module = build(name, num_classes=classes)
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    outputs, variables = jax.eval_shape(
        module.init_with_output, jax.random.key(0), image
    )
    count = count_parameters(variables["params"])
    cost = multiply_adds(lambda v, x: module.apply(v, x), variables, image)
    taps = [
        f"`{tap}` {'x'.join(map(str, x.shape[1:]))}"
        for tap, x in sorted(outputs.items(), key=lambda item: _order(item[0]))
        if x.ndim == 4
    ]
    files = [f"{file} ({top1:g})" for file, top1 in WEIGHTS.get(name, ())]
    cells = [
        name,
        f"{count / 1e6:.2f}",
        f"{cost / 1e9:.3f}",
        ", ".join(taps),
        ", ".join(references(module)),
        *([", ".join(files)] if name in IMAGENET_MODELS else []),
    ]
    return f"| {' | '.join(cells)} |"


def _order(tap: str) -> tuple[bool, bool, str]:
    """The stem, the stages, then what follows them, ``features`` last."""
    return tap == "features", not tap.startswith("st"), tap.replace("stem", "st")


def table() -> str:
    """The whole page, Markdown."""
    columns = ["model", "params, M", "multiply-adds, G", "maps", "names of"]
    parts = []
    weights = "weights (published top-1, %)"
    for models, size, classes, own in (
        (IMAGENET_MODELS, 224, 1000, [*columns, weights]),
        (CIFAR_MODELS, 32, 100, columns),
    ):
        title = f"## {size}x{size}, {classes} classes"
        lines = [title, "", f"| {' | '.join(own)} |", "|---" * len(own) + "|"]
        parts.append("\n".join([*lines, *(row(n, size, classes) for n in models)]))
    return "\n\n".join([HEAD.strip(), *parts]) + "\n"


def main(argv: list[str]) -> None:
    del argv
    print(table(), end="")


if __name__ == "__main__":
    app.run(main)
