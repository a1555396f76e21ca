"""Task, method and models by the names in a config, checked against each other."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..config import sections
from ..core.distances import reads_target
from ..core.distill import Distillation
from ..core.losses import check_outputs, merged, weigh
from ..core.norm import BatchNorm
from ..core.taps import Refined
from ..data import Data
from ..methods import METHODS, Method
from ..models.model import Model, from_linen
from ..named import call, find, keywords
from ..tasks import TASKS, Evidence, Task
from ..weights.untrained import build_untrained, with_head


def make_task(
    options: sections.TaskConfig, shared: Mapping[str, Any], data: Data
) -> Task:
    """The task that the section ``task`` of a config names.

    Args:
      options: that section.
      shared: fields of other sections, for a task that takes arguments of these names.
      data: of the run.

    Raises:
      ValueError: no such task, or options that it does not take.
    """
    make = find(options.name, TASKS, "task.name")
    taken = keywords(make)
    given = {k: v for k, v in shared.items() if k in taken}
    for field in ("mixup", "cutmix", "erase", "label_smoothing"):
        if shared.get(field) and field not in taken:
            section = "train" if field == "label_smoothing" else "mix"
            raise ValueError(
                f"{section}.{field}: found {shared[field]}, expected 0 for the task "
                f"{options.name!r}, which does not have it"
            )
    own = given | dict(options.options)
    task = call(make, own, "task.options", data.meta)
    if not isinstance(task, Task):
        raise ValueError(
            f"task.name: found {options.name!r}, which gives "
            f"{type(task).__name__}, expected a diffkd_jax.tasks.Task"
        )
    return task


def make_method(config: sections.Config, norm_group_size: int = 0) -> Method:
    """The method that a config names, its weights as the section ``weights`` says.

    Args:
      config: of the run.
      norm_group_size: examples that blocks with a field ``norm`` take statistics over.

    Raises:
      ValueError: no such method, or options that it does not take.
    """
    name = config.method
    make = find(name, METHODS, "method")
    options = {**config.methods.get(name, {}), **config.method_options}
    field = f"methods.{name}" if name in METHODS else "method_options"
    method = call(make, options, field)
    if not isinstance(method, Method):
        raise ValueError(
            f"method: found {name!r}, which gives {type(method).__name__}, expected a "
            "diffkd_jax.Method"
        )
    taps, group = dict(method.taps), norm_group_size
    norm = functools.partial(BatchNorm, group_size=group)
    for key, tap in taps.items():
        if group and tap.block is not None and hasattr(tap.block, "norm"):
            grouped = tap.block.clone(norm=norm)
            taps[key] = dataclasses.replace(tap, block=grouped)
    weights = {**method.weights, **config.weights}
    return Method(taps, weights)


def make_model(
    role: str,
    options: sections.Student | sections.Teacher,
    data: Data,
    norm_group_size: int = 0,
) -> Model:
    """The model that ``options`` names, untrained.

    Its batch norms, if it is of Flax Linen and has a field for it, take statistics over
    ``norm_group_size`` examples.

    Args:
      role: ``student`` or ``teacher``, the section of the config.
      options: that section.
      data: what it is for.
      norm_group_size: 0 for the whole batch.

    Raises:
      ValueError: no such model, or one that does not return named arrays.
    """
    given = dict(options.options)
    if options.dtype != "float32":
        given["dtype"] = options.dtype
    classes = options.num_classes if isinstance(options, sections.Teacher) else 0
    meta = with_head(data.meta, classes)
    try:
        model = build_untrained(options.model, given, meta, data.eval_shape)
    except ValueError as error:
        raise ValueError(f"{role}.{error}") from error
    if norm_group_size and hasattr(model.module, "norm_group_size"):
        grouped = from_linen(model.module.clone(norm_group_size=norm_group_size))
        model = grouped._replace(meta=model.meta)
    return model


def batch_shapes(data: Data, size: int) -> dict[str, Any]:
    """Shapes of a normalised training batch of this size."""
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), data.target
    )
    sized = {"size": jax.ShapeDtypeStruct((size, 2), jnp.int32)} if data.sized else {}
    return {
        **sized,
        "image": jax.ShapeDtypeStruct((size, *data.train_shape), jnp.float32),
        "index": jax.ShapeDtypeStruct((size,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((size,), jnp.float32),
        "target": target,
    }


def outputs_of(role: str, model: Model, batch: Mapping, *, train: bool = False) -> Any:
    """Shapes of a model's outputs for a batch.

    Args:
      role: ``student`` or ``teacher``, for messages.
      model: untrained.
      batch: shapes of a normalised batch.
      train: as while training.

    Raises:
      ValueError: it does not return what a model returns, or raises itself.
    """

    key = jax.eval_shape(lambda: jax.random.key(0))
    name = model.meta.get("model", "")
    run = functools.partial(model.apply, train=train)
    try:
        # By itself, for JAX keeps the trace for whoever asks for it again.
        params, state = jax.eval_shape(model.init, key, dict(batch))
        own_key = key if train else None
        result = jax.eval_shape(run, params, state, dict(batch), key=own_key)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(
                f"apply: found {type(result).__name__}, expected (outputs, state)"
            )
        check_outputs("apply", result[0])
    except Exception as error:  # of somebody else's code
        text = str(error).strip() or type(error).__name__
        raise ValueError(f"{role}.model: {name!r}: {text}") from error
    return result[0]


@contextlib.contextmanager
def missing_output_named(outputs: Mapping) -> Iterator[None]:
    """Turns a task's look-up of an output that is not there into a clear error.

    Args:
      outputs: named arrays of a model, or their shapes.

    Raises:
      ValueError: names the outputs, and the one that the task looks for.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(
            f"found outputs {list(outputs)}, expected {error} among them, which the "
            "task looks for"
        ) from error


