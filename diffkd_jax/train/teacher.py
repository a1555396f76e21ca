"""Teachers from files: loaded, checked against what a run expects, made ready."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..models.inputs import check_input
from ..models.model import Model, split
from ..weights.checks import check_finite, expand
from ..weights.files import (
    EMA_FILE,
    described,
    is_classifier,
    is_ours,
    load_model,
    load_torch,
    model_file,
    read_description,
    read_input,
)
from .workdir.checkpoint import checksum

LOG = logging.getLogger(__name__)


# Options that change how a model computes or trains, not which variables it has.
NOT_ARCHITECTURE = {"dtype", "dropout", "drop_path", "norm_group_size"}

# Sections of the teacher, of which what is set takes the place of the student's.
OWN_RECIPE = ("train", "schedule", "optimizer", "mix", "data")


def check_source(config) -> None:
    """Refuses a config that neither names a teacher nor trains one.

    Raises:
      ValueError: the fields ``teacher.init``, ``epochs`` and ``weights`` do not go
        together.
    """
    weights = config.teacher.weights
    if weights not in ("", "ema"):
        raise ValueError(f"teacher.weights: found {weights!r}, expected '' or 'ema'")
    if config.teacher.init:
        return
    if not config.teacher.epochs:
        raise ValueError(
            "teacher.init: found '', expected an exported student, or the workdir of a "
            "finished run, or teacher.epochs > 0 to train one"
        )
    if weights and not teacher_config(config).train.ema_decay:
        raise ValueError(
            "teacher.weights: found 'ema' for a teacher that is trained here, expected "
            "'', or a train.ema_decay above 0"
        )


def directory_of(config, workdir: pathlib.Path) -> pathlib.Path:
    """Returns where the teacher of a run is trained.

    >>> from diffkd_jax.config import base
    >>> str(directory_of(base(), pathlib.Path("run")))
    'run/teacher'
    """
    return expand(config.teacher.workdir or workdir / "teacher")


def teacher_config(config) -> Any:
    """The config that trains ``config.teacher`` as an undistilled student.

    What its own sections set takes the place of the student's recipe.
    """
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.name = f"{config.name}-teacher"
        for field in ("model", "options", "dtype"):
            own.student[field] = own.teacher[field]
        own.student.init, own.student.init_into = "", ""
        own.student.init_leave_out, own.student.inherit = (), ()
        own.optimizer.frozen = ()
        for section in OWN_RECIPE:
            for field, value in config.teacher[section].items():
                if value is not None:
                    own[section][field] = value
                own.teacher[section][field] = None
        own.train.epochs = config.teacher.epochs
        # What the teacher does not depend on must not keep runs from sharing it.
        undistilled(own)
        own.compare, own.teacher.workdir, own.teacher.weights = (), "", ""
        own.teacher.min_score = None
    return own


def undistilled(config) -> None:
    """Makes a config one without a method, and all that goes with one; in place."""
    config.method = "none"
    for section in ("methods", "method_options", "weights", "evaluations"):
        config[section] = {}
    config.train.distill_every = 1


def load_teacher(
    path: str | pathlib.Path,
    expected: Model,
    weights: str = "",
    *,
    freeze: bool = True,
) -> Model:
    """A trained teacher that fits, frozen: its batch norms are folded.

    Its ``meta`` holds the ``checksum`` of its numbers before that.

    Args:
      path: workdir of a finished run, a file that we exported, or weights of a PyTorch
        definition, see :mod:`diffkd_jax.weights.torch.reader`.
      expected: the teacher of the run, untrained.
      weights: which of several sets, "" or "ema".
      freeze: false for its variables as they are in the file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another architecture, class count, channels, normalisation or size
        than expected, or numbers that are not finite.
    """
    file, meta = model_file(path, weights), expected.meta
    if is_ours(file):
        found = read_description(file)
        _check_fits(file, found, meta)
        if weights == "ema" and file.name != EMA_FILE:
            raise ValueError(
                f"teacher.weights: found 'ema' for {file}, expected a workdir with "
                f"{EMA_FILE}, or that file"
            )
        loaded = load_model(file, meta["model"])
        LOG.info("teacher: %s", file)
    else:
        loaded, reference = load_torch(
            file,
            meta["model"],
            meta["options"],
            tuple(meta["input_shape"]),
            meta["num_classes"],
            weights,
        )
        LOG.info("teacher: %s, named as by %s", file, reference)
        found = {**meta, **read_input(file)}
    check_input(f"teacher.init: {file}", found, meta, lambda: is_classifier(expected))
    check_finite(f"teacher.init: {file}", loaded.variables)
    image = jax.ShapeDtypeStruct((1, *meta["input_shape"]), np.float32)
    params, state = split(loaded.variables)
    if freeze:
        params, state = expected.freeze(params, state, {"image": image})
    # What its own file says; its classes need not be those of the data.
    own = described(loaded.meta) | {"checksum": checksum(loaded.variables)}
    variables = {"params": params, **state}
    return expected._replace(variables=variables, meta={**meta, **own})


def _check_fits(file: pathlib.Path, found: Mapping, expected: Mapping) -> None:
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
        if theirs[field] == ours[field]:
            continue
        found, wanted = theirs[field], ours[field]
        if field == "options":  # those that differ
            names = {k for k in {*found, *wanted} if found.get(k) != wanted.get(k)}
            found, wanted = (
                {k: v for k, v in x.items() if k in names} for x in (found, wanted)
            )
        raise ValueError(
            f"teacher.init: {file} holds {field} {found}, expected {wanted} ({name})"
        )
