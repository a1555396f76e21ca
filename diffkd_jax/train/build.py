"""From a config to a run, as values."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ..backend.compiler import compiler_options
from ..config.resolve import resolve
from ..config.sections import Config
from ..core.distill import distillation
from ..core.step import TrainState, as_seed, diffkd_step, init_state
from ..core.taps import Refined
from ..data import Data, known_target, open_data
from ..data.pipeline import batches as pipeline
from ..data.pipeline.groups import alike
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


def student_variables(state: TrainState) -> dict[str, Any]:
    """What the student is applied to."""
    return {"params": state.params["student"], **state.model_state["student"]}


class Scoring(NamedTuple):
    """What a trained model is scored with, as values; nothing of it trains.

    Attributes:
      data: see :class:`diffkd_jax.data.Data`.
      task: see :class:`diffkd_jax.tasks.Task`.
      mesh: the devices.
      place: ``tree -> shardings``, for states and for variables.
      evaluate: ``(model, variables, *, asked) -> (scores, Evidence)`` over the
        evaluation split, one program per model; see
        :mod:`diffkd_jax.train.cluster.signals`.
    """

    data: Data
    task: Task
    mesh: jax.sharding.Mesh
    place: Callable[[Any], Any]
    evaluate: Callable[..., tuple[dict[str, float], Evidence]]


class Run(NamedTuple):
    """All that a config names, as values.

    Attributes:
      title: name and method.
      data: see :class:`diffkd_jax.data.Data`.
      task: see :class:`diffkd_jax.tasks.Task`.
      method: see :class:`diffkd_jax.methods.Method`.
      student: untrained.
      teacher: None where nothing is distilled; its ``variables`` are None until it is
        loaded, see :mod:`diffkd_jax.train.teacher`.
      mesh: of the devices.
      place: ``tree -> shardings``, of states and of variables.
      plan: steps.
      schedule: step to learning rate.
      init: ``() -> TrainState``, a function of the seed, compiled.
      shapes: ``() -> TrainState`` of shapes and their shardings, to compile a step
        ahead of time.
      step: ``(state, teacher_variables, batch) -> (state, metrics)``, compiled.
      task_step: the same without distillation, for the steps between two of
        ``plan.distill_every``.
      pure_step: ``step`` for a loop of one's own to compile; ``teacher_apply`` and the
        like can be replaced by ``functools.partial``.
      evaluate: ``(model, variables, *, asked) -> (scores, Evidence)`` over the
        evaluation split, one program a model; see
        :mod:`diffkd_jax.train.cluster.signals`.
      others: further evaluations by name.
      batches: ``(first step, asked) -> generator`` of this process's training batches,
        to be closed where it is not used up.
      examples: ``count -> batch``, the first to evaluate on, not normalised.
      compared: what the task's check is told of the taps.
      refined: shapes of what each tap compares.
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
    batches: Callable[..., pipeline.Batches]
    examples: Callable[[int], Mapping]
    compared: Mapping[str, tuple]
    refined: Mapping[str, Refined]

    @property
    def teacher_variables(self) -> Any:
        """What the step takes, on the devices; ``{}`` without a teacher."""
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
    """Opens what a trained model is scored with; traces no model.

    Args:
      config: see :mod:`diffkd_jax.config`.
      data: in place of what ``config.data`` names.

    Raises:
      ValueError: fields that do not fit the data.
      FileNotFoundError: missing data.
    """
    if data is None:
        try:
            data = open_data(config.data)
        except ValueError:  # maybe of fields that are for another kind of target
            known = known_target(config.data.name)
            check_target(config, TARGETS.get(config.task.name), known)
            raise
    shared = dict(config.train) | dict(config.mix)
    task = make_task(config.task, shared, data)
    check_target(
        config, task.target, {name: x.ndim - 1 for name, x in data.target.items()}
    )
    mesh = sharding.make_mesh(config.num_devices, config.mesh.fsdp)
    place = functools.partial(
        sharding.place, mesh=mesh, min_bytes=config.mesh.fsdp_min_bytes
    )
    return Scoring(
        data, task, mesh, place, make_evaluate(config.data, data, mesh, task)
    )


