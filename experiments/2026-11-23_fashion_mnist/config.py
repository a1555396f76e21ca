"""The study's config: a tiny student on the embedded Fashion-MNIST subset."""

from diffkd_jax.configs import quickstart


def get_config(argument: str = ""):
    config = quickstart.get_config()
    config.name = "fashion-study"
    config.student.model = "resnet8"
    config.student.options = {"channels": (4, 4, 8, 8)}
    config.teacher.model = "resnet14"
    config.teacher.options = {"channels": (16, 16, 32, 32)}
    config.teacher.epochs = 30.0
    config.train.epochs = 40.0
    config.eval_every_epochs = 5.0
    if argument == "teacher":
        config.method = "none"
        config.student.model = config.teacher.model
        config.student.options = config.teacher.options
        config.train.epochs = config.teacher.epochs
    return config
