"""Describes a run without training it: data, memory, sizes of models, and taps."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np  # noqa: F401  for the example
from jaxtyping import PyTree

from ...core.taps import lookup, resizing
from ..components import variable_shapes
from ..memory import count_bytes, format_bytes
from ..run import Run


def count_multiply_adds(function: Callable[..., Any], *args: PyTree) -> int:
    """Counts the multiply-adds of the convolutions and matrix products in a function.

    They are counted in its jaxpr. Each step of a loop counts.

    Args:
      function: the function, which is traced and not run.
      *args: its arguments, or their shapes.

    Returns:
      The number of multiply-adds.

    >>> count_multiply_adds(lambda x: x @ x, np.ones((2, 2)))
    8
    """
    return _traced(function, *args)[0]


def _traced(function: Callable[..., Any], *args: PyTree) -> tuple[int, PyTree]:
    """Returns a function's multiply-adds and its results' shapes, from one trace."""
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    return _count(jaxpr.jaxpr), shapes


def _count(jaxpr: Any) -> int:
    """Returns the multiply-adds of a jaxpr."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * math.prod(
                shape[d] for d in contracted
            )
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            spec = equation.params["dimension_numbers"].rhs_spec
            total += (
                equation.outvars[0].aval.size * math.prod(kernel) // kernel[spec[0]]
            )
        elif equation.primitive.name == "cond":
            # Only one branch is taken, so the most expensive one is counted.
            total += max(_count(b.jaxpr) for b in equation.params["branches"])
        times = equation.params.get("length", 1)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * _count(inner)
    return total


def count_parameters(tree: PyTree) -> int:
    """Returns the number of values in a tree of arrays.

    Args:
      tree: arrays or their shapes.

    >>> count_parameters({"a": np.ones((2, 3)), "b": np.ones(4)})
    10
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def describe_run(run: Run) -> str:
    """Returns the text that a dry run prints: sizes of all parts, then a table of taps.

    A training prints it too. Multiply-adds are those of the forward pass, for one
    image.

    Args:
      run: the run.
    """
    data, size = run.data, run.plan.batch_size
    batch, taps = run.shapes.batch, run.method.taps
    sizes = ["x".join(map(str, s)) for s in (data.train_shape, data.eval_shape)]
    counts = f"{data.train.size:,} to train, {data.evaluation.size:,} to evaluate"
    if data.assumed:
        counts = "not looked at; as the config states"
    least = {name: format_bytes(count) for name, count in count_bytes(run).items()}
    lines = [
        f"images     {counts}, {' and '.join(dict.fromkeys(sizes))}, "
        f"{data.meta['num_classes']} classes",
        f"memory     state {least['state']}, teacher {least['teacher']}, batch of "
        f"{size} {least['batch']} per device ({run.devices.mesh.size} in all); "
        "activations and gradients come on top",
    ]
    key = jax.eval_shape(lambda: jax.random.key(0))
    outputs = {}
    for role, model in (("student", run.student), ("teacher", run.teacher)):
        if model is None:
            continue
        variables = variable_shapes(model, batch)
        count, outputs[role] = _traced(model.infer, variables, batch)
        lines.append(
            f"{role:10} {model.meta['model']}: "
            f"{count_parameters(variables['params']):,} parameters, "
            f"{_millions(count, size)}"
        )
    if run.teacher is None:
        return "\n".join([*lines, "distiller  none"])
    # The run's functions, because JAX has traced them already.
    distill = run.pure_step.keywords["distillation"]
    pair = (outputs["student"], outputs["teacher"])
    params, state = jax.eval_shape(distill.init, key, *pair)
    arguments = (params, state, key, *pair, batch["target"])
    count, (losses, _, _) = _traced(distill.loss, *arguments)
    lines.append(
        f"distiller  {count_parameters(params):,} parameters, {_millions(count, size)}"
    )
    rows = [("tap", "student", "teacher", "compared", "parameters", "losses x weight")]
    for name, tap in taps.items():
        terms = [n for n in losses if n.startswith(f"{name}/")]
        owner = tap.share or name
        rows.append(
            (
                name,
                _shape(pair[0], tap.student),
                _shape(pair[1], tap.teacher),
                "x".join(map(str, run.shapes.features[name].teacher.shape[1:])),
                f"{count_parameters(params[owner]):,}",
                ", ".join(
                    f"{n.split('/')[-1]} x {_weight(run.method.weights, n)}"
                    for n in terms
                ),
            )
        )
    every = run.plan.distill_every
    interval = []
    if every > 1:
        interval = [f"distilled at one step of {every}, from step 1 on"]
    rules = {name: resizing(name, tap, *pair) for name, tap in taps.items()}
    notes = [f"{name}: {rule}" for name, rule in rules.items() if rule]
    return "\n".join([*lines, "", format_table(rows), *notes, *interval])


def _weight(weights: Mapping[str, Any], name: str) -> str:
    """Returns the weight of a loss as text."""
    parts = [weights[k] for k in (name, name.partition("/")[0]) if k in weights]
    if any(map(callable, parts)):
        return "a schedule"
    return f"{math.prod(parts):g}"


def _shape(outputs: Mapping[str, Any], path: str) -> str:
    """Returns the path and the shape of an output, without the batch axis."""
    shape = lookup(outputs, path).shape[1:]
    return f"{path} {'x'.join(map(str, shape))}"


def _millions(count: int, batch_size: int) -> str:
    """Returns the multiply-adds of one image as text."""
    return f"{count / batch_size / 1e6:.2f} M multiply-adds an image"


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells as text, with columns aligned by spaces.

    Args:
      rows: the rows, all of the same length.

    >>> print(format_table([("tap", "x"), ("features", "y")]))
    tap       x
    features  y
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )
