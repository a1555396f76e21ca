r"""COCO: the students of the paper's tables 4 and 5 whose networks exist here.

    python -m diffkd_jax.main --config=coco:STUDENT,METHOD \
        --config.data.path=COCO --config.teacher.init=TEACHER \
        --config.student.init=BACKBONE --config.student.init_into=backbone

| student | paper, val AP: teacher, alone, FGD, DiffKD, with dagger |
|---|---|
| retinanet_r50 (default) | 38.9, 37.4, 39.6, 39.7, 39.8 |
| fcos_r50 | 40.8, 38.5, 42.1, 42.4, 42.5 |
| faster_r50 | 39.8, 38.4, 40.4, 40.6, 40.7 |

The teacher of each student is the same detector on a ResNet-101.

Methods: diffkd_fpn (default), mse_fpn, fgd, none. diffkd_fpn distils every level of the
pyramid with MSE and weight 5, without an autoencoder. The results with a dagger use an
"attention-based MSE" that the paper does not define. Here it is
``--config.methods.diffkd_fpn.distance=attention_mse``. ``kd_boxes`` adds the regression
KD of RetinaNet with weight 1, as in MasKD. The one of Faster R-CNN is missing: it needs
the teacher's head on the student's proposals. ``inherit`` starts the student's pyramid
and heads with the weights of the teacher, as FGD and MasKD do. The paper does not say
whether it does.

Recipe (the 2x schedule of MMDetection, which the paper names):

* 24 epochs of steps of 16 images;
* SGD with momentum 0.9 and weight decay 1e-4;
* learning rate 0.02 (RetinaNet and FCOS 0.01), multiplied by 0.1 at epochs 16 and 22,
  with a warm-up of 500 steps from a thousandth;
* gradients clipped to a norm of 35 (FGD);
* shorter side 800 (FCOS: 640 or 800), longer side at most 1333, and mirroring of half
  of the images;
* batches of images of one orientation, on canvases of 800x1344;
* stem and first stage frozen, batch norms with their running statistics.

Deviations:

* Images are RGB with the mean and standard deviation of ImageNet.
* Strides are in the 3x3 convolutions. For FCOS, MMDetection uses Caffe's strides and
  mean.
* FCOS has torchvision's losses and torchvision's rule to keep detections. Its biases
  have the learning rate and the weight decay of the other weights.
* Adaptive pooling of boxes takes at most 4 points for each side of a bin.
* The candidates of a level are the best of all classes, not the best class of each
  position.
* Boxes with less than one pixel inside the image are left out of the annotation too.
* Networks and blocks see the padded area too. The log states its share.

Images without objects are evaluated but not trained on, as in MMDetection.

Missing: Cascade Mask R-CNN as a teacher (needs cascaded heads and masks), RetinaNet on
ResNeXt-101 as a teacher (``resnext101_32x8d`` is not a backbone of a detector here yet)
and RepPoints (needs deformable convolutions). Weights of MMDetection cannot be read. A
teacher is a run of this config, such as ``coco:retinanet_r101,none``, or a file of
torchvision, which offers ResNet-50s.

Cost: multiply-adds of the forward pass for an image of 800x1344 are 249, 215 and 216 G
for the students, 329, 294 and 295 G for the teachers, and 31, 31 and 124 G for the
blocks of DiffKD. The last number is higher because the maps p2 to p5 are four times as
large. ``--config.methods.diffkd_fpn.remat=true`` saves memory in the blocks, see
``experiments/bench``. The recipe has not been run on COCO yet.

``COCO`` holds ``annotations/instances_{train,val}2017.json``, ``train2017`` and
``val2017``. For TFDS use ``--config.data.name=tfds/coco/2017
--config.data.train_split=train --config.data.eval_split=validation``. ``smoke`` runs
two small steps on embedded scenes.
"""

from diffkd_jax.config import base, parse_argument

DETECTORS = {"retinanet": 0.01, "fcos": 0.01, "faster_rcnn": 0.02}  # learning rates
STUDENTS = {
    f"{short}_r{depth}": (name, f"resnet{depth}")
    for short, name in (
        ("retinanet", "retinanet"),
        ("fcos", "fcos"),
        ("faster", "faster_rcnn"),
    )
    for depth in (50, 101)
}
OPTIONS = {
    "retinanet": {
        "extra": "c5",
        "relu_before_extra": False,
        "rounded_anchors": False,
        "nominal_strides": True,
    },
    "fcos": {"point_offset": 0.5, "level_scales": True, "nominal_strides": True},
    "faster_rcnn": {
        "rounded_anchors": False,
        "nominal_strides": True,
        "clamp_below": True,
        "min_overlap": 0.3,
        "proposals": (1000, 1000),
        "aligned": True,
        "sampling_ratio": None,
    },
}
TASKS = {
    "retinanet": {"by_batch": True, "clamp_below": True, "to_truth": 0.0},
    "fcos": {},
    "faster_rcnn": {"beta": 0.0, "clamp_below": True},
}
STEPS_PER_EPOCH = 117_266 // 16  # images of train2017 with objects
# Patterns of all weights outside the backbone.
HEADS = {
    "retinanet": ("fpn/*", "class_*", "box_*"),
    "fcos": ("fpn/*", "class_*", "box_*", "centreness_*", "scale_*"),
    "faster_rcnn": ("fpn/*", "rpn_*", "head_*", "class_*", "box_*"),
}
# FGD's temperature, alpha, beta, gamma, lambda, from its published configs.
FGD = {
    "retinanet": (0.5, 1e-3, 5e-4, 5e-4, 5e-6),
    "fcos": (0.8, 1.6e-3, 8e-4, 8e-4, 8e-6),
    "faster_rcnn": (0.5, 5e-5, 2.5e-5, 5e-5, 5e-7),
}


