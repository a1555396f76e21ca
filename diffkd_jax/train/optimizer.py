"""Optimizer and learning-rate schedule from a config."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("constant", "step", "cosine")


def make_schedule(config, steps_per_epoch: int, total_steps: int) -> optax.Schedule:
    """Learning rate by step, after an optional linear warm-up from zero.

    Args:
      config: ``schedule`` (name, boundaries in epochs, factor, warmup_epochs) and
        ``optimizer.learning_rate``.
      steps_per_epoch: updates an epoch.
      total_steps: updates in all.

    Raises:
      ValueError: an unknown schedule.
    """
    peak = config.optimizer.learning_rate
    name, warmup = config.schedule.name, config.schedule.warmup_epochs
    warmup_steps = round(warmup * steps_per_epoch)
    if name == "constant":
        main = optax.constant_schedule(peak)
    elif name == "step":
        # The warm-up counts towards the boundaries, which are epochs of the run.
        main = optax.piecewise_constant_schedule(
            peak,
            {
                round(epoch * steps_per_epoch) - warmup_steps: config.schedule.factor
                for epoch in config.schedule.boundaries
            },
        )
    elif name == "cosine":
        main = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup_steps))
    else:
        raise ValueError(f"schedule.name: found {name!r}, expected one of {SCHEDULES}")
    if not warmup_steps:
        return main
    ramp = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([ramp, main], [warmup_steps])


def make_optimizer(config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay (recipes A1 and B1).

    ``optimizer.decay_norms_and_biases`` says whether parameters of one dimension
    decay too.
    """
    options = config.optimizer
    mask = None if options.decay_norms_and_biases else _has_two_dimensions
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay, mask=mask),
        optax.sgd(
            schedule, momentum=options.momentum or None, nesterov=options.nesterov
        ),
    )


def _has_two_dimensions(params: Any) -> Any:
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)
