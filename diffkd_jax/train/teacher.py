"""Teachers from files: loaded, checked against what a run expects, made ready."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from ..config.section import Section
from ..config.sections import Config, Student, Teacher
from ..models.inputs import check_input
from ..models.model import Model, split
from ..weights.checks import check_finite, expand
from ..weights.files import load_model, load_torch
from ..weights.metadata import OPTIONAL_FIELDS
from ..weights.output_files import EMA_FILE
from ..weights.paths import model_file
from ..weights.untrained import is_classifier
from ..weights.weights import is_ours, open_weights, read_description, read_input
from .workdir.checkpoint import checksum

LOG = logging.getLogger(__name__)


# Options that change how a model computes or trains, not which variables it has.
NOT_ARCHITECTURE = {"dtype", "dropout", "drop_path", "norm_group_size"}


def check_source(config: Config) -> None:
    """Refuses a config that neither names a teacher nor trains one.

    Raises:
      ValueError: the fields ``teacher.init``, ``epochs`` and ``weights`` do not go
        together.
    """
    if config.teacher.init:
        return
    if not config.teacher.epochs:
        raise ValueError(
            "teacher.init: found '', expected an exported student, or the workdir of a "
            "finished run, or teacher.epochs > 0 to train one"
        )
    if config.teacher.weights and not config.teacher_recipe()["train"].ema_decay:
        raise ValueError(
            "teacher.weights: found 'ema' for a teacher that is trained here, expected "
            "'', or a train.ema_decay above 0"
        )


def directory_of(config: Config, workdir: pathlib.Path) -> pathlib.Path:
    """Returns where the teacher of a run is trained.

    >>> str(directory_of(Config(), pathlib.Path("run")))
    'run/teacher'
    """
    return expand(config.teacher.workdir or workdir / "teacher")


def teacher_config(config: Config) -> Config:
    """Returns the config that trains ``config.teacher`` as an undistilled student.

    What its own sections set takes the place of the student's recipe. What the teacher
    does not depend on is at its default, so that runs can share a teacher.
    """
    teacher, recipe = config.teacher, config.teacher_recipe()
    recipe["train"] = recipe["train"].replace(epochs=teacher.epochs, distill_every=1)
    recipe["optimizer"] = recipe["optimizer"].replace(frozen=())
    student = Student(model=teacher.model, options=teacher.options, dtype=teacher.dtype)
    return config.replace(
        name=f"{config.name}-teacher",
        method="none",
        methods={},
        method_options={},
        weights={},
        evaluations={},
        compare=(),
        student=student,
        teacher=Teacher(
            model=teacher.model,
            options=teacher.options,
            dtype=teacher.dtype,
            num_classes=teacher.num_classes,
            epochs=teacher.epochs,
        ),
        **recipe,
    )


@contextlib.contextmanager
def teacher_fields_named(config: Config) -> Iterator[None]:
    """Names the teacher's own fields in errors of the run that trains it.

    Raises:
      ValueError: as it was raised, its fields as ``config`` has them.
    """
    try:
        yield
    except ValueError as error:
        section, _, field = str(error).partition(":")[0].partition(".")
        own = getattr(config.teacher, section, None)
        if isinstance(own, Section) and getattr(own, field, None) is not None:
            raise ValueError(f"teacher.{error}") from error
        raise


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
    opened, meta = open_weights(model_file(path, weights)), expected.meta
    file = opened.path
    if is_ours(opened):
        found = read_description(opened)
        _check_fits(file, found, meta)
        if weights == "ema" and file.name != EMA_FILE:
            raise ValueError(
                f"teacher.weights: found 'ema' for {file}, expected a workdir with "
                f"{EMA_FILE}, or that file"
            )
        loaded = load_model(opened, meta["model"])
        LOG.info("teacher: %s", file)
    else:
        loaded, reference = load_torch(
            opened,
            meta["model"],
            meta["options"],
            tuple(meta["input_shape"]),
            meta["num_classes"],
            weights,
        )
        LOG.info("teacher: %s, named as by %s", file, reference)
        found = {**meta, **read_input(opened)}
    check_input(f"teacher.init: {file}", found, meta, lambda: is_classifier(expected))
    check_finite(f"teacher.init: {file}", loaded.variables)
    image = jax.ShapeDtypeStruct((1, *meta["input_shape"]), np.float32)
    params, state = split(loaded.variables)
    if freeze:
        params, state = expected.freeze(params, state, {"image": image})
    # What its own file says; its classes need not be those of the data.
    own = {field: loaded.meta[field] for field in OPTIONAL_FIELDS}
    own["checksum"] = checksum(loaded.variables)
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
