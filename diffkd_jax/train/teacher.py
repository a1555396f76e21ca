"""Says how a run gets its teacher, and loads the teacher from a file."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ..config.comparison import Comparison
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
from .workdir.checkpoint import compute_checksum

LOG = logging.getLogger(__name__)


TEACHER_DRAWS = 1  # separates the draws of a random teacher from other draws
# Options that change how a model computes or trains, not which variables it has.
NOT_ARCHITECTURE = {"dtype", "dropout", "drop_path", "norm_group_size"}


def check_teacher_fields(config: Config) -> None:
    """Checks whether the fields ``teacher`` of a config name a teacher or train one.

    Args:
      config: a resolved config.

    Raises:
      ValueError: ``teacher.init`` is empty and ``teacher.epochs`` is 0, or
        ``teacher.weights`` is "ema" and the training of the teacher keeps no moving
        average.

    >>> check_teacher_fields(Config())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: teacher.init: found '', expected an exported student, or ...
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


def teacher_directory(config: Config, workdir: pathlib.Path) -> pathlib.Path:
    """Returns the directory in which the teacher of a run is trained.

    Args:
      config: a resolved config.
      workdir: directory of the run.

    Returns:
      ``teacher.workdir``, or the folder ``teacher`` of the run.

    >>> str(teacher_directory(Config(), pathlib.Path("run")))
    'run/teacher'
    """
    return expand(config.teacher.workdir or workdir / "teacher")


def teacher_config(config: Config) -> Config:
    """Returns the config that trains ``config.teacher`` as an undistilled student.

    Sections that the teacher sets replace those of the student's recipe. Fields that do
    not affect the teacher are at their defaults, so that runs can share a teacher.

    Args:
      config: the resolved config of the run that needs the teacher.

    Returns:
      The config of the teacher's training.

    >>> teacher_config(Config()).method
    'none'
    """
    teacher, recipe = config.teacher, config.teacher_recipe()
    recipe["train"] = recipe["train"].replace(
        epochs=teacher.epochs, distill_every=1, distill_warmup_epochs=0.0
    )
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
        comparison=Comparison(),
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


def undistilled_config(config: Config) -> Config:
    """Returns the config that trains the student of a run without distillation.

    Args:
      config: the resolved config of the run.

    >>> undistilled_config(Config(weights={"task": 0.5, "logits": 2.0})).weights
    {'task': 0.5}
    """
    weights = {k: w for k, w in config.weights.items() if k.partition("/")[0] == "task"}
    return config.replace(
        method="none",
        method_options={},
        weights=weights,
        evaluations={},
        compare=(),
        comparison=Comparison(),
    )


def draw_teacher(expected: Model, batch: Mapping[str, Any], seed: int) -> Model:
    """Returns a teacher with random initial values.

    Args:
      expected: the untrained teacher of the run.
      batch: shapes of a normalised batch.
      seed: seed of the run. The values differ from those of a student with this seed.

    Returns:
      The teacher with its variables. Its ``meta`` holds their ``checksum``.
    """
    key = jax.random.fold_in(jax.random.key(seed), TEACHER_DRAWS)
    init = jax.jit(lambda key: expected.init(key, dict(batch)))
    params, state = jax.device_get(init(key))
    variables = {"params": params, **state}
    meta = {**expected.meta, "checksum": compute_checksum(variables)}
    return expected._replace(variables=variables, meta=meta)


def fold_teacher(teacher: Model) -> Model:
    """Returns a teacher with its batch norms folded.

    Args:
      teacher: a teacher with its variables.
    """
    shape = (1, *teacher.meta["input_shape"])
    image = jax.ShapeDtypeStruct(shape, np.float32)
    params, state = teacher.freeze(*split(teacher.variables), {"image": image})
    return teacher._replace(variables={"params": params, **state})


@contextlib.contextmanager
def prefix_teacher_fields(config: Config) -> Iterator[None]:
    """Adds ``teacher.`` to the field that an error of the teacher's training names.

    Otherwise the message would name the student's field, which may be right.

    Args:
      config: the config of the run that needs the teacher.

    Yields:
      Nothing; the teacher is trained in the context.

    Raises:
      ValueError: an error of the context. Its field gets the prefix if
        ``config.teacher`` sets that field.
    """
    try:
        yield
    except ValueError as error:
        section, _, field = str(error).partition(":")[0].partition(".")
        override = getattr(config.teacher, section, None)
        if isinstance(override, Section) and getattr(override, field, None) is not None:
            raise ValueError(f"teacher.{error}") from error
        raise


def load_teacher(
    path: str | pathlib.Path,
    expected: Model,
    weights: str = "",
    *,
    freeze: bool = True,
) -> Model:
    """Loads a trained teacher, checks that it fits, and folds its batch norms.

    Args:
      path: workdir of a finished run, a file that we exported, or weights of a PyTorch
        definition, see :mod:`diffkd_jax.weights.torch.reader`.
      expected: the untrained teacher of the run.
      weights: which set of weights, "" or "ema" for the moving average.
      freeze: whether to fold the batch norms. False leaves the variables as they are
        in the file.

    Returns:
      The teacher with its variables. Its ``meta`` holds the ``checksum`` of the numbers
      in the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the architecture, number of classes, channels, normalisation or image
        size differ from the expected ones, or numbers are not finite.
    """
    opened, meta = open_weights(model_file(path, weights)), expected.meta
    file = opened.path
    if is_ours(opened):
        stored = read_description(opened)
        _check_fits(file, stored, meta)
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
        stored = {**meta, **read_input(opened)}
    check_input(f"teacher.init: {file}", stored, meta, lambda: is_classifier(expected))
    check_finite(f"teacher.init: {file}", loaded.variables)
    # These come from the teacher's file; its classes need not be those of the data.
    file_meta = {field: loaded.meta[field] for field in OPTIONAL_FIELDS}
    file_meta["checksum"] = compute_checksum(loaded.variables)
    teacher = expected._replace(variables=loaded.variables, meta={**meta, **file_meta})
    return fold_teacher(teacher) if freeze else teacher


def _check_fits(
    file: pathlib.Path, stored: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    """Raises ValueError if a file holds another architecture than expected."""

    def facts(meta: Mapping[str, Any]) -> dict[str, Any]:
        options = {
            k: v for k, v in meta["options"].items() if k not in NOT_ARCHITECTURE
        }
        channels = meta["input_shape"][-1]
        return {**meta, "options": options, "channels": channels}

    expected_facts, stored_facts = facts(expected), facts(stored)
    for field, name in (
        ("model", "teacher.model"),
        ("options", "teacher.options"),
        ("num_classes", "teacher.num_classes or the data's class count"),
        ("channels", "the data's channels"),
    ):
        value, wanted = stored_facts[field], expected_facts[field]
        if value == wanted:
            continue
        if field == "options":  # only those that differ
            names = {k for k in {*value, *wanted} if value.get(k) != wanted.get(k)}
            value, wanted = (
                {k: v for k, v in x.items() if k in names} for x in (value, wanted)
            )
        raise ValueError(
            f"teacher.init: {file} holds {field} {value}, expected {wanted} ({name})"
        )
