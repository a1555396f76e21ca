"""Computes how denoising moves features, in the plane of the teacher's features."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ...core.tap_block import refine
from ...core.taps import Tap, lookup
from ...core.train_state import TrainState
from ..run import Run, student_variables
from .examples import first_examples, jit_once

MOST_EXAMPLES_DRAWN = 256


def trace_denoising(run: Run, state: TrainState) -> dict[str, dict[str, np.ndarray]]:
    """Computes how each tap that denoises moves features, as points in a plane.

    The plane is that of the first two principal components of the teacher's features.
    The features are those of the first examples of the evaluation split, averaged over
    space.

    Args:
      run: a finished run.
      state: its last state.

    Returns:
      The points to draw, by tap, see
      :func:`diffkd_jax.train.outputs.plots.draw_trajectory`. {} if no tap denoises.
    """
    if run.teacher is None:
        return {}
    image = {
        "image": run.data.normalise(first_examples(run, MOST_EXAMPLES_DRAWN))["image"]
    }
    if not len(image["image"]):
        return {}
    compiled, key = jit_once(run.devices), jax.random.key(state.seed)
    sides = (
        (run.student.infer, student_variables(state), "student"),
        (run.teacher.infer, run.teacher_variables, "teacher"),
    )

    def block(name: str, tap: Tap, outputs: Sequence[Any]) -> tuple[Any, ...]:
        owner = tap.share or name
        return (
            functools.partial(refine, tap),
            state.params["distiller"][owner],
            state.model_state["distiller"][owner],
            key,
            *outputs,
        )

    shapes = [jax.eval_shape(infer, variables, image) for infer, variables, _ in sides]
    taps = {}
    for name, tap in run.method.taps.items():
        pair = lookup(shapes[0], tap.student), lookup(shapes[1], tap.teacher)
        if jax.eval_shape(*block(name, tap, pair))[1]:  # it denoises
            taps[name] = tap
    if not taps:
        return {}
    outputs = []
    for infer, variables, side in sides:
        tapped = lambda v, b, infer=infer, side=side: {
            name: lookup(infer(v, b), getattr(tap, side)) for name, tap in taps.items()
        }
        outputs.append(compiled(tapped)(variables, image))
    points = {}
    for name, tap in taps.items():
        function, *arguments = block(name, tap, [tapped[name] for tapped in outputs])
        refined, sown = compiled(function)(*arguments)
        refined, steps = jax.tree.map(
            lambda x: np.asarray(x, float), (refined, sown[0])
        )
        teacher = np.nan_to_num(_pool(refined.teacher))
        centre = teacher.mean(0)
        _, _, axes = np.linalg.svd(teacher - centre, full_matrices=False)
        # One example, or one channel, spans no plane: the second component is 0.
        axes = np.concatenate([axes, np.zeros((1, axes.shape[1]))])[:2]
        project = lambda x, c=centre, a=axes: (_pool(x) - c) @ a.T
        points[name] = {
            "teacher": project(refined.teacher),
            "denoised": project(refined.student),
            "steps": np.stack([project(step) for step in steps]),
        }
    return points


def _pool(x: np.ndarray) -> np.ndarray:
    """Returns the means of maps over space, and other features unchanged."""
    return x.mean((1, 2)) if x.ndim == 4 else x
