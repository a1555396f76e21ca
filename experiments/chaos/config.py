"""A run of seconds with all phases: a teacher, DiffKD, evaluations, checkpoints."""

from diffkd_jax.config import base, shrink


def get_config():
    config = shrink(base())
    config.name = "chaos"
    config.data.limit, config.data.batch_size = 320, 16
    config.student.model, config.student.options = "resnet8", {"channels": (4, 4, 4, 8)}
    config.teacher.model, config.teacher.options = "resnet8", {"channels": (4, 4, 4, 8)}
    config.method = "diffkd_logits"
    config.methods.diffkd_logits.num_steps = 1
    config.teacher.epochs, config.train.epochs = 1.0, 3.0  # of 20 steps
    config.train.max_steps = 0
    config.eval_every_epochs = 0.25
    config.num_devices = 1
    config.distributed.lost_seconds = 5.0
    return config
