r"""Cityscapes: the students of the paper's table 6 with its recipe.

    python -m diffkd_jax.main --config=cityscapes:STUDENT,METHOD \
        --config.data.path=CITYSCAPES --config.teacher.init=TEACHER \
        --config.student.init=BACKBONE --config.student.init_into=backbone

| student | paper, val mIoU: alone, CWD, DiffKD | parameters |
|---|---|---|
| deeplabv3_r18 (default) | 74.21, 75.55, 77.78 | 13.6 M |
| deeplabv3_r18,scratch | 65.17, 67.74, 74.45 | 13.6 M |
| pspnet_r18 | 72.55, 74.36, 75.83 | 12.9 M |
| deeplabv3_mbv2 | 73.12, 74.66, 75.71 | 3.2 M |

The teacher is always DeepLabV3 on a ResNet-101 (78.07, 61.1 M parameters). Users of the
public code of related papers report 76.2 and 76.3 for the first student alone. So
compare with a run of your own with the method "none".

Methods: diffkd_map (default), cwd, dist, kd, mse, none. diffkd_map applies DIST to the
denoised map of 19 channels and the teacher's map, at an eighth of the image's size,
without an autoencoder. The paper does not say whether the auxiliary map is distilled
too. ``--config.methods.diffkd_map.aux_weight=0.4`` does this, as the code of DIST does.

Recipe (from the code of DIST, which the paper follows):

* 40,000 steps of 16 crops of 512x1024;
* SGD with momentum 0.9 and weight decay 5e-4;
* learning rate from 0.02 to 1e-4 by a polynomial of power 0.9;
* scales of 0.5 to 2, and mirroring of half of the images;
* weight 0.4 for the loss of the auxiliary head;
* batch norm over all 16 crops.

Deviations: images are RGB with the mean and standard deviation of ImageNet, as the
backbones here expect. The official ones take BGR minus a mean. The student is evaluated
every 2.2 epochs (400 steps).

Cost: the convolutions of the teacher take 516 G multiply-adds for an image of 512x1024,
and 2,063 G at 1024x2048. The students take 517, 489 and 107 G at 1024x2048. So this
recipe needs accelerators. The map of 19 channels at an eighth of the image costs DiffKD
about 50 MB for each image in the backward pass. The recipe has not been run on
Cityscapes yet.

``CITYSCAPES`` holds ``leftImg8bit`` and ``gtFine``. ``labelIds`` are mapped to the 19
classes; ``labelTrainIds`` are not needed. For TFDS use
``--config.data.name=tfds/cityscapes --config.data.eval_split=validation``. ``TEACHER``
and ``BACKBONE`` are files of weights, see the table of models. The deep stem needs a
backbone that has one. ``scratch`` starts without a backbone. ``smoke`` runs two small
steps on embedded scenes.
"""

from diffkd_jax.config import base, parse_argument

STUDENTS = {
    "deeplabv3_r18": "deeplabv3_resnet18",
    "pspnet_r18": "pspnet_resnet18",
    "deeplabv3_mbv2": "deeplabv3_mobilenet_v2",
}
STEPS, STEPS_PER_EPOCH = 40_000, 2975 // 16


def get_config(argument: str = ""):
    """Returns the config for the argument that follows the name and a colon."""
    config = base()
    student, method, scratch, smoke = parse_argument(
        "cityscapes", argument, STUDENTS, config.methods, ["scratch"], ["smoke"]
    )
    student, config.method = student or "deeplabv3_r18", method or "diffkd_map"
    config.name = f"cityscapes-{student}{'-scratch' if scratch else ''}"
    config.task.name = "segmentation"
    config.teacher.model = "deeplabv3_resnet101"
    config.teacher.min_score = 0.76
    config.student.model = STUDENTS[student]
    config.data.name, config.data.eval_split = "cityscapes", "val"
    config.data.num_classes = 19
    config.data.augment = "scale_crop_flip"
    config.data.train_size, config.data.canvas = (512, 1024), (1024, 2048)
    config.data.scale, config.data.scale_step = (0.5, 2.0), 0.1
    config.data.batch_size, config.data.eval_batch_size = 16, 8
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.num_workers = 16
    config.train.epochs = STEPS / STEPS_PER_EPOCH
    config.eval_every_epochs = 400 / STEPS_PER_EPOCH
    config.optimizer.learning_rate, config.optimizer.weight_decay = 0.02, 5e-4
    config.schedule.name, config.schedule.end = "poly", 1e-4
    config.methods.kd.update(tau=1.0, weight=1.0, task_weight=1.0)
    if smoke:
        config.name += "-smoke"
        config.data.name, config.data.options = "scenes", {"count": 32}
        config.data.num_classes, config.data.eval_split = 11, "test"
        config.data.channels = 3
        config.data.train_size, config.data.canvas = (33, 65), (64, 128)
        config.data.batch_size, config.data.eval_batch_size = 2, 2
        config.data.num_workers, config.train.epochs = 0, 2.0
        config.train.max_steps, config.log_every_steps = 2, 1
        config.eval_every_epochs = 1.0
        config.teacher.epochs, config.teacher.min_score = 1.0, None
        # The smallest network, because it is trained here.
        config.teacher.model = "deeplabv3_mobilenet_v2"
    return config