def check_target(
    config: Config, wanted: Mapping[str, int] | None, found: Mapping[str, int] | None
) -> None:
    """Refuses data of another kind of target than the task's.

    Args:
      config: of the run.
      wanted: rank of each array that the task needs, None if that is not known.
      found: rank of each array that the data have, likewise.

    Raises:
      ValueError: names both, with the arrays of their targets.
    """
    if not wanted or found is None:
        return
    if any(found.get(name) != rank for name, rank in wanted.items()):
        ending = lambda rank: "is" if rank == 1 else "es"
        axes = lambda ranks: ", ".join(
            f"{name} of {rank} ax{ending(rank)}" for name, rank in ranks.items()
        )
        raise ValueError(
            f"data.name: found {config.data.name!r}, whose targets are {axes(found)}; "
            f"expected {axes(wanted)} for task.name {config.task.name!r}"
        )


def build(config: Any, data: Data | None = None) -> Run:
    """Everything of a run but its workdir; trains nothing and writes nothing.

    Args:
      config: as recipes make it, or resolved.
      data: in place of what ``config.data`` names.

    Raises:
      ValueError: fields that cannot be, or do not fit each other or the data.
      FileNotFoundError: missing data.
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
    plan, planned = make_plan(config, data)
    batch = batch_shapes(data, plan.batch_size)
    student_out = outputs_of("student", student, batch, train=True)
    losses = check_student(task, student, student_out, batch)
    teacher_out = {} if teacher is None else outputs_of("teacher", teacher, batch)
    distill, outputs = distillation(method.taps), (student_out, teacher_out)
    known, refined = compared(method, distill, *outputs, batch["target"], losses)
    if teacher is not None:
        check_teacher(task, data, teacher, known)
    check_frozen(config.optimizer.frozen, student, batch)
    peak = config.optimizer.learning_rate
    schedule = make_schedule(config.schedule, peak, plan.steps_per_epoch, planned)
    weighed = (distill, method.weights)
    pure_step = make_step(config, data, task, weighed, (student, teacher), schedule)
    init, shapes = make_init(config, batch, pure_step, student, outputs, place)
    transform = lambda batch, draws: data.transform.train(batch, draws, config.data)
    models = (student, teacher)
    infers = tuple(None if m is None else inferring(task, m) for m in models)

    def batches(start: int, asked: Asked = never) -> pipeline.Batches:
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
        rows = alike(data.evaluation, 0)[:count]
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
        schedule=jax.jit(schedule),  # else each of its operations is a program
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
        compared=known,
        refined=refined,
    )


def check_frozen(patterns, student: Model, batch: Mapping) -> None:
    """ValueError unless each pattern names some parameter of the student."""
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


def make_step(
    config: Config, data, task, weighed, models, schedule
) -> functools.partial:
    """The step of a run as a pure function of state, teacher and batch.

    Args:
      config, data, task, schedule: of the run.
      weighed: the distillation and the weights of the losses.
      models: student and teacher, or None.
    """
    (student, teacher), (distill, weights) = models, weighed

    def prepare(key, batch):
        batch = data.normalise(batch)
        return batch if task.prepare is None else task.prepare(key, batch)

    def student_apply(params, state, batch, key):
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
    task: Task, data: Data, teacher: Model, known: Mapping[str, tuple]
) -> None:
    """Refuses a teacher that cannot serve, by the task's own check.

    Args:
      task: of the run.
      data: of the run.
      teacher: untrained, or loaded: then its file tells more of it.
      known: ``run.compared``.
    """
    if task.check is not None:
        task.check("teacher.init", teacher.meta, data.meta, known)


def make_init(
    config: Config, batch, step, student, outputs, place
) -> tuple[Callable[[], TrainState], Callable[[], Any]]:
    """A fresh state, made where it lies, by the seed alone; and its shapes."""
    parts = step.keywords
    seed = np.int32(as_seed(config.seed))  # its range; inside it is traced

    def init(seed):
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

    def shapes():
        plain = jax.eval_shape(init, seed)
        return jax.tree.map(
            lambda x, where: x.update(sharding=where), plain, place(plain)
        )

    def first():
        # The seed is an argument, so that another one is no other program.
        compiled = jax.jit(
            init,
            out_shardings=place(jax.eval_shape(init, seed)),
            compiler_options=compiler_options(once=True),
        )
        return compiled(seed)

    return first, shapes