def get_config(argument: str = ""):
    """Returns the config for the argument that follows the name and a colon."""
    config = base()
    student, method, inherit, boxes, smoke = parse_argument(
        "coco", argument, STUDENTS, config.methods, ["inherit"], ["kd_boxes"], ["smoke"]
    )
    student, config.method = student or "retinanet_r50", method or "diffkd_fpn"
    kind, body = STUDENTS[student]
    config.name = f"coco-{student}"
    config.task.name = "detection"
    config.task.options = TASKS[kind]
    config.teacher.model = f"{kind}_resnet101"
    config.student.model = f"{kind}_{body}"
    config.teacher.options = config.student.options = OPTIONS[kind]
    config.teacher.min_score = 0.36
    levels = ("p2", "p3", "p4", "p5") if kind == "faster_rcnn" else None
    for name in ("diffkd_fpn", "mse_fpn", "fgd"):
        if levels:
            config.methods[name].levels = levels
    names = ("temperature", "alpha", "beta", "gamma", "relation")
    config.methods.fgd.update(dict(zip(names, FGD[kind], strict=True)))
    if boxes:
        if (kind, config.method) != ("retinanet", "diffkd_fpn"):
            raise ValueError(
                f"coco: found 'kd_boxes' for {student},{config.method}, expected "
                "retinanet_r50 or retinanet_r101 and diffkd_fpn"
            )
        config.methods.diffkd_fpn.box_weight = 1.0
    if inherit:
        config.student.inherit = HEADS[kind]
    config.data.name, config.data.num_classes = "coco", 80
    config.data.train_split, config.data.eval_split = "train2017", "val2017"
    config.data.augment = "resize_flip"
    config.data.resize, config.data.resize_longest = 800, 1333
    config.data.train_size = config.data.canvas = (800, 1344)
    config.data.two_canvases = True
    config.data.batch_size, config.data.eval_batch_size = 16, 16
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.num_workers = 16
    config.train.epochs = 24.0
    config.optimizer.learning_rate = rate = DETECTORS[kind]
    config.optimizer.weight_decay, config.optimizer.clip_norm = 1e-4, 35.0
    config.optimizer.frozen = ("backbone/stem*", "backbone/stage1*")
    config.schedule.boundaries = (16, 22)
    config.schedule.warmup_epochs = 500 / STEPS_PER_EPOCH
    config.schedule.warmup_start = rate / 1000
    if kind == "fcos":  # as in FGD and MasKD
        config.data.train_resize = (640, 800)
        config.schedule.warmup_start = rate / 3
    config.log_every_steps = 50
    if smoke:
        config.name += "-smoke"
        config.data.name, config.data.options = "scene_boxes", {"count": 32}
        config.data.train_split, config.data.eval_split = "train", "test"
        config.data.channels, config.data.two_canvases = 3, False
        config.data.resize, config.data.resize_longest = 64, 96
        config.data.train_resize = (48, 64)
        config.data.train_size = config.data.canvas = (64, 96)
        config.data.batch_size, config.data.eval_batch_size = 2, 2
        config.data.num_workers, config.data.num_classes = 0, 10
        config.train.epochs, config.train.max_steps = 2.0, 2
        config.log_every_steps = 1
        config.teacher.epochs, config.teacher.min_score = 1.0, None
        config.schedule.warmup_epochs = 0.0
        config.optimizer.learning_rate *= 0.01
        config.teacher.model = config.student.model = f"{kind}_resnet18"
        small = {"width": 8, "fpn_channels": 32}
        if kind == "faster_rcnn":
            small |= {"head_channels": 32, "samples": 16, "proposals": (32, 32)}
        else:
            small |= {"tower_depth": 1}
        config.teacher.options = config.student.options = OPTIONS[kind] | small
        for name in ("diffkd_fpn", "mse_fpn", "fgd"):
            config.methods[name].levels = ("p5",)
    return config
