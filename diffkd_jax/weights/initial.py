"""Weights from which a student starts: those of a file or of the teacher."""

import fnmatch
from collections.abc import Collection, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from ..models.model import by_path


def start_from(
    variables: Mapping[str, PyTree],
    loaded: Mapping[str, PyTree],
    *,
    source: str,
    into: str = "",
    leave_out: Sequence[str] = (),
    spare: Collection[str] = (),
) -> dict[str, PyTree]:
    """Returns the variables of a model, with arrays replaced by those of a file.

    All of the model is replaced, or one subtree of it. Each array of the subtree must
    be in the file, and each array of the file in the subtree.

    Args:
      variables: the variables of the model, ``{"params": ..., ...}``; arrays, or
        ``jax.ShapeDtypeStruct`` if the file is only to be checked.
      loaded: the variables in the file, in the same collections.
      source: name of the file, for messages.
      into: path of the subtree, such as ``backbone``, or "" for all of the model.
      leave_out: patterns of paths, such as ``head/*``. Arrays of the file with these
        paths are not used, and the model keeps its own.
      spare: paths that the file may hold although the subtree lacks them. Each begins
        with its collection, such as ``params/head/bias``.

    Raises:
      ValueError: an array is missing, unexpected or of another shape, or a pattern
        matches nothing or everything.

    >>> student = {"params": {"stem": {"w": np.zeros(2)}, "head": {"w": np.zeros(3)}}}
    >>> file = {"params": {"stem": {"w": np.ones(2)}, "head": {"w": np.ones(9)}}}
    >>> out = start_from(student, file, source="file", leave_out=["head/*"])
    >>> out["params"]["stem"]["w"].tolist(), out["params"]["head"]["w"].tolist()
    ([1.0, 1.0], [0.0, 0.0, 0.0])
    """
    expected = by_path(variables)
    subtree = f"{into.strip('/')}/" if into else ""
    taken, names = {}, []
    for path, array in by_path(loaded).items():
        collection, _, name = path.partition("/")
        names.append(name)
        if path not in spare and not _matches(name, leave_out):
            taken[f"{collection}/{subtree}{name}"] = array
    for pattern in leave_out:
        if not any(_matches(name, [pattern]) for name in names):
            raise ValueError(
                f"student.init_leave_out: found {pattern!r}, expected paths in "
                f"{source} such as {sorted(names)[:3]}"
            )
    if not taken and leave_out:
        raise ValueError(
            f"student.init_leave_out: found {tuple(leave_out)}, which leaves nothing "
            f"of {source}"
        )
    inside = {
        path
        for path in expected
        if path.partition("/")[2].startswith(subtree)
        and not _matches(path.partition("/")[2].removeprefix(subtree), leave_out)
    }
    wrong = sorted(
        path
        for path in inside | set(taken)
        if path not in taken
        or path not in inside
        or np.shape(taken[path]) != np.shape(expected[path])
    )
    if wrong:
        raise ValueError(
            f"student.init: {source} does not fit {into or 'the student'}: found "
            f"{[_shape_text(taken, p) for p in wrong[:3]]}, expected "
            f"{[_shape_text(expected, p) for p in wrong[:3]]} ({len(wrong)} differ); "
            "student.init_into names a subtree, student.init_leave_out what is not to "
            "be taken"
        )
    return _replace_leaves(variables, taken)


def inherit(
    variables: Mapping[str, PyTree],
    teacher: Mapping[str, PyTree],
    patterns: Sequence[str],
) -> dict[str, PyTree]:
    """Returns the student's variables, with some arrays replaced by the teacher's.

    Args:
      variables: the variables of the student.
      teacher: the variables of the teacher.
      patterns: patterns of the paths to take from the teacher, without the collection,
        such as ``head/*``.

    Raises:
      ValueError: a pattern matches nothing, or the teacher lacks an array of the same
        path and shape.

    >>> zeros = {"params": {"head": {"w": np.zeros(2)}}}
    >>> ones = {"params": {"head": {"w": np.ones(2)}}}
    >>> inherit(zeros, ones, ["head/*"])["params"]["head"]["w"].tolist()
    [1.0, 1.0]
    """
    return _replace_leaves(variables, select_inherited(variables, teacher, patterns))


def select_inherited(
    variables: Mapping[str, PyTree],
    teacher: Mapping[str, PyTree],
    patterns: Sequence[str],
) -> dict[str, PyTree]:
    """Returns the teacher's variables that the student inherits, by path.

    Args:
      variables: the variables of the student, or their shapes.
      teacher: the variables of the teacher, or their shapes.
      patterns: patterns of the paths to take from the teacher, without the collection,
        such as ``head/*``.

    Raises:
      ValueError: a pattern matches nothing, or the teacher lacks an array of the same
        path and shape.

    >>> zeros = {"params": {"head": {"w": np.zeros(2)}}}
    >>> ones = {"params": {"head": {"w": np.ones(2)}}}
    >>> select_inherited(zeros, ones, ["head/*"])
    {'params/head/w': array([1., 1.])}
    """
    expected, available = by_path(variables), by_path(teacher)
    taken = {}
    for pattern in patterns:
        paths = [p for p in expected if _matches(p.partition("/")[2], [pattern])]
        if not paths:
            raise ValueError(
                f"student.inherit: found {pattern!r}, expected paths of the student "
                f"such as {sorted(p.partition('/')[2] for p in expected)[:3]}"
            )
        for path in paths:
            shape = np.shape(expected[path])
            if path not in available or np.shape(available[path]) != shape:
                raise ValueError(
                    f"student.inherit: found {_shape_text(available, path)} of the "
                    f"teacher, expected {_shape_text(expected, path)}"
                )
            taken[path] = available[path]
    return taken


def frozen_mask(
    params: PyTree, patterns: Sequence[str], prefix: str = "student/"
) -> PyTree:
    """Marks the parameters whose path matches a pattern.

    Args:
      params: a tree of parameters.
      patterns: patterns of paths, such as ``stem/*``.
      prefix: beginning of the paths that can match; it is taken off before matching.

    Returns:
      A tree of booleans in the structure of ``params``.

    >>> frozen_mask({"student": {"stem": 1, "head": 2}}, ["stem"])
    {'student': {'head': False, 'stem': True}}
    """
    flags = [
        path.startswith(prefix) and _matches(path.removeprefix(prefix), patterns)
        for path in by_path(params)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), flags)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Returns whether a name matches a pattern with ``*``, ``?`` or ``[...]``."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _replace_leaves(
    variables: Mapping[str, PyTree], arrays: Mapping[str, PyTree]
) -> dict[str, PyTree]:
    """Replaces variables by the arrays of the same path, cast to their dtypes."""
    leaves = [
        np.asarray(arrays[path], leaf.dtype) if path in arrays else leaf
        for path, leaf in by_path(variables).items()
    ]
    return dict(jax.tree.unflatten(jax.tree.structure(variables), leaves))


def _shape_text(arrays: Mapping[str, PyTree], path: str) -> str:
    """Returns a path and the shape of its array, or "nothing"."""
    return f"{path} {list(np.shape(arrays[path]))}" if path in arrays else "nothing"
