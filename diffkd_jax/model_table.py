"""Prints the table of models, computed from the code.

python -m diffkd_jax.model_table > diffkd_jax/models/README.md
"""

import flax.linen as nn
import jax
import numpy as np
from absl import app

from .models import (
    CIFAR_MODELS,
    DETECTION_MODELS,
    IMAGENET_MODELS,
    MODELS,
    SEGMENTATION_MODELS,
    build_network,
)
from .models.model import by_path
from .models.options import option_names
from .train.outputs.summary import count_multiply_adds, count_parameters
from .weights.torch.names.classifiers import references

# Files that the importer takes: name, and ImageNet top-1 in % as its authors published
# it (torchvision 0.29: its metadata; Swin-L: DiffKD, table 3; EfficientNet-Lite:
# the README of its TensorFlow original), of segmentation the mean IoU in % on COCO's
# images with the 21 classes of VOC, of detection the box AP in % on COCO. Other files
# of the same definitions load too.
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
    "deeplabv3_resnet50": (("deeplabv3_resnet50_coco-cd0a2569.pth", 66.4),),
    "deeplabv3_resnet101": (("deeplabv3_resnet101_coco-586e9e4e.pth", 67.4),),
    "retinanet_resnet50": (("retinanet_resnet50_fpn_coco-eeacb38b.pth", 36.4),),
    "fcos_resnet50": (("fcos_resnet50_fpn_coco-99b0c9b7.pth", 39.2),),
    "faster_rcnn_resnet50": (("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 37.0),),
}
HEAD = """\
# Models

Made by `python -m diffkd_jax.model_table`. Every model takes images `[b, h, w, c]` of
any number of channels and returns a dict of named arrays, which taps name: the maps
below (`height x width x channels`), `pooled` and `logits`; networks of segmentation
have no `pooled`, and their `logits` are maps; of detection they return `fpn`,
`class_logits`, `box_codes`, `anchors` by level of a pyramid. Multiply-adds are those of
convolutions and matrix products, for one image. "Names of" lists the PyTorch
definitions whose weights load: `python -m diffkd_jax.import_weights --help`. Their
files are not part of this project.

Options: `num_classes`, `dtype` (`"bfloat16"`: computes in it, parameters, norms and
logits stay float32), `norm_group_size`, and where they apply `output_stride` (8 or 16
by dilation), `dropout`, `drop_path`, `zero_init_last_norm`, `width`, `deep_stem`.
Networks of segmentation besides: `aspp_channels`, `rates`, `aspp_dropout`,
`head_dropout`, `aux`, `aux_dropout`, `align_corners`. They are those of the paper's
table 6, in CIRKD's definition; torchvision's files need the options `deep_stem=False`,
`align_corners=False`, `head_dropout=0.0`.

Networks of detection: `width` (channels of the stem), `norm_train` (statistics of the
batch in training), `stride_in_first`, `fpn_channels`, `levels`, `extra`,
`relu_before_extra`, those with anchors `anchor_sizes`, `ratios`, `rounded_anchors`,
RetinaNet and FCOS `tower_depth`, RetinaNet `scales`, FCOS `point_offset`,
`level_scales`, and Faster R-CNN those of proposals and of pooling; the docstring of
each says what gives mmdet's variant. They are torchvision's, and its files have 91
classes: 80 of COCO, others that no image has, and the background. In Faster R-CNN
the latter is not counted (`num_classes=90`). The files of RetinaNet and Faster R-CNN
were trained with an epsilon of 0 in the backbone's norms; here it is 1e-5.

A file of a backbone alone starts a network of segmentation or detection with
`student.init_into=backbone`.
"""


def row(name: str, size: tuple[int, int], classes: int, files: bool = False) -> str:
    """Returns the line of one model; computes shapes only.

    Args:
      name: name of the model.
      size: ``(h, w)`` of the image, in pixels.
      classes: number of classes.
      files: whether the line names files of weights.

    Returns:
      A line of a Markdown table.

    >>> row("resnet8", (32, 32), 100).split("|")[1:4]
    [' resnet8 ', ' 0.08 ', ' 0.013 ']
    """
    module = build_network(name, num_classes=classes)
    image = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    outputs, variables = jax.eval_shape(
        module.init_with_output, jax.random.key(0), image
    )
    count = count_parameters(variables["params"])
    cost = count_multiply_adds(lambda v, x: module.apply(v, x), variables, image)
    taps = [
        f"`{tap}` {'x'.join(map(str, x.shape[1:]))}"
        for tap, x in sorted(by_path(outputs).items(), key=lambda item: _order(item[0]))
        if x.ndim == 4
    ]
    weights = [f"{file} ({score:g})" for file, score in WEIGHTS.get(name, ())]
    cells = [
        name,
        f"{count / 1e6:.2f}",
        f"{cost / 1e9:.3f}",
        ", ".join(taps),
        ", ".join(_names_of(name, module)),
        *([", ".join(weights)] if files else []),
    ]
    return f"| {' | '.join(cells)} |"


def _names_of(name: str, module: nn.Module) -> list[str]:
    """Returns the definitions that name a model's weights, also for a plain stem."""
    names = references(module)
    if name in SEGMENTATION_MODELS and "deep_stem" in option_names(MODELS[name]):
        names |= references(build_network(name, num_classes=1, deep_stem=False))
    return list(names)


def _order(tap: str) -> tuple[bool, bool, str]:
    """Returns a key that sorts the stem first, then the stages, ``features`` last."""
    return tap == "features", not tap.startswith("st"), tap.replace("stem", "st")


def table() -> str:
    """Returns the whole page in Markdown."""
    columns = ["model", "params, M", "multiply-adds, G", "maps", "names of"]
    small = [n for n in SEGMENTATION_MODELS if "channels" in option_names(MODELS[n])]
    large = [n for n in SEGMENTATION_MODELS if n not in small]
    tiny = [n for n in DETECTION_MODELS if n.endswith("resnet10")]
    boxes = [n for n in DETECTION_MODELS if n not in tiny]
    parts = []
    for models, size, classes, score in (
        (IMAGENET_MODELS, (224, 224), 1000, "top-1"),
        (CIFAR_MODELS, (32, 32), 100, ""),
        (large, (512, 1024), 19, "mean IoU"),
        (small, (64, 64), 11, ""),
        (boxes, (800, 1344), 80, "box AP"),
        (tiny, (128, 128), 10, ""),
    ):
        heads = [*columns, *([f"weights (published {score}, %)"] if score else [])]
        title = f"## {size[0]}x{size[1]}, {classes} classes"
        lines = [title, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [row(name, size, classes, bool(score)) for name in models]
        parts.append("\n".join(lines))
    return "\n\n".join([HEAD.strip(), *parts]) + "\n"


def main(argv: list[str]) -> None:
    """Prints the page.

    Args:
      argv: the command line, which has no arguments.
    """
    del argv
    print(table(), end="")


if __name__ == "__main__":
    app.run(main)
