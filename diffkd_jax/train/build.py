"""Builds a run, which is a tuple of values and pure functions, from a config."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ..backend.compiler import compiler_options
from ..config.resolve import resolve
from ..config.sections import Config
from ..core.distill import Distillation, distillation
from ..core.step import TrainState, as_seed, diffkd_step, init_state
from ..core.taps import Refined
from ..data import Data, open_data, target_ranks
from ..data.pipeline import batches as pipeline
from ..data.pipeline.groups import rows_of_same_group
from ..data.pipeline.read_ahead import Batches
from ..methods import Method
from ..models.model import Model, by_path
from ..tasks import TARGETS, Evidence, Task
from ..weights.initial import frozen_mask
from .cluster import sharding
from .cluster.signals import Asked, never
from .components import (
    batch_shapes,
    check_student,
    compared,
    make_method,
    make_model,
    make_task,
    outputs_of,
)
from .evaluate import Other, inferring, make_evaluate, make_others, reading
from .optimizer import make_optimizer, make_schedule
from .plan import Plan, make_plan

LOG = logging.getLogger(__name__)


def student_variables(state: TrainState) -> dict[str, PyTree]:
    """Returns the variables of the student, as its model takes them.

    Args:
      state: a state of the run.

    Returns:
      ``params`` and the collections that the student carries, such as ``batch_stats``.
    """
    return {"params": state.params["student"], **state.model_state["student"]}


class Scoring(NamedTuple):
    """The parts of a run that score a trained model, without any that train.

    Attributes:
      data: see :class:`diffkd_jax.data.Data`.
      task: see :class:`diffkd_jax.tasks.Task`.
      mesh: the devices.
      place: ``tree -> shardings``, for states and for variables.
      evaluate: ``(model, variables, *, asked) -> (scores, Evidence)`` over the
        evaluation split. It compiles one program for each model. ``asked`` says whether
        to stop, see :mod:`diffkd_jax.train.cluster.signals`.
    """

    data: Data
    task: Task
    mesh: jax.sharding.Mesh
    place: Callable[[Any], Any]
    evaluate: Callable[..., tuple[dict[str, float], Evidence]]


class Run(NamedTuple):
    """A run, built from a config: its data, task, models and compiled functions.

    Attributes:
      title: name of the run and of its method.
      data: see :class:`diffkd_jax.data.Data`.
      task: see :class:`diffkd_jax.tasks.Task`.
      method: see :class:`diffkd_jax.methods.Method`.
      student: the untrained student.
      teacher: None if nothing is distilled. Its ``variables`` are None until it is
        loaded, see :mod:`diffkd_jax.train.teacher`.
      mesh: the devices.
      place: ``tree -> shardings``, for states and for variables.
      plan: number of steps, and when to log, evaluate and save.
      schedule: ``step -> learning rate``.
      init: ``() -> TrainState``, compiled; the state depends only on the seed.
      shapes: ``() -> TrainState`` of shapes with their shardings, to compile a step
        ahead of time.
      step: ``(state, teacher_variables, batch) -> (state, metrics)``, compiled.
      task_step: the same without distillation. It makes the steps that
        ``plan.distill_every`` leaves undistilled.
      pure_step: ``step`` before compilation, for your own training loop. Its arguments,
        such as ``teacher_apply``, can be replaced with ``functools.partial``.
      evaluate: see :class:`Scoring`.
      others: further evaluations by name.
      batches: ``(first step, asked) -> generator`` of this process's training batches.
        Close the generator if it is not used up.
      examples: ``count -> batch``, the first examples of the evaluation split, not
        normalised.
      compared: for each tap the names of its two outputs, and whether its distance
        reads the target. The task's check takes it.
      refined: for each tap the shapes of the two features that it compares.
    """

    title: str
    data: Data
    task: Task
    method: Method
    student: Model
    teacher: Model | None
    mesh: jax.sharding.Mesh
    place: Callable[[Any], Any]
    plan: Plan
    schedule: Callable
    init: Callable[[], TrainState]
    shapes: Callable[[], Any]
    step: Callable
    task_step: Callable
    pure_step: functools.partial
    evaluate: Callable[..., tuple[dict[str, float], Evidence]]
    others: Mapping[str, Other]
    batches: Callable[..., Batches]
    examples: Callable[[int], Mapping]
    compared: Mapping[str, tuple]
    refined: Mapping[str, Refined]

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
        return jax.device_put(variables, self.place(variables))


def build_scoring(config: Config, data: Data | None = None) -> Scoring:
    """Opens the data and builds the functions that score a trained model.

    It traces no model.

    Args:
      config: a resolved config.
      data: opened data, to be used instead of those that ``config.data`` names.

    Returns:
      The parts that score a model.

    Raises:
      ValueError: fields of the config do not fit the data.
      FileNotFoundError: the data are missing.
    """
    if data is None:
        try:
            data = open_data(config.data)
        except ValueError:  # perhaps caused by fields for another kind of target
            data_ranks = target_ranks(config.data.name)
            _check_target(config, TARGETS.get(config.task.name), data_ranks)
            raise
    shared = dict(config.train) | dict(config.mix)
    task = make_task(config.task, shared, data)
    data_ranks = {name: x.ndim - 1 for name, x in data.target.items()}
    _check_target(config, task.target, data_ranks)
    mesh = sharding.make_mesh(config.num_devices, config.mesh.fsdp)
    place = functools.partial(
        sharding.place, mesh=mesh, min_bytes=config.mesh.fsdp_min_bytes
    )
    return Scoring(
        data, task, mesh, place, make_evaluate(config.data, data, mesh, task)
    )


def _check_target(
    config: Config,
    task_ranks: Mapping[str, int] | None,
    data_ranks: Mapping[str, int] | None,
) -> None:
    """Raises ValueError if the data's targets are of another kind than the task's.

    Ranks are given by name, without the batch axis; None if they are not known.
    """
    if not task_ranks or data_ranks is None:
        return
    if any(data_ranks.get(name) != rank for name, rank in task_ranks.items()):
        ending = lambda rank: "is" if rank == 1 else "es"
        axes = lambda ranks: ", ".join(
            f"{name} of {rank} ax{ending(rank)}" for name, rank in ranks.items()
        )
        raise ValueError(
            f"data.name: found {config.data.name!r}, whose targets are "
            f"{axes(data_ranks)}; expected {axes(task_ranks)} for task.name "
            f"{config.task.name!r}"
        )


def build(config: Any, data: Data | None = None) -> Run:
    """Builds all of a run except its workdir; trains nothing and writes nothing.

    Args:
      config: a config as recipes make it, or a resolved one.
      data: opened data, to be used instead of those that ``config.data`` names.

    Returns:
      The run, its student untrained and its teacher not loaded.

    Raises:
      ValueError: fields have values that are not allowed, or that do not fit each other
        or the data.
      FileNotFoundError: the data are missing.
    """
    config = resolve(config)
    data, task, mesh, place, evaluate = build_scoring(config, data)
    if config.mode == "train" and config.data.train_split == config.data.eval_split:
        LOG.warning(
            "data.eval_split: found %r, the training split, so scores are better than "
            "on new examples",
            config.data.eval_split,
        )
    group = config.train.norm_group_size
    method = make_method(config, group)
    student = make_model("student", config.student, data, group)
    teacher = make_model("teacher", config.teacher, data) if method.taps else None
    plan, planned_steps = make_plan(config, data)
    batch = batch_shapes(data, plan.batch_size)
    student_out = outputs_of("student", student, batch, train=True)
    losses = check_student(task, student, student_out, batch)
    teacher_out = {} if teacher is None else outputs_of("teacher", teacher, batch)
    distill, outputs = distillation(method.taps), (student_out, teacher_out)
    tap_outputs, refined = compared(method, distill, *outputs, batch["target"], losses)
    if teacher is not None:
        check_teacher(task, data, teacher, tap_outputs)
    _check_frozen(config.optimizer.frozen, student, batch)
    peak = config.optimizer.learning_rate
    schedule = make_schedule(config.schedule, peak, plan.steps_per_epoch, planned_steps)
    weighted = (distill, method.weights)
    pure_step = _make_step(config, data, task, weighted, (student, teacher), schedule)
    init, shapes = _make_init(config, batch, pure_step, student, outputs, place)
    transform = lambda batch, draws: data.transform.train(batch, draws, config.data)
    models = (student, teacher)
    infers = tuple(None if m is None else inferring(task, m) for m in models)

    def batches(start: int, asked: Asked = never) -> Batches:
        return pipeline.train_batches(
            data.train,
            transform,
            batch_size=plan.batch_size,
            seed=config.seed,
            num_epochs=int(np.ceil(config.train.epochs)),
            start=start,
            **reading(config.data, asked),
        )

    def examples(count: int) -> Mapping:
        rows = rows_of_same_group(data.evaluation, 0)[:count]
        rows = rows[: len(rows) - len(rows) % max(group, 1)]
        if not len(rows):
            return {"image": np.zeros((0, *data.eval_shape), np.uint8)}
        batch = data.evaluation.fetch(rows)
        return data.transform.evaluate(batch, config.data)

    return Run(
        title=f"{config.name} {config.method}",
        data=data,
        task=task,
        method=method,
        student=student,
        teacher=teacher,
        mesh=mesh,
        place=place,
        plan=plan,
        # Without jit each operation of the schedule would be a program.
        schedule=jax.jit(schedule),
        init=init,
        shapes=shapes,
        step=sharding.jit_step(pure_step, mesh, place),
        task_step=sharding.jit_step(
            functools.partial(pure_step, distill=False), mesh, place
        ),
        pure_step=pure_step,
        evaluate=evaluate,
        others=make_others(config.evaluations, config.data, data, mesh, infers, plan),
        batches=batches,
        examples=examples,
        compared=tap_outputs,
        refined=refined,
    )


def _check_frozen(patterns: Sequence[str], student: Model, batch: Mapping) -> None:
    """Raises ValueError if a pattern names no parameter, or all of them are frozen."""
    if not patterns:
        return
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, _ = jax.eval_shape(student.init, key, batch)
    for pattern in patterns:
        if not any(jax.tree.leaves(frozen_mask(params, [pattern], ""))):
            raise ValueError(
                f"optimizer.frozen: found {pattern!r}, expected paths of the student "
                f"such as {sorted(by_path(params))[:3]}"
            )
    if all(jax.tree.leaves(frozen_mask(params, patterns, ""))):
        raise ValueError(
            f"optimizer.frozen: found {tuple(patterns)!r}, which leaves nothing of the "
            "student to train"
        )


def _make_step(
    config: Config,
    data: Data,
    task: Task,
    weighted: tuple[Distillation, Mapping],
    models: tuple[Model, Model | None],
    schedule: optax.Schedule,
) -> functools.partial:
    """Returns the training step as a pure function of state, teacher and batch."""
    (student, teacher), (distill, weights) = models, weighted

    def prepare(key: Array, batch: Any) -> Any:
        batch = data.normalise(batch)
        return batch if task.prepare is None else task.prepare(key, batch)

    def student_apply(params: PyTree, state: PyTree, batch: Any, key: Array) -> Any:
        return student.apply(params, state, batch, train=True, key=key)

    return functools.partial(
        diffkd_step,
        student_apply=student_apply,
        teacher_apply=(lambda variables, batch: {}) if teacher is None
        else teacher.infer,
        distillation=distill,
        task_loss=task.loss,
        optimizer=make_optimizer(config.optimizer, schedule),
        weights=weights,
        prepare=prepare,
        ema_decay=config.train.ema_decay,
        skip_nonfinite=config.train.max_skipped > 0,
    )  # fmt: skip


def check_teacher(
    task: Task, data: Data, teacher: Model, tap_outputs: Mapping[str, tuple]
) -> None:
    """Checks whether the task can use a teacher, if the task has such a check.

    Args:
      task: the task.
      data: the data.
      teacher: the untrained teacher, or the loaded one, whose file says more about it.
      tap_outputs: ``run.compared``.

    Raises:
      ValueError: the task cannot use this teacher.
    """
    if task.check is not None:
        task.check("teacher.init", teacher.meta, data.meta, tap_outputs)


def _make_init(
    config: Config,
    batch: Mapping,
    step: functools.partial,
    student: Model,
    outputs: tuple[Any, Any],
    place: Callable[[PyTree], PyTree],
) -> tuple[Callable[[], TrainState], Callable[[], Any]]:
    """Returns two functions: one makes a fresh state, the other returns its shapes.

    The state depends only on the seed, and is made directly in its final sharding.
    """
    parts = step.keywords
    # Its range is checked here, because `init` sees a traced value.
    seed = np.int32(as_seed(config.seed))

    def init(seed: Array) -> TrainState:
        key_student, key_distill = jax.random.split(jax.random.key(seed))
        params, state = student.init(key_student, batch)
        return init_state(
            key_distill,
            params,
            state,
            *outputs,
            distillation=parts["distillation"],
            optimizer=parts["optimizer"],
            ema=config.train.ema_decay > 0,
            seed=seed,
        )

    def shapes() -> Any:
        plain = jax.eval_shape(init, seed)
        return jax.tree.map(
            lambda x, sharding: x.update(sharding=sharding), plain, place(plain)
        )

    def compiled_init() -> TrainState:
        # The seed is an argument, so that another seed reuses the compiled program.
        compiled = jax.jit(
            init,
            out_shardings=place(jax.eval_shape(init, seed)),
            compiler_options=compiler_options(once=True),
        )
        return compiled(seed)

    return compiled_init, shapes
