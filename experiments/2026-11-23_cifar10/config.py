"""The study's config: recipe A1 shortened, on 10,000 CIFAR-10 pictures."""

from diffkd_jax.configs import cifar10

EPOCHS = 6.0
TEACHER_EPOCHS = 24.0


def get_config(argument: str = ""):
    config = cifar10.get_config("wrn_16_2-wrn_16_1")
    config.name = "cifar10-study"
    config.data.limit = 10_000
    config.eval_every_epochs = 3.0
    config.train.epochs, config.teacher.epochs = EPOCHS, TEACHER_EPOCHS
    if argument == "teacher":
        config.method = "none"
        config.student = {"model": "wrn_16_2", "options": {}, "dtype": "float32"}
        config.train.epochs, config.eval_every_epochs = TEACHER_EPOCHS, 3.0
    # As in recipe A1: at 5/8, 6/8 and 7/8 of the run.
    config.schedule.boundaries = tuple(config.train.epochs * k / 8 for k in (5, 6, 7))
    return config
