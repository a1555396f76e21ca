"""From a config to what the loop needs: models, taps, pure functions."""

import dataclasses
import functools
import inspect
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax

from ..core.diffkd import DiffKD
from ..core.distances import DISTANCES, reads_target
from ..core.distill import distillation, refine
from ..core.norm import BatchNorm
from ..core.taps import Tap, lookup
from ..data.dataset import Data
from ..models.checks import check_finite
from ..models.files import (
    EMA_FILE,
    Model,
    describe,
    described,
    is_ours,
    load_model,
    load_torch,
    model_file,
    read_description,
)
from ..models.fold import fold
from ..tasks import TASKS, Task
from .checkpoint import checksum

LOG = logging.getLogger(__name__)


# Options that change how a model computes or trains, not which variables it has.
NOT_ARCHITECTURE = {"dtype", "dropout", "drop_path", "norm_group_size"}


def make_model(options, data: Data, norm_group_size: int = 0) -> Model:
    """The model that ``options`` (``student`` or ``teacher``) names, untrained.

    Its batch norms, if it has any, take statistics over ``norm_group_size`` examples.
    """
    keywords = options.options.to_dict()
    if options.dtype != "float32":
        keywords["dtype"] = options.dtype
    own = options.get("num_classes") or data.meta["num_classes"]
    meta = data.meta | {"num_classes": own}
    if own != data.meta["num_classes"]:
        meta.pop("class_names", None)
    model = describe(options.model, keywords, meta, data.eval_shape)
    if norm_group_size and hasattr(model.module, "norm_group_size"):
        grouped = model.module.clone(norm_group_size=norm_group_size)
        return model._replace(module=grouped)
    return model


def load_teacher(config, data: Data, path: str | pathlib.Path) -> Model:
    """A trained teacher that fits config and data, its batch norms folded.

    Its ``meta`` holds the ``checksum`` of its numbers before that.

    Args:
      config: a resolved config.
      data: what it is to be applied to.
      path: workdir of a finished run, a file that we exported, or weights of a PyTorch
        definition, see :mod:`diffkd_jax.models.torch_file`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another architecture, class count or channels than expected, or
        numbers that are not finite.
    """
    expected, weights = make_model(config.teacher, data), config.teacher.weights
    file = model_file(path, weights)
    if is_ours(file):
        _check_teacher_fits(file, read_description(file), expected.meta)
        if weights == "ema" and file.name != EMA_FILE:
            raise ValueError(
                f"teacher.weights: found 'ema' for {file}, expected a workdir with "
                f"{EMA_FILE}, or that file"
            )
        loaded = load_model(file, config.teacher.model)
        LOG.info("teacher: %s", file)
    else:
        loaded, reference = load_torch(
            file,
            config.teacher.model,
            expected.meta["options"],
            data.eval_shape,
            expected.meta["num_classes"],
            weights,
        )
        LOG.info("teacher: %s, named as by %s", file, reference)
    check_finite(f"teacher.init: {file}", loaded.variables)
    variables = fold(expected.module, loaded.variables, data.eval_shape)
    # What its own file says of its classes; they need not be those of the data.
    meta = expected.meta | described(loaded.meta)
    meta["checksum"] = checksum(loaded.variables)
    return expected._replace(variables=variables, meta=meta)


def _check_teacher_fits(file: pathlib.Path, found: Mapping, expected: Mapping) -> None:
    def facts(meta):
        options = {
            k: v for k, v in meta["options"].items() if k not in NOT_ARCHITECTURE
        }
        channels = meta["input_shape"][-1]
        return {**meta, "options": options, "channels": channels}

    ours, theirs = facts(expected), facts(found)
    for field, name in (
        ("model", "teacher.model"),
        ("options", "teacher.options"),
        ("num_classes", "teacher.num_classes or the data's class count"),
        ("channels", "the data's channels"),
    ):
        if theirs[field] != ours[field]:
            raise ValueError(
                f"teacher.init: {file} holds {field} {theirs[field]}, expected "
                f"{ours[field]} ({name})"
            )


def make_task(config, data: Data) -> Task:
    """The task that ``config.task`` names; ``mix`` is for tasks that take it.

    Raises:
      ValueError: no such task, or options that it does not take.
    """
    options = config.task
    if options.name not in TASKS:
        raise ValueError(
            f"task.name: found {options.name!r}, expected one of {list(TASKS)}"
        )
    make = TASKS[options.name]
    parameters = inspect.signature(make).parameters.values()
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    _check_names("task.options", options.options, keywords)
    shared = config.train.to_dict() | config.mix.to_dict()
    shared = {name: value for name, value in shared.items() if name in keywords}
    return make(data.meta, **shared | options.options.to_dict())


def check_classes(
    task: Task, data: Data, student: Model, teacher: Model, taps: Mapping[str, Tap]
) -> None:
    """Refuses a teacher that cannot serve the task, by :class:`Task`'s own check."""
    if task.check is None:
        return
    student_out, teacher_out = (
        outputs_of(model, data, 4) for model in (student, teacher)
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(
        distillation(taps).init, key, student_out, teacher_out
    )
    known = {}
    for name, tap in taps.items():
        place = tap.share or name
        pair = lookup(student_out, tap.student), lookup(teacher_out, tap.teacher)
        run = functools.partial(refine, tap)
        refined, _ = jax.eval_shape(run, params[place], state[place], key, *pair)
        reads = reads_target(tap.distance, refined.student, refined.teacher)
        known[name] = (tap.student, tap.teacher, reads)
    task.check("teacher.init", teacher.meta, data.meta, known)


def outputs_of(model: Model, data: Data, size: int) -> Any:
    """Shapes of a model's outputs for a training batch of this size."""
    image = batch_shapes(data, size)["image"]
    variables = jax.eval_shape(model.module.init, jax.random.key(0), image)
    return jax.eval_shape(frozen_apply(model.module), variables, {"image": image})


def make_taps(method: Mapping, norm_group_size: int = 0) -> dict[str, Tap]:
    """The taps of one entry of ``config.methods``.

    Args:
      method: the entry.
      norm_group_size: examples a group of batch norm statistics, 0 for all.

    Raises:
      ValueError: an unknown distance, or options that it or DiffKD does not take.
    """
    taps = {}
    fields = {field.name for field in dataclasses.fields(DiffKD)} - {"parent", "name"}
    for name, options in method["taps"].items():
        if options.distance not in DISTANCES:
            raise ValueError(
                f"taps.{name}.distance: found {options.distance!r}, expected one of "
                f"{list(DISTANCES)}"
            )
        distance, denoise = DISTANCES[options.distance], options.denoise
        parameters = inspect.signature(distance).parameters.values()
        keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        module = denoise and denoise.to_dict()
        if module and norm_group_size:
            module["norm"] = functools.partial(BatchNorm, group_size=norm_group_size)
        _check_names(f"taps.{name}.options", options.options, keywords)
        _check_names(f"taps.{name}.denoise", denoise or (), fields)
        taps[name] = Tap(
            student=options.student,
            teacher=options.teacher,
            distance=functools.partial(distance, **options.options.to_dict()),
            denoise=module,
        )
    return taps


def _check_names(where: str, found: Iterable[str], expected: set[str]) -> None:
    unknown = sorted(set(found) - expected)
    if unknown:
        raise ValueError(
            f"{where}: found {unknown}, expected any of {sorted(expected)}"
        )


def selected_method(config) -> Any:
    """The entry of ``config.methods`` that ``config.method`` names."""
    if config.method not in config.methods:
        raise ValueError(
            f"method: found {config.method!r}, expected one of {list(config.methods)}"
        )
    return config.methods[config.method]


def student_apply(module: nn.Module) -> Callable:
    """``(params, model_state, batch, key) -> (outputs, model_state)``, training."""

    def apply(params, model_state, batch, key):
        return module.apply(
            {"params": params, **model_state},
            batch["image"],
            train=True,
            mutable=list(model_state),
            rngs={"dropout": key},
        )

    return apply


def frozen_apply(module: nn.Module) -> Callable:
    """``(variables, batch) -> outputs``, inference."""
    return lambda variables, batch: module.apply(variables, batch["image"], train=False)


def batch_shapes(data: Data, size: int) -> dict[str, Any]:
    """Shapes of a normalised training batch of this size."""
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), data.target
    )
    image = jax.ShapeDtypeStruct((size, *data.train_shape), jax.numpy.float32)
    return {"image": image, "target": target}


def init_variables(module: nn.Module, key: jax.Array, data: Data) -> Any:
    """Fresh variables of a module for pictures of the data's shape; to be jitted."""
    return module.init(key, jax.numpy.zeros((1, *data.train_shape)))
