"""Tree crowns from the air: real boxes of one class, small enough for a CPU.

    pip download --no-deps deepforest==2.1.0
    python experiments/tree_crowns/tiles.py deepforest-2.1.0-py3-none-any.whl TILES
    python -m diffkd_jax.main --config=tree_crowns --config.data.path=TILES

The package deepforest (Weinstein et al. 2019, MIT) holds labelled images of NEON sites.
The script cuts them into 87 tiles of 400 pixels to train on and 7 to test on. Any
folder with ``train/`` and ``test/``, in which VOC xml files lie beside the images, can
be used instead. The teacher, a RetinaNet on a ResNet-18 of half width, is trained
first. Then it is distilled into a RetinaNet on a ResNet-10 of a quarter width. No
result is claimed, because seven tiles are few. ``smoke`` runs two small steps on
embedded scenes.
"""

from diffkd_jax.config import base, parse_argument

LEVELS = ("p3", "p4")


def get_config(argument: str = ""):
    """Returns the config for the argument that follows the name and a colon."""
    config = base()
    method, smoke = parse_argument("tree_crowns", argument, config.methods, ["smoke"])
    config.name, config.method = "tree-crowns", method or "diffkd_fpn"
    config.task.name = "detection"
    config.task.options = {"most": 200}
    config.data.name, config.data.augment = "voc_boxes", "scale_crop_flip"
    config.data.train_size, config.data.canvas = (320, 320), (400, 400)
    config.data.scale, config.data.scale_step = (0.75, 1.25), 0.0
    config.data.batch_size, config.data.eval_batch_size = 8, 7
    config.data.mean, config.data.std = (0.45,), (0.22,)
    shared = {"levels": LEVELS, "anchor_sizes": (16.0, 32.0), "norm_train": True}
    config.teacher.model = "retinanet_resnet18"
    config.teacher.options = shared | {"width": 32, "fpn_channels": 64}
    config.teacher.options.tower_depth = 2
    config.student.model = "retinanet_resnet10"
    config.student.options = shared | {"width": 16, "fpn_channels": 32}
    config.student.options.tower_depth = 1
    config.teacher.epochs, config.train.epochs = 100.0, 50.0
    config.eval_every_epochs = 10.0
    for name in ("diffkd_fpn", "mse_fpn", "fgd"):
        config.methods[name].levels = LEVELS
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 1e-3
    config.optimizer.weight_decay, config.optimizer.clip_norm = 1e-4, 10.0
    config.schedule.name = "cosine"
    if smoke:
        config.name += "-smoke"
        config.data.name, config.data.options = "scene_boxes", {"count": 32}
        config.data.train_size, config.data.canvas = (96, 96), (128, 128)
        config.data.batch_size = 4
        config.train.max_steps, config.log_every_steps = 2, 1
        config.teacher.epochs = 1.0
        for name in ("diffkd_fpn", "mse_fpn", "fgd"):
            config.methods[name].levels = ("p4",)
    return config
