"""The study's config: the quickstart of segmentation, with a longer-trained teacher."""

from diffkd_jax.configs import segmentation_quickstart


def get_config(argument: str = ""):
    config = segmentation_quickstart.get_config()
    config.name = "scenes-study"
    config.teacher.epochs, config.train.epochs = 10.0, 6.0
    config.eval_every_epochs = config.train.epochs
    if argument not in ("", "teacher"):
        raise ValueError(f"study: found {argument!r}, expected 'teacher' or nothing")
    if argument == "teacher":
        config.method = "none"
        config.student.model = config.teacher.model
        config.student.options = config.teacher.options
        config.train.epochs = config.eval_every_epochs = config.teacher.epochs
    return config
