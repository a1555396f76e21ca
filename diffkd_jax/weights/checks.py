"""Checks of values that come from a file or a command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..models.model import by_path


def check_finite(source: str | Path, variables: PyTree) -> None:
    """Raises an error if weights contain NaN or infinity.

    Args:
      source: where the weights are from, for messages.
      variables: a tree of arrays.

    Raises:
      ValueError: a number is not finite; the message names the first such array.

    >>> check_finite("teacher", {"bias": np.array([0.0, np.nan])})
    Traceback (most recent call last):
    ...
    ValueError: teacher: found 1 of 2 numbers of bias not finite, expected weights
    """
    for name, array in by_path(variables).items():
        bad = np.sum(~np.isfinite(np.asarray(array)))
        if bad:
            raise ValueError(
                f"{source}: found {bad} of {array.size} numbers of {name} not finite, "
                "expected weights"
            )


def cast_arrays(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Casts the arrays of a file to the dtypes of a model's arrays.

    Args:
      arrays: arrays of the file by name.
      expected: arrays of the model by the same names, or ``jax.ShapeDtypeStruct``.

    Raises:
      ValueError: the names or shapes differ, or an array cannot be cast because it
        holds numbers of another kind, such as integers for floating point.

    >>> arrays = {"a": np.ones(2, np.float16)}
    >>> cast_arrays(arrays, {"a": np.zeros(2, np.float32)})["a"].dtype
    dtype('float32')
    """
    wrong = sorted(
        name
        for name in {*arrays, *expected}
        if name not in arrays
        or name not in expected
        or arrays[name].shape != expected[name].shape
        or not _can_cast(arrays[name].dtype, expected[name].dtype)
    )
    if wrong:
        raise ValueError(
            "found variables that are not those of the model and its options; the "
            f"first that differ: {wrong[:6]}"
        )
    return {
        name: array.astype(expected[name].dtype, copy=False)
        for name, array in arrays.items()
    }


def expand(path: str | Path) -> Path:
    """Returns a path with ``~`` replaced by the home directory.

    Args:
      path: a path on this machine.

    Raises:
      ValueError: the path is a URL, or the home directory is not known.

    >>> expand("runs/quickstart").as_posix()
    'runs/quickstart'
    """
    if "://" in str(path):
        raise ValueError(
            f"{path}: found a URL, expected a path on this machine; download the file, "
            "or mount the bucket"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None


def _can_cast(dtype: np.dtype, expected: np.dtype) -> bool:
    """Returns whether two dtypes are equal or both floating point."""
    is_floating = jnp.issubdtype(dtype, jnp.floating)
    return dtype == expected or (is_floating and jnp.issubdtype(expected, jnp.floating))
