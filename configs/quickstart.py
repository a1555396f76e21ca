"""DiffKD on real images in minutes, without a download.

    python -m diffkd_jax.main --config=quickstart

Trains a ResNet on the embedded part of Fashion-MNIST as the teacher, once. Then distils
it into a small student. ``:compare`` also runs the baselines. ``:smoke`` runs two
steps.
"""

from diffkd_jax.config import base, parse_argument, shrink


def get_config(argument: str = ""):
    """Returns the config for the argument that follows the name and a colon."""
    (what,) = parse_argument("quickstart", argument, ["compare", "smoke"])
    config = base()
    config.name = "quickstart"
    config.data.name = "fashion_mnist_embedded"
    config.data.batch_size = 64
    config.data.padding = 2
    config.data.mean, config.data.std = (0.2860,), (0.3530,)
    config.teacher.model = "resnet14"
    config.teacher.epochs = 8.0
    config.student.model = "resnet8"
    config.student.options = {"channels": (8, 8, 8, 16)}
    config.train.epochs = 10.0
    config.schedule.name = "cosine"
    config.optimizer.learning_rate = 0.1
    config.optimizer.nesterov = True
    if what == "compare":
        config.name = "quickstart-compare"
        config.compare = ("none", "kd", "mse", "dist", "diffkd")
    return shrink(config) if what == "smoke" else config
