"""Optimizer and learning-rate schedule from their sections of a config."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..config.training import Optimizer, Schedule
from ..named import call, find
from ..weights.initial import frozen_mask


def make_schedule(
    options: Schedule, peak: float, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """Learning rate by step, after an optional linear warm-up.

    The warm-up counts towards the schedule, as in timm: what follows is what it would
    be without it. Recipes: A1 and B1 "step", B2 "exponential", B3 "cosine", Cityscapes
    "poly".

    Args:
      options: shape and length of its parts.
      peak: largest learning rate.
      steps_per_epoch: updates an epoch.
      total_steps: updates in all.

    Raises:
      ValueError: an interval below one step.
    """
    main: Callable = optax.constant_schedule(peak)
    if options.name == "step":
        scales = _scales(options.boundaries, steps_per_epoch, options.factor)
        main = optax.piecewise_constant_schedule(peak, scales)
    elif options.name == "exponential":
        interval = options.every_epochs * steps_per_epoch
        if round(interval) < 1:
            raise ValueError(
                f"schedule.every_epochs: found {options.every_epochs}, expected at "
                f"least one step, {1 / steps_per_epoch:.3g} epochs"
            )
        main = optax.exponential_decay(
            peak, round(interval), options.factor, staircase=True
        )
    elif options.name == "cosine":
        main = optax.cosine_decay_schedule(peak, total_steps, options.end / peak)
    elif options.name == "poly":
        fall = optax.polynomial_schedule(peak, options.end, options.power, total_steps)
        # Compiled, all steps divided by their number may exceed 1, and a root be none.
        main = lambda step: jnp.where(step < total_steps, fall(step), options.end)
    warmup_steps = round(options.warmup_epochs * steps_per_epoch)
    if not warmup_steps:
        return main
    ramp = optax.linear_schedule(options.warmup_start, peak, warmup_steps)
    return lambda step: jnp.where(step < warmup_steps, ramp(step), main(step))


def _scales(
    boundaries: Sequence[float], steps_per_epoch: int, factor: float
) -> dict[int, float]:
    """Factor by step; boundaries that round to one step all count."""
    scales: dict[int, float] = {}
    for epoch in boundaries:
        step = round(epoch * steps_per_epoch)
        scales[step] = scales.get(step, 1.0) * factor
    return scales


def make_optimizer(
    options: Optimizer, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer of a recipe: A1 and B1 "sgd", B2 "rmsprop", B3 "adamw".

    "sgd" and "rmsprop" add the weight decay to the gradient, "adamw" to the update.
    "rmsprop" is TensorFlow's: epsilon inside the root, the average of squares starts at
    one, the learning rate is inside the momentum. Gradients are clipped by their global
    norm before anything else. ``optimizer.decay_norms_and_biases`` says whether
    parameters of one dimension decay too, ``optimizer.frozen`` which of the student's
    stay as they are; their batch statistics do not.

    Raises:
      ValueError: an import path of no function of the schedule. One's own optimizer
        has the weight decay added to the gradient.
    """
    mask = None if options.decay_norms_and_biases else _has_two_dimensions
    momentum = options.momentum or None
    decay = optax.add_decayed_weights(options.weight_decay, mask=mask)
    parts = []
    if options.clip_norm:
        parts.append(optax.clip_by_global_norm(options.clip_norm))
    if options.name == "sgd":
        sgd = optax.sgd(schedule, momentum=momentum, nesterov=options.nesterov)
        parts += [decay, sgd]
    elif options.name == "rmsprop":
        rmsprop = optax.rmsprop(
            schedule,
            decay=options.decay,
            eps=options.epsilon,
            initial_scale=1.0,
            momentum=momentum,
        )
        parts += [decay, rmsprop]
    elif options.name == "adamw":
        adamw = optax.adamw(schedule, weight_decay=options.weight_decay, mask=mask)
        parts.append(adamw)
    else:  # one's own, of the schedule
        make = find(options.name, {}, "optimizer.name")
        made = call(make, {}, "optimizer.name", schedule)
        if not isinstance(made, optax.GradientTransformation):
            raise ValueError(
                f"optimizer.name: found {options.name!r}, which gives "
                f"{type(made).__name__}, expected an optax.GradientTransformation"
            )
        parts += [decay, made]
    if options.frozen:
        frozen = functools.partial(frozen_mask, patterns=options.frozen)
        parts.append(optax.masked(optax.set_to_zero(), frozen))
    return optax.chain(*parts)


def _has_two_dimensions(params: Any) -> Any:
    return jax.tree.map(lambda p: np.ndim(p) > 1, params)
