"""Checks of what comes from a file or a command line."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..models.model import by_path


def check_finite(source: str | Path, variables: Any) -> None:
    """Refuses weights with NaN or infinity.

    Args:
      source: what the message names.
      variables: a tree of arrays.

    Raises:
      ValueError: not all numbers are finite; names the first array.

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


def cast_arrays(found: dict[str, np.ndarray], expected: dict) -> dict[str, np.ndarray]:
    """Casts the arrays of a file to the dtypes of the model that they are for.

    Raises:
      ValueError: other names or shapes, or numbers of another kind.

    >>> found = {"a": np.ones(2, np.float16)}
    >>> cast_arrays(found, {"a": np.zeros(2, np.float32)})["a"].dtype
    dtype('float32')
    """
    wrong = sorted(
        name
        for name in {*found, *expected}
        if name not in found
        or name not in expected
        or found[name].shape != expected[name].shape
        or not _converts(found[name].dtype, expected[name].dtype)
    )
    if wrong:
        raise ValueError(
            "found variables that are not those of the model and its options; the "
            f"first that differ: {wrong[:6]}"
        )
    return {
        name: array.astype(expected[name].dtype, copy=False)
        for name, array in found.items()
    }


def expand(path: str | Path) -> Path:
    """The path with ``~`` replaced by the home directory.

    Raises:
      ValueError: the home of a user who is not known, or a URL.
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


def _converts(found: Any, wanted: Any) -> bool:
    floating = jnp.issubdtype(found, jnp.floating)
    return found == wanted or (floating and jnp.issubdtype(wanted, jnp.floating))
