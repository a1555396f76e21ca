"""Builds the optimizer and the learning-rate schedule of a config."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from ..config.training import Optimizer, Schedule
from ..named import call, find
from ..weights.initial import frozen_mask


def make_schedule(
    options: Schedule, peak: float, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """Returns the learning rate as a function of the step, with an optional warm-up.

    The warm-up is linear, and its steps count towards the schedule, as in timm: after
    them the rate is what it would be without a warm-up. The paper's strategies A1 and
    B1 use "step", B2 "exponential" and B3 "cosine". Cityscapes uses "poly".

    Args:
      options: the section ``schedule`` of a config; its lengths are in epochs.
      peak: the largest learning rate.
      steps_per_epoch: updates for each epoch.
      total_steps: updates in all.

    Returns:
      ``step -> learning rate``.

    Raises:
      ValueError: the interval of "exponential" is shorter than one step.

    >>> options = Schedule(name="cosine", end=0.0)
    >>> rate = make_schedule(options, 0.1, steps_per_epoch=5, total_steps=10)
    >>> [round(float(rate(step)), 3) for step in (0, 5, 10)]
    [0.1, 0.05, 0.0]
    """
    main: Callable[..., Any] = optax.constant_schedule(peak)
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
        # The number of steps divided by itself may exceed 1 in compiled code, and the
        # root of a negative number is NaN.
        main = lambda step: jnp.where(step < total_steps, fall(step), options.end)
    warmup_steps = round(options.warmup_epochs * steps_per_epoch)
    if not warmup_steps:
        return main
    ramp = optax.linear_schedule(options.warmup_start, peak, warmup_steps)
    return lambda step: jnp.where(step < warmup_steps, ramp(step), main(step))


def _scales(
    boundaries: Sequence[float], steps_per_epoch: int, factor: float
) -> dict[int, float]:
    """Returns factors by step, multiplied if boundaries round to the same step."""
    scales: dict[int, float] = {}
    for epoch in boundaries:
        step = round(epoch * steps_per_epoch)
        scales[step] = scales.get(step, 1.0) * factor
    return scales


def make_optimizer(
    options: Optimizer, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Builds the optimizer that the section ``optimizer`` of a config names.

    The paper's strategies A1 and B1 use "sgd", B2 "rmsprop" and B3 "adamw". "sgd" and
    "rmsprop" add the weight decay to the gradient, "adamw" to the update. "rmsprop" is
    TensorFlow's: epsilon is inside the root, the average of squares starts at one, and
    the learning rate is inside the momentum. Gradients are clipped by their global norm
    before anything else. With ``optimizer.decay_norms_and_biases`` one-dimensional
    parameters decay too. Parameters of the student that ``optimizer.frozen`` names keep
    their values; their batch statistics do not.

    Args:
      options: the section ``optimizer`` of a config.
      schedule: ``step -> learning rate``.

    Returns:
      The optimizer. If the name is the import path of your own function, the function
      is called with the schedule, and the weight decay is added to the gradient.

    Raises:
      ValueError: the name is an import path, and no function there returns an
        optimizer.

    >>> optimizer = make_optimizer(Optimizer(name="sgd"), optax.constant_schedule(0.1))
    >>> type(optimizer).__name__
    'GradientTransformationExtraArgs'
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
    else:  # the user's function of the schedule
        make = find(options.name, {}, "optimizer.name")
        optimizer = call(make, {}, "optimizer.name", schedule)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise ValueError(
                f"optimizer.name: found {options.name!r}, which gives "
                f"{type(optimizer).__name__}, expected an optax.GradientTransformation"
            )
        parts += [decay, optimizer]
    if options.frozen:
        frozen = functools.partial(frozen_mask, patterns=options.frozen)
        parts.append(optax.masked(optax.set_to_zero(), frozen))
    return optax.chain(*parts)


def _has_two_dimensions(params: PyTree) -> PyTree:
    """Marks the parameters of two or more dimensions, which weight decay applies to."""
    return jax.tree.map(lambda p: np.ndim(p) > 1, params)
