"""Object detection with DiffKD in minutes, with nothing to download.

    python -m diffkd_jax.main --config=detection_quickstart

Scenes of 128 pixels are composed of the embedded pieces of clothing, on backgrounds
that are drawn; each piece has a box and one of 10 classes. A RetinaNet on a ResNet-18
of a quarter width is trained once, then distilled into one on a ResNet-10 of an eighth,
on two levels of the pyramid. ``:compare`` runs the baselines too, ``:smoke`` two steps
of it all.
"""

from diffkd_jax.config import base, parse_argument

LEVELS = ("p3", "p4")


def get_config(argument: str = ""):
    what, size = parse_argument(
        "detection_quickstart", argument, ["compare"], ["smoke"]
    )
    config = base()
    config.name = "detection-quickstart"
    config.task.name = "detection"
    config.task.options = {"size_limits": (16.0, 32.0)}
    config.data.name = "scene_boxes"
    config.data.augment = "resize_flip"
    config.data.train_size, config.data.resize = (128, 128), 128
    config.data.options = {"count": 4000}
    config.data.batch_size, config.data.eval_batch_size = 16, 50
    config.data.mean, config.data.std = (0.5,), (0.25,)
    shared = {
        "levels": LEVELS,
        "anchor_sizes": (16.0, 32.0),
        "norm_train": True,
        "rounded_anchors": False,
    }
    config.teacher.model = "retinanet_resnet18"
    config.teacher.options = shared | {
        "width": 16,
        "fpn_channels": 32,
        "tower_depth": 2,
    }
    config.student.model = "retinanet_resnet10"
    config.student.options = shared | {
        "width": 8,
        "fpn_channels": 32,
        "tower_depth": 1,
    }
    config.teacher.epochs, config.train.epochs = 10.0, 4.0
    config.eval_every_epochs = 2.0
    config.method = "diffkd_fpn"
    config.methods.diffkd_fpn.levels = LEVELS
    config.methods.mse_fpn.levels = config.methods.fgd.levels = LEVELS
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 2e-3
    config.optimizer.weight_decay, config.optimizer.clip_norm = 1e-4, 10.0
    config.schedule.name = "cosine"
    if what == "compare":
        config.name = "detection-compare"
        config.compare = ("none", "mse_fpn", "diffkd_fpn")
    if size == "smoke":
        config.name += "-smoke"
        config.data.options.count, config.data.batch_size = 32, 4
        config.data.eval_batch_size = 8
        config.train.max_steps, config.log_every_steps = 2, 1
        config.teacher.epochs = 1.0
        for method in ("diffkd_fpn", "mse_fpn", "fgd"):
            config.methods[method].levels = ("p4",)
    return config
