"""Decides whether a run may use a workdir.

It may if the workdir is new or holds the same run. It may not if the workdir holds
another run, or files that no run wrote. A run that diverged, because numbers were not
finite, may go on with some fields changed.
"""

import itertools
import logging
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ... import __version__
from ...config.sections import Config
from ...tasks.classes import first_difference
from ..cluster.processes import (
    broadcast_first,
    is_primary,
    is_true_everywhere,
    wait_for_all,
)
from ..components import make_method
from .directory import (
    RECORD,
    SUMMARY,
    describe_foreign_file,
    has_checkpoints,
    write_json,
)
from .identity import DIVERGED, Identity, find_differences, read_identity, to_json

LOG = logging.getLogger(__name__)
# The record of a run calls the numbers of images in training and evaluation so.
LIST_NAMES = {"pictures": "images"}
# Fields that may change after a run has diverged, because they change no array of the
# state.
ADJUSTABLE = re.compile(
    r"optimizer\.learning_rate|weights\..+"
    r"|methods\.[^.]+\.((task|logits)_)?weight"
)


def claim_workdir(
    config: Config,
    workdir: pathlib.Path,
    data: Mapping[str, list[Any]] | None = None,
    *,
    write: bool = True,
) -> dict[str, Any]:
    """Records the config in a new workdir, or checks that a used one has the same.

    A workdir without a checkpoint and without a summary counts as new. It is refused if
    it holds a file that no run wrote and that a run would overwrite. In a used workdir,
    a field that the record lacks counts as its default, and a run of a version before
    0.4 is refused. Each time that a run has diverged, it may resume with other values
    of the fields :data:`ADJUSTABLE`.

    Args:
      config: a resolved config.
      workdir: directory of the run.
      data: lists by name that identify the data, such as ``classes``.
      write: False to check whether the workdir could be claimed, without any change.

    Returns:
      By path, the values that changed fields had when the run began; the text "nothing"
      if a field did not exist.

    Raises:
      ValueError: the workdir holds a run of another config or on other data, a run
        whose record cannot be read, or a file that a run would overwrite and that no
        run wrote. Nothing was changed.
    """
    file, data = workdir / RECORD, dict(data or {})
    is_finished = (workdir / SUMMARY).exists()
    is_new = not (is_finished or has_checkpoints(workdir))
    is_diverged = not is_finished and broadcast_first((workdir / DIVERGED).exists())
    _check_foreign_files(workdir, is_new)
    new_record = {"version": __version__, **data, **to_json(config)}
    if is_new and not is_diverged:
        return _claim_new(file, new_record, write)
    if not file.exists():
        raise ValueError(
            f"workdir: found a run in {workdir} and no config.json, expected the "
            "record of its config; put it back or choose another --workdir"
        )
    identity = read_identity(file, data)
    if write and identity.version != __version__:
        LOG.warning(
            "%s: begun by version %s, goes on in %s, whose images and rounding may "
            "differ",
            *(workdir, identity.version, __version__),
        )
    has_teacher = bool(make_method(config).taps)
    different = find_differences(identity, config, with_teacher=has_teacher)
    if not is_diverged:
        return _claim_same(identity, workdir, different, data)
    if is_new:  # without a checkpoint all fields may change
        return _claim_diverged(identity, workdir, different, new_record, write)
    if any(not ADJUSTABLE.fullmatch(name) for name in different):
        _refuse(identity, workdir, different)
    _check_data(identity, workdir, data)
    record = {**identity.facts, **to_json(config)}
    return _claim_diverged(identity, workdir, different, record, write)


def _check_foreign_files(workdir: pathlib.Path, is_new: bool) -> None:
    """Raises ValueError, on all processes, if a run would overwrite a foreign file."""
    problem = (
        describe_foreign_file(workdir, is_begun=not is_new) if is_primary() else ""
    )
    if not is_true_everywhere(not problem):
        raise ValueError(
            problem
            or f"workdir: {workdir}: process 0 found a file in the way, see its message"
        )


def _claim_new(
    file: pathlib.Path, record: Mapping[str, Any], write: bool
) -> dict[str, Any]:
    """Writes the record of a new run."""
    if write and is_primary():
        write_json(file, record)
    return {}


def _claim_same(
    identity: Identity,
    workdir: pathlib.Path,
    different: Mapping[str, list[Any]],
    data: Mapping[str, list[Any]],
) -> dict[str, Any]:
    """Checks that a run, finished or not, has the same config and data."""
    if different:
        _refuse(identity, workdir, different)
    _check_data(identity, workdir, data)
    return identity.first_values()


def _claim_diverged(
    identity: Identity,
    workdir: pathlib.Path,
    different: Mapping[str, list[Any]],
    record: Mapping[str, Any],
    write: bool,
) -> dict[str, Any]:
    """Writes the new config of a run that has diverged, and what changed in it.

    Changes of :data:`ADJUSTABLE` fields are recorded even if all fields may change,
    because the run's teacher was trained at the first learning rate.
    """
    adjusted = {n: pair for n, pair in different.items() if ADJUSTABLE.fullmatch(n)}
    changed = [*identity.changed, *([adjusted] if adjusted else [])]
    if write:
        if different:
            text = "\n".join(_difference_lines(different))
            LOG.warning("%s goes on with another config:\n%s", workdir, text)
        wait_for_all("the record is read")
        if is_primary():
            content = {**record, "changed": changed} if changed else record
            write_json(workdir / RECORD, content)
            (workdir / DIVERGED).unlink(missing_ok=True)
    return identity._replace(changed=changed).first_values()


def _refuse(
    identity: Identity, workdir: pathlib.Path, different: Mapping[str, list[Any]]
) -> None:
    """Raises ValueError, which names the first fields that differ."""
    versions = ""
    if identity.version != __version__:
        versions = f" (by version {identity.version}, this is {__version__})"
    lines = "\n".join(itertools.islice(_difference_lines(different), 10))
    raise ValueError(
        f"workdir: {workdir} holds a run of another config{versions}; choose another "
        f"--workdir\n{lines}"
    )


def _check_data(
    identity: Identity, workdir: pathlib.Path, data: Mapping[str, list[Any]]
) -> None:
    """Raises ValueError if a run has other data; an empty list agrees with any."""
    for name, values in identity.data.items():
        expected = data.get(name)
        if not values or not expected or values == expected:
            continue
        # Classes may have names in one version and only numbers in another.
        if (
            name == "classes"
            and len(values) == len(expected)
            and not first_difference(list(map(str, values)), expected)
        ):
            continue
        raise ValueError(
            f"workdir: {workdir} holds a run on data of {LIST_NAMES.get(name, name)} "
            f"{_format_few(values)}, found {_format_few(expected)}; set data.path or "
            "choose another --workdir"
        )


def _difference_lines(different: Mapping[str, list[Any]]) -> list[str]:
    """Returns one line for each field that differs."""
    return [
        f"  {name}: found {old!r}, expected {new!r}"
        for name, (old, new) in different.items()
    ]


def _format_few(values: Sequence[Any]) -> str:
    """Returns the first values as text, and their number if there are more."""
    more = f", ... {len(values)} in all" if len(values) > 4 else ""
    return f"({', '.join(map(str, values[:4]))}{more})"
