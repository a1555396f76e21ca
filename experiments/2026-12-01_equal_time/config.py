"""The study's config: ``config.py:small``, ``:large`` or ``:teacher``.

The students are ResNet-8 with 2,646 and 20,372 parameters.
"""

from diffkd_jax.configs import quickstart

from diffkd_jax.config import parse_argument

STUDENTS = {"small": (4, 4, 8, 8), "large": (14, 14, 16, 28)}


def get_config(argument: str = "small"):
    """Returns the config for the argument that follows the name and a colon."""
    (who,) = parse_argument("config", argument, ["small", "large", "teacher"])
    config = quickstart.get_config()
    config.name = f"equal-time-{who}"
    config.data.name, config.data.eval_split = "npz", "valid"
    config.num_devices = 1
    teacher = {"model": "resnet14", "options": {"channels": (16, 16, 32, 32)}}
    config.teacher.model, config.teacher.options = teacher.values()
    if who == "teacher":
        config.method = "none"
        config.student.model, config.student.options = teacher.values()
    else:
        config.student.model = "resnet8"
        config.student.options = {"channels": STUDENTS[who]}
    return config
