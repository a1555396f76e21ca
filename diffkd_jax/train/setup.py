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
from ..core.distances import DISTANCES
from ..core.norm import BatchNorm
from ..core.taps import Tap
from ..models.checks import check_finite
from ..models.files import (
    EMA_FILE,
    Model,
    describe,
    is_ours,
    load_model,
    load_torch,
    model_file,
    read_description,
)
from ..models.fold import fold
from .checkpoint import checksum
from .data import Data
from .data import open_data as open_data

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
    classes = options.get("num_classes") or len(data.class_names)
    names = data.class_names if classes == len(data.class_names) else ()
    model = describe(options.model, keywords, classes, data.input_shape, names)
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
            data.input_shape,
            expected.meta["num_classes"],
            weights,
        )
        LOG.info("teacher: %s, named as by %s", file, reference)
    check_finite(f"teacher.init: {file}", loaded.variables)
    variables = fold(expected.module, loaded.variables, data.input_shape)
    # The names of its own classes, which are not those of the data for certain.
    meta = expected.meta | {
        "class_names": loaded.meta["class_names"],
        "checksum": checksum(loaded.variables),
    }
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


def init_variables(module: nn.Module, key: jax.Array, data: Data) -> Any:
    """Fresh variables of a module for pictures of the data's shape; to be jitted."""
    return module.init(key, jax.numpy.zeros((1, *data.input_shape)))
