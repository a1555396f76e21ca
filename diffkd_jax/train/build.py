"""Builds a run, which is a tuple of values and pure functions, from a config."""

import functools
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from ..backend.compiler import compiler_options
from ..backend.stored_traces import find_store, keep_init_trace, keep_step_traces
from ..config.recorded import import_paths
from ..config.resolve import resolve
from ..config.sections import Config, Teacher
from ..core.distill import Distillation, distillation
from ..core.losses import warm_up
from ..core.step import diffkd_step
from ..core.train_state import TrainState, as_seed, init_state
from ..data import Data, open_data, target_ranks
from ..methods.method import TeacherSource
from ..models.model import Model
from ..tasks import TARGETS
from .check import check, check_evaluations, check_student, check_target
from .cluster import sharding
from .components import batch_shapes, make_method, make_model, make_task, trace_outputs
from .evaluate import make_evaluate, make_further_evaluations
from .optimizer import make_optimizer
from .plan import Plan, make_plan
from .run import Run, Scoring, Shapes

LOG = logging.getLogger(__name__)
# Fields on which no trace depends, by section. They differ between runs of one recipe.
NOT_TRACED = {
    "": ("name", "seed"),
    "teacher": ("init", "workdir"),
    "train": ("diagnose_every",),
}


def build_scoring(config: Config, data: Data | None = None) -> Scoring:
    """Opens the data and builds the functions that score a trained model.

    It builds and traces no model.

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
            check_target(config, TARGETS.get(config.task.name), data_ranks)
            raise
    shared = dict(config.train) | dict(config.mix)
    task = make_task(config.task, shared, data)
    data_ranks = {name: x.ndim - 1 for name, x in data.target.items()}
    check_target(config, task.target, data_ranks)
    mesh = sharding.make_mesh(config.num_devices, config.mesh.fsdp)
    return Scoring(
        config=config,
        data=data,
        task=task,
        devices=sharding.Devices(mesh, config.mesh.fsdp_min_bytes),
        evaluate=make_evaluate(config, data, task, mesh),
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
        or the data, see :func:`diffkd_jax.train.check.check`.
      FileNotFoundError: the data are missing.
    """
    config = resolve(config)
    scoring = build_scoring(config, data)
    data, task, devices = scoring.data, scoring.task, scoring.devices
    if config.mode == "train" and config.data.train_split == config.data.eval_split:
        LOG.warning(
            "data.eval_split: found %r, the training split, so scores are better than "
            "on new examples",
            config.data.eval_split,
        )
    group = config.train.norm_group_size
    method = make_method(config, group)
    config = config.replace(teacher=_teacher_section(config, method.teacher))
    student = make_model("student", config.student, data, group)
    teacher = make_model("teacher", config.teacher, data) if method.taps else None
    check_evaluations(config, data, teacher)
    plan = make_plan(config, data)
    warmup = round(config.train.distill_warmup_epochs * plan.steps_per_epoch)
    method = method._replace(weights=warm_up(method.weights, method.taps, warmup))
    distill = distillation(method.taps)
    batch = batch_shapes(data, plan.batch_size)
    student_out = trace_outputs("student", student, batch, train=True)
    task_losses = check_student(task, student, student_out, batch)
    teacher_out = {} if teacher is None else trace_outputs("teacher", teacher, batch)
    tap_losses, features = distill.shapes(student_out, teacher_out, batch["target"])
    pure_step = _make_step(scoring, student, teacher, distill, method.weights, plan)
    outputs, losses = (student_out, teacher_out), {**task_losses, **tap_losses}
    store = _find_store(scoring, plan)
    init, state = _make_init(config, batch, outputs, pure_step, student, devices, store)
    run = Run(
        config=config,
        data=data,
        task=task,
        method=method,
        student=student,
        teacher=teacher,
        devices=devices,
        plan=plan,
        shapes=Shapes(batch, *outputs, losses, features, state),
        init=init,
        step=sharding.jit_step(
            keep_step_traces(pure_step, store), devices, plan.total_steps
        ),
        pure_step=pure_step,
        evaluate=scoring.evaluate,
        evaluations=make_further_evaluations(scoring, student, teacher, plan),
    )
    check(run)
    return run


def _find_store(scoring: Scoring, plan: Plan) -> pathlib.Path | None:
    """Returns the path at which the run's traced programs are kept, or None.

    None are kept for several devices, or if a function is given by import path, since
    its code may change.
    """
    config, data = scoring.config.model_dump(), scoring.data
    if scoring.devices.mesh.size > 1 or import_paths(config):
        return None
    for section, names in NOT_TRACED.items():
        fields = config[section] if section else config
        for name in names:
            del fields[name]
    shapes = {"train": data.train_shape, "eval": data.eval_shape}
    steps = (plan.steps_per_epoch, plan.total_steps)
    return find_store(
        {"config": config, "meta": data.meta, "shapes": shapes, "steps": steps}
    )


def _teacher_section(config: Config, source: TeacherSource) -> Teacher:
    """Returns the section ``teacher`` for the source that the method asks for."""
    if source == "config":
        return config.teacher
    teacher = config.teacher.replace(init="", weights="", min_score=None)
    if source == "random":
        return teacher
    student = config.student
    return teacher.replace(
        model=student.model, options=student.options, dtype=student.dtype, num_classes=0
    )


def _make_step(
    scoring: Scoring,
    student: Model,
    teacher: Model | None,
    distill: Distillation,
    weights: Mapping[str, Any],
    plan: Plan,
) -> functools.partial[Any]:
    """Returns the training step as a pure function of state, teacher and batch."""
    config, data, task = scoring.config, scoring.data, scoring.task

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
        optimizer=make_optimizer(config.optimizer, plan.schedule),
        weights=weights,
        prepare=prepare,
        ema_decay=config.train.ema_decay,
        skip_nonfinite=config.train.max_skipped > 0,
    )  # fmt: skip


def _make_init(
    config: Config,
    batch: Mapping[str, PyTree],
    outputs: tuple[PyTree, PyTree],
    step: functools.partial[Any],
    student: Model,
    devices: sharding.Devices,
    store: pathlib.Path | None,
) -> tuple[Callable[[], TrainState], Any]:
    """Returns a function that makes a fresh state, and the shapes of the state.

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

    shapes = jax.eval_shape(init, seed)
    shardings = devices.choose_shardings(shapes)
    compiled = jax.jit(
        keep_init_trace(init, shapes, store),
        out_shardings=shardings,
        compiler_options=compiler_options(once=True),
    )
    shapes = jax.tree.map(lambda x, s: x.update(sharding=s), shapes, shardings)
    # The seed is an argument, so that another seed reuses the compiled program.
    return functools.partial(compiled, seed), shapes
