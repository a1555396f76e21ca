"""The value that describes a run: its config, its parts and its compiled functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from ..config.sections import Config
from ..core.taps import Refined
from ..core.train_state import TrainState
from ..data import Data
from ..methods import Method
from ..models.model import Model
from ..tasks import Evidence, Task
from .cluster.sharding import Devices
from .plan import Plan


class Scoring(NamedTuple):
    """The parts of a run that score a trained model, without any that train.

    Attributes:
      config: the resolved config.
      data: see :class:`diffkd_jax.data.Data`.
      task: see :class:`diffkd_jax.tasks.Task`.
      devices: the devices, and how arrays are split over them.
      evaluate: ``(model, variables, *, should_stop) -> (scores, Evidence)`` over the
        evaluation split. It compiles one program for each model. ``should_stop``
        returns the number of the signal to stop for, or 0.
    """

    config: Config
    data: Data
    task: Task
    devices: Devices
    evaluate: Callable[..., tuple[dict[str, float], Evidence]]


class FurtherEvaluation(NamedTuple):
    """An evaluation of student and teacher together, beside the task's own.

    Attributes:
      every: number of steps between two of these evaluations.
      evaluate: ``(student variables, teacher variables, *, should_stop) -> scores``.
    """

    every: int
    evaluate: Callable[..., dict[str, float]]


class Shapes(NamedTuple):
    """Shapes of a run's batches, outputs and state, as ``jax.ShapeDtypeStruct``.

    Attributes:
      batch: a normalised training batch, by name.
      student: the student's outputs for it.
      teacher: the teacher's outputs; {} without a teacher.
      losses: all losses of a step, by name.
      features: for each tap the two features that it compares.
      state: the ``TrainState``, with shardings, to compile a step ahead of time.
    """

    batch: Mapping[str, PyTree]
    student: PyTree
    teacher: PyTree
    losses: Mapping[str, PyTree]
    features: Mapping[str, Refined]
    state: Any


class Run(NamedTuple):
    """A run, built from a config by :func:`diffkd_jax.train.build.build`.

    Attributes:
      config: the resolved config.
      data: see :class:`diffkd_jax.data.Data`.
      task: see :class:`diffkd_jax.tasks.Task`.
      method: see :class:`diffkd_jax.methods.Method`.
      student: the untrained student.
      teacher: None if nothing is distilled. Its ``variables`` are None until it is
        loaded, see :mod:`diffkd_jax.train.teacher`.
      devices: the devices, and how arrays are split over them.
      plan: number of steps, the learning rate, and when to log, evaluate and save.
      shapes: shapes of batches, outputs, features and the state.
      init: ``() -> TrainState``, compiled; the state depends only on the seed.
      step: ``(state, teacher_variables, batch, distill=True) -> (state, metrics)``,
        compiled. With ``distill=False``, passed by position, it makes one of the steps
        that ``plan.distill_every`` leaves undistilled.
      pure_step: ``step`` before compilation, for your own training loop. Its arguments,
        such as ``teacher_apply``, can be replaced with ``functools.partial``.
      evaluate: see :class:`Scoring`.
      evaluations: further evaluations by name.
    """

    config: Config
    data: Data
    task: Task
    method: Method
    student: Model
    teacher: Model | None
    devices: Devices
    plan: Plan
    shapes: Shapes
    init: Callable[[], TrainState]
    step: Callable[..., Any]
    pure_step: functools.partial[Any]
    evaluate: Callable[..., tuple[dict[str, float], Evidence]]
    evaluations: Mapping[str, FurtherEvaluation]

    @property
    def title(self) -> str:
        """Returns the name of the run and of its method, for lines of the log."""
        return f"{self.config.name} {self.config.method}"

    @property
    def teacher_variables(self) -> Any:
        """Returns the teacher's variables on the devices, or ``{}`` without a teacher.

        Raises:
          ValueError: the teacher is not loaded.
        """
        if self.teacher is None:
            return {}
        if self.teacher.variables is None:
            raise ValueError(
                "run.teacher: found no variables, expected a loaded teacher: "
                "run._replace(teacher=load_teacher(path, run.teacher))"
            )
        variables = self.teacher.variables
        return jax.device_put(variables, self.devices.choose_shardings(variables))


class Fitted(NamedTuple):
    """The result of a training.

    Attributes:
      state: the state after the last step.
      history: scores of each evaluation, in order.
      evidence: evidence of the student's last evaluation.
      images_per_second: training speed since the call began, without compilation.
    """

    state: TrainState
    history: list[dict[str, float]]
    evidence: Evidence
    images_per_second: float


def student_variables(state: TrainState) -> dict[str, PyTree]:
    """Returns the variables of the student, as its model takes them.

    Args:
      state: a state of the run.

    Returns:
      ``params`` and the collections that the student carries, such as ``batch_stats``.
    """
    return {"params": state.params["student"], **state.model_state["student"]}


def ema_variables(state: TrainState) -> dict[str, PyTree]:
    """Returns the variables of the student's moving average.

    Args:
      state: a state that has one, so ``state.ema`` is not empty.

    Returns:
      ``params`` and the collections that the student carries.
    """
    return {"params": state.ema["params"], **state.ema["state"]}
