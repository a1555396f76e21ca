"""Builds the task, the method and the models that a config names."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..config import sections
from ..core.losses import check_outputs
from ..core.norm import BatchNorm
from ..data import Data
from ..methods import Method, build_method
from ..models.model import Model, from_linen
from ..named import call, find, keywords
from ..tasks import TASKS, Task
from ..weights.untrained import build_untrained, with_head


def make_task(
    options: sections.TaskConfig, shared: Mapping[str, Any], data: Data
) -> Task:
    """Builds the task that the section ``task`` of a config names.

    Args:
      options: that section.
      shared: fields of the sections ``train`` and ``mix`` by name. The task gets those
        that it has an argument for.
      data: the data.

    Returns:
      The task.

    Raises:
      ValueError: there is no such task, it does not take the options, or a field of
        ``shared`` that changes training is set and the task does not have it.
    """
    make = find(options.name, TASKS, "task.name")
    accepted = keywords(make)
    arguments = {k: v for k, v in shared.items() if k in accepted}
    for field in ("mixup", "cutmix", "erase", "label_smoothing"):
        if shared.get(field) and field not in accepted:
            section = "train" if field == "label_smoothing" else "mix"
            raise ValueError(
                f"{section}.{field}: found {shared[field]}, expected 0 for the task "
                f"{options.name!r}, which does not have it"
            )
    arguments |= dict(options.options)
    task = call(make, arguments, "task.options", data.meta)
    if not isinstance(task, Task):
        raise ValueError(
            f"task.name: found {options.name!r}, which gives "
            f"{type(task).__name__}, expected a diffkd_jax.tasks.Task"
        )
    return task


def make_method(config: sections.Config, norm_group_size: int = 0) -> Method:
    """Builds the method that a config names, with the weights of ``config.weights``.

    Args:
      config: the config of the run.
      norm_group_size: number of examples over which the batch norms of a tap's block
        take their statistics; 0 for the whole batch. It has an effect on blocks with a
        field ``norm``.

    Returns:
      The method.

    Raises:
      ValueError: there is no such method, or it does not take the options.
    """
    method = build_method(config.method, config.methods, config.method_options)
    taps, group = dict(method.taps), norm_group_size
    norm = functools.partial(BatchNorm, group_size=group)
    for key, tap in taps.items():
        if group and tap.block is not None and hasattr(tap.block, "norm"):
            grouped = tap.block.clone(norm=norm)
            taps[key] = dataclasses.replace(tap, block=grouped)
    weights = {**method.weights, **config.weights}
    return method._replace(taps=taps, weights=weights)


def make_model(
    role: str,
    options: sections.Student | sections.Teacher,
    data: Data,
    norm_group_size: int = 0,
) -> Model:
    """Builds the untrained model that a section of a config names.

    Args:
      role: ``student`` or ``teacher``, the name of the section.
      options: the section.
      data: the data, which say the image size and the number of classes.
      norm_group_size: number of examples over which batch norms take their statistics;
        0 for the whole batch. It has an effect on Flax Linen modules with a field of
        this name.

    Returns:
      The model.

    Raises:
      ValueError: there is no such model, or it does not take the options.
    """
    model_options = dict(options.options)
    if options.dtype != "float32":
        model_options["dtype"] = options.dtype
    classes = options.num_classes if isinstance(options, sections.Teacher) else 0
    meta = with_head(data.meta, classes)
    try:
        model = build_untrained(options.model, model_options, meta, data.eval_shape)
    except ValueError as error:
        raise ValueError(f"{role}.{error}") from error
    if norm_group_size and hasattr(model.module, "norm_group_size"):
        grouped = from_linen(model.module.clone(norm_group_size=norm_group_size))
        model = grouped._replace(meta=model.meta)
    return model


def batch_shapes(data: Data, size: int) -> dict[str, Any]:
    """Returns the shapes of a normalised training batch.

    Args:
      data: the data.
      size: number of examples.

    Returns:
      ``jax.ShapeDtypeStruct`` by name: ``image``, ``index``, ``mask``, ``target``, and
      ``size`` if the data have it.
    """
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


def variable_shapes(model: Model, batch: Mapping[str, Any]) -> dict[str, PyTree]:
    """Returns the shapes of a model's variables.

    Args:
      model: the model.
      batch: shapes of a normalised batch.

    Returns:
      ``params`` and the collections that the model carries.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key, dict(batch))
    return {"params": params, **state}


def trace_outputs(
    role: str, model: Model, batch: Mapping[str, Any], *, train: bool = False
) -> Any:
    """Returns the shapes of a model's outputs for a batch, without computing them.

    Args:
      role: ``student`` or ``teacher``, for messages.
      model: the untrained model.
      batch: shapes of a normalised batch.
      train: whether the model is applied as in training.

    Returns:
      The shapes, in the structure of the outputs.

    Raises:
      ValueError: the model raises an error, or does not return named arrays and a
        state.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    name = model.meta.get("model", "")
    apply = functools.partial(model.apply, train=train)
    try:
        # Alone, because JAX keeps the trace for later calls of the same function.
        params, state = jax.eval_shape(model.init, key, dict(batch))
        apply_key = key if train else None
        result = jax.eval_shape(apply, params, state, dict(batch), key=apply_key)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(
                f"apply: found {type(result).__name__}, expected (outputs, state)"
            )
        check_outputs("apply", result[0])
    except Exception as error:  # the model may be the user's code
        text = str(error).strip() or type(error).__name__
        raise ValueError(f"{role}.model: {name!r}: {text}") from error
    return result[0]


@contextlib.contextmanager
def report_missing_output(outputs: Mapping[str, Any]) -> Iterator[None]:
    """Raises a clear ValueError in place of the KeyError for an output that is missing.

    Args:
      outputs: named arrays of a model, or their shapes.

    Yields:
      Nothing; the task is called in the context.

    Raises:
      ValueError: the task looks up an output that the model does not have. The message
        names it and the outputs that the model has.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(
            f"found outputs {list(outputs)}, expected {error} among them, which the "
            "task looks for"
        ) from error
