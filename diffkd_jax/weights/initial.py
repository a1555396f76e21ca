"""Weights to start from: read from a file, or inherited from the teacher."""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from ..models.dense.backbone import backbone_of
from ..models.model import Model, by_path, from_linen
from .files import is_ours, load_variables, shapes_of
from .torch.convert import count_classes, import_weights
from .torch.reader import read_state_dict


def load_into(file: Path, model: Model, into: str) -> tuple[dict[str, Any], set[str]]:
    """Reads the variables of a subtree of a model, or of all of it, from a file.

    Args:
      file: a file that we exported, or weights of a PyTorch definition of the model or
        of the classifier whose body is ``into``, whatever its head.
      model: the model that the variables are for.
      into: path of the subtree, "" for all.

    Returns:
      The variables, and the paths of the classifier's head, which the subtree lacks.

    Raises:
      ValueError: The file cannot be read, or does not fit.
    """
    if not is_part(model.module, into):
        return load_variables(file, model.meta), set()
    shapes = lambda m: shapes_of(from_linen(m), model.meta["input_shape"])
    body, whole = (backbone_of(model.module, classes) for classes in (0, 1))
    head = set(by_path(shapes(whole))) - set(by_path(shapes(body)))
    if is_ours(file):
        return load_variables(file, model.meta), head
    state_dict = read_state_dict(file)
    name = model.meta["model"]
    if getattr(body, "deep_stem", False) and "conv2.weight" not in state_dict:
        raise ValueError(
            f"{file}: found no deep stem (conv2.weight), expected one; the option "
            f"deep_stem=False gives {name!r} a plain one"
        )
    alone = backbone_of(model.module, count_classes(whole, state_dict))
    try:
        return import_weights(alone, state_dict, shapes(alone))[0], head
    except ValueError as error:
        raise ValueError(f"{file}, as {into} of {name!r}: {error}") from None


def is_part(module: nn.Module | None, path: str) -> bool:
    """Says whether a classifier's body lies at a path of a model's variables.

    >>> from diffkd_jax.models import build_network
    >>> is_part(build_network("deeplabv3_resnet8", num_classes=5), "backbone")
    True
    >>> is_part(build_network("resnet8", num_classes=5), "stage1")
    False
    """
    return hasattr(module, "make_backbone") and path.strip("/") == "backbone"


def start_from(
    variables: Mapping[str, Any],
    found: Mapping[str, Any],
    *,
    source: str,
    into: str = "",
    leave_out: Sequence[str] = (),
    spare: Collection[str] = (),
) -> dict[str, Any]:
    """Variables with those of a file in a subtree; strict there.

    Args:
      variables: of the model, ``{"params": ..., ...}``.
      found: of the file, the same collections.
      source: where they are from, for messages.
      into: path of the subtree, ``backbone``; all of the model by default.
      leave_out: patterns of paths in the file, such as ``head/*``, that are not taken.
      spare: paths that the file may hold beside the subtree, collection in front.

    Raises:
      ValueError: the subtree has other arrays than the file, but for what is left out.

    >>> own = {"params": {"stem": {"w": np.zeros(2)}, "head": {"w": np.zeros(3)}}}
    >>> file = {"params": {"stem": {"w": np.ones(2)}, "head": {"w": np.ones(9)}}}
    >>> out = start_from(own, file, source="file", leave_out=["head/*"])
    >>> out["params"]["stem"]["w"].tolist(), out["params"]["head"]["w"].tolist()
    ([1.0, 1.0], [0.0, 0.0, 0.0])
    """
    wanted = by_path(variables)
    place = f"{into.strip('/')}/" if into else ""
    given, names = {}, []
    for path, array in by_path(found).items():
        collection, _, name = path.partition("/")
        names.append(name)
        if path not in spare and not _matches(name, leave_out):
            given[f"{collection}/{place}{name}"] = array
    for pattern in leave_out:
        if not any(_matches(name, [pattern]) for name in names):
            raise ValueError(
                f"student.init_leave_out: found {pattern!r}, expected paths in "
                f"{source} such as {sorted(names)[:3]}"
            )
    if not given and leave_out:
        raise ValueError(
            f"student.init_leave_out: found {tuple(leave_out)}, which leaves nothing "
            f"of {source}"
        )
    inside = {
        path
        for path in wanted
        if path.partition("/")[2].startswith(place)
        and not _matches(path.partition("/")[2].removeprefix(place), leave_out)
    }
    wrong = sorted(
        path
        for path in inside | set(given)
        if path not in given
        or path not in inside
        or np.shape(given[path]) != np.shape(wanted[path])
    )
    if wrong:
        raise ValueError(
            f"student.init: {source} does not fit {into or 'the student'}: found "
            f"{[_shown(given, p) for p in wrong[:3]]}, expected "
            f"{[_shown(wanted, p) for p in wrong[:3]]} ({len(wrong)} differ); "
            "student.init_into names a subtree, student.init_leave_out what is not to "
            "be taken"
        )
    return _filled(variables, given)


def inherit(
    variables: Mapping[str, Any], teacher: Mapping[str, Any], patterns: Sequence[str]
) -> dict[str, Any]:
    """Variables with those of the teacher at the paths that a pattern names.

    Raises:
      ValueError: a pattern that names nothing, or arrays that the teacher does not have
        in the same shape.

    >>> pair = np.zeros(2), np.ones(2)
    >>> own, teacher = ({"params": {"head": {"w": x}}} for x in pair)
    >>> inherit(own, teacher, ["head/*"])["params"]["head"]["w"].tolist()
    [1.0, 1.0]
    """
    return _filled(variables, inherited(variables, teacher, patterns))


def inherited(
    variables: Mapping[str, Any], teacher: Mapping[str, Any], patterns: Sequence[str]
) -> dict[str, Any]:
    """What :func:`inherit` takes of the teacher, by path; shapes alone will do.

    Raises:
      ValueError: as of :func:`inherit`.
    """
    wanted, known = by_path(variables), by_path(teacher)
    taken = {}
    for pattern in patterns:
        paths = [p for p in wanted if _matches(p.partition("/")[2], [pattern])]
        if not paths:
            raise ValueError(
                f"student.inherit: found {pattern!r}, expected paths of the student "
                f"such as {sorted(p.partition('/')[2] for p in wanted)[:3]}"
            )
        for path in paths:
            if path not in known or np.shape(known[path]) != np.shape(wanted[path]):
                raise ValueError(
                    f"student.inherit: found {_shown(known, path)} of the teacher, "
                    f"expected {_shown(wanted, path)}"
                )
            taken[path] = known[path]
    return taken


def frozen_mask(params: Any, patterns: Sequence[str], prefix: str = "student/") -> Any:
    """True for the parameters that a pattern names, a tree of booleans.

    >>> frozen_mask({"student": {"stem": 1, "head": 2}}, ["stem"])
    {'student': {'head': False, 'stem': True}}
    """
    flags = [
        path.startswith(prefix) and _matches(path.removeprefix(prefix), patterns)
        for path in by_path(params)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), flags)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _filled(variables: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    leaves = [
        np.asarray(given[path], leaf.dtype) if path in given else leaf
        for path, leaf in by_path(variables).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)


def _shown(arrays: Mapping[str, Any], path: str) -> str:
    return f"{path} {list(np.shape(arrays[path]))}" if path in arrays else "nothing"