def _check_weights(weights: Mapping, losses: Mapping, taps: Mapping) -> None:
    """ValueError for a weight of no loss, or taps that count for nothing."""
    of_taps = [name for name in losses if name.partition("/")[0] in taps]
    factor = lambda name: (weights.get(name, 1.0), weights.get(name.split("/")[0], 1.0))
    if of_taps and all(0.0 in factor(name) for name in of_taps):
        raise ValueError(
            f"weights: found 0 for all of {of_taps}, expected one above 0, or the "
            "method 'none'"
        )
    step = jax.ShapeDtypeStruct((), jnp.int32)
    jax.eval_shape(lambda losses, step: weigh(losses, weights, step), losses, step)


def check_student(
    task: Task, student: Model, outputs: Mapping, batch: Mapping
) -> dict[str, Any]:
    """Refuses a student whose outputs the task cannot use.

    Args:
      task: of the run.
      student: untrained.
      outputs: shapes of its outputs.
      batch: shapes of a normalised batch.

    Returns:
      Shapes of the task's losses.

    Raises:
      ValueError: names what the task looks for, or what it should return.
    """
    name, losses = student.meta.get("model", ""), {}
    for what in (task.loss, task.evidence):
        try:
            with missing_output_named(outputs):
                found = jax.eval_shape(what, outputs, dict(batch))
            if what is task.loss:
                losses = merged(found, {})
        except ValueError as error:
            raise ValueError(f"student.model: {name!r}: {error}") from error
    seen = Evidence(*found) if isinstance(found, tuple) else None
    if seen is None or not isinstance(seen.sums, Mapping):
        raise ValueError(
            f"task.name: found evidence of {type(found).__name__}, expected "
            "diffkd_jax.tasks.Evidence"
        )
    return losses


def compared(
    method: Method,
    distill: Distillation,
    student_out: Any,
    teacher_out: Any,
    target: Any,
    of_task: Mapping,
) -> tuple[dict[str, tuple[str, str, bool]], dict[str, Refined]]:
    """What :class:`Task`'s check is told of the taps, and shapes of what they compare.

    Args:
      method: of the run.
      distill: of its taps.
      student_out: shapes of the student's outputs.
      teacher_out: of the teacher's.
      target: of the batch's target.
      of_task: of the task's losses.

    Returns:
      By tap: the names of the two outputs and whether its distance reads the target;
      and the shapes that it compares.

    Raises:
      ValueError: taps that do not fit the outputs, names the tap; a weight for no loss.
    """
    losses, refined = distill.shapes(student_out, teacher_out, target)
    _check_weights(method.weights, {**of_task, **losses}, method.taps)
    known = {}
    for name, tap in method.taps.items():
        own = refined[name]
        reads = reads_target(tap.distance, own.student, own.teacher)
        known[name] = (tap.student, tap.teacher, reads)
    return known, refined
