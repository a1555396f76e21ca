"""The study's config: the quickstart of detection, evaluated at its end alone."""

from diffkd_jax.configs import detection_quickstart


def get_config(argument: str = ""):
    config = detection_quickstart.get_config()
    config.name = "scene-boxes-study"
    config.train.epochs = config.eval_every_epochs = 4.0
    if argument not in ("", "teacher"):
        raise ValueError(f"study: found {argument!r}, expected 'teacher' or nothing")
    if argument == "teacher":
        config.method = "none"
        config.student.model = config.teacher.model
        config.student.options = config.teacher.options
        config.train.epochs = config.eval_every_epochs = config.teacher.epochs
    return config
