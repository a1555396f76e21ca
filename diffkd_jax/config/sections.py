"""The whole config: every field with its default, its range, its meaning and mark."""

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_serializer, model_validator

from .comparison import (
    SECTIONS,
    Comparison,
    Seed,
    Variant,
    Weight,
    check_once,
    name_faults,
)
from .data import DataConfig, data_faults
from .machine import MOST_DEVICES, Distributed, Mesh
from .section import Epochs, Free, Section, Texts, fields_of, optional, raise_for_faults
from .training import Mix, Optimizer, Schedule, Train, recipe_faults

DType = Literal["float32", "bfloat16", "float16"]


class Checkpoint(Section):
    """The times of the checkpoints that are written between evaluations."""

    every_minutes: Annotated[Epochs, Free] = 10.0
    """Minutes between two checkpoints; 0 for those of evaluations alone."""


class EvaluationConfig(Section):
    """A further evaluation of student and teacher.

    Only the fields that are set are written to ``config.json``.
    """

    every_epochs: Epochs = 0.0
    """Epochs between two of them; 0 for eval_every_epochs."""
    split: str = ""
    """Split to evaluate on; "" for data.eval_split."""
    of: str | None = None
    """Import path of the evaluation, if its key is not the name of one."""

    @model_serializer(mode="plain")
    def _set_by_hand(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in sorted(self.model_fields_set)}


class TaskConfig(Section):
    """The task that the student learns."""

    name: str = "classification"
    """Task: classification, segmentation, detection, or an import path."""
    options: Mapping[str, Any] = {}
    """Arguments of the task's function, besides mix and train.label_smoothing."""


class Student(Section):
    """The model that is trained."""

    model: str = ""
    """Name of the model, or an import path."""
    options: Mapping[str, Any] = {}
    """Arguments of the model's function."""
    dtype: DType = "float32"
    """Type of its computations; norms and losses stay float32."""
    init: str = ""
    """Weights to start from: a workdir, or a file as for teacher.init."""
    init_into: str = ""
    """Path of the part of the model that the weights are for; "" for all of it."""
    init_leave_out: Texts = ()
    """Patterns of paths in the weights that are not taken, such as "head/*"."""
    inherit: Texts = ()
    """Patterns of paths that start with the teacher's values."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        unused = {n: getattr(self, n) for n in ("init_into", "init_leave_out")}
        raise_for_faults(
            f"student.{name}: found {value!r} without student.init, expected a file "
            "of weights there"
            for name, value in unused.items()
            if value and not self.init
        )
        return self


# Sections that a teacher may set for its own training; unset fields are the student's.
OwnTrain = optional(Train, "max_steps", "label_smoothing", "ema_decay")
OwnSchedule, OwnMix = optional(Schedule), optional(Mix)
OwnOptimizer = optional(Optimizer, without="frozen")
OwnData = optional(
    DataConfig,
    *("batch_size", "augment", "padding", "flip", "scale", "scale_step"),
    *("rand_augment", "rand_augment_std", "color_jitter"),
)
RECIPE = ("train", "schedule", "optimizer", "mix", "data")


class Teacher(Section):
    """The model that is distilled: loaded from init, or trained here for epochs.

    A teacher that is trained here uses the student's recipe. Values that are set in the
    sections below replace those of the student.
    """

    model: str = ""
    """Name of the model, or an import path."""
    options: Mapping[str, Any] = {}
    """Arguments of the model's function."""
    dtype: DType = "float32"
    """Type of its computations; norms and losses stay float32."""
    num_classes: Annotated[int, Field(ge=0, le=2**24)] = 0
    """Classes of its head; 0 for those of the data."""
    init: Annotated[str, Free] = ""
    """Workdir of a run, or weights: ours, .safetensors or .pth."""
    weights: Literal["", "ema"] = ""
    """Weights to take from init: "ema" for the moving average."""
    epochs: Epochs = 0.0
    """Epochs to train it, once, if init is not set."""
    workdir: Annotated[str, Free] = ""
    """Folder to train it in; "" for WORKDIR/teacher."""
    min_score: float | None = None
    """Worst headline score with which the run starts."""
    train: OwnTrain = OwnTrain()  # type: ignore[valid-type]
    schedule: OwnSchedule = OwnSchedule()  # type: ignore[valid-type]
    optimizer: OwnOptimizer = OwnOptimizer()  # type: ignore[valid-type]
    mix: OwnMix = OwnMix()  # type: ignore[valid-type]
    data: OwnData = OwnData()  # type: ignore[valid-type]


class Probe(Section):
    """The size of a probe."""

    seconds: Annotated[float, Field(ge=1, le=1e6), Free] = 300.0
    """Seconds of training that all short runs of a probe share."""


class Config(Section):
    """All fields of a run.

    >>> Config(student=Student(model="resnet8"), seed=3).seed
    3
    """

    name: str = ""
    """Name of the run; the default workdir is runs/NAME."""
    mode: Annotated[Literal["train", "evaluate", "predict", "probe"], Free] = "train"
    """Train; evaluate or predict with the exported student; or probe in minutes what
    distillation can gain."""
    probe: Probe = Probe()
    predictions: Annotated[str, Free] = ""
    """New folder for predictions; "" for WORKDIR/predictions."""
    dry_run: Annotated[bool, Free] = False
    """Print sizes and taps, and train nothing."""
    seed: Seed = 0
    """Seed of initial weights, order, augmentation and diffusion noise."""
    num_devices: Annotated[int, Field(ge=0, le=MOST_DEVICES), Free] = 0
    """Devices to use; 0 for all."""
    mesh: Mesh = Mesh()
    distributed: Distributed = Distributed()
    log_every_steps: Annotated[int, Field(ge=1, le=10**9), Free] = 20
    """Steps between two rows of metrics."""
    eval_every_epochs: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Epochs between two evaluations, each with a checkpoint."""
    checkpoint: Checkpoint = Checkpoint()
    evaluations: Mapping[str, EvaluationConfig] = {}
    """Further evaluations by name, such as agreement, with the fields of Evaluation."""
    compare: Annotated[
        Texts, AfterValidator(functools.partial(check_once, "method")), Free
    ] = ()
    """Methods, and names of comparison.variants, to run one after the other; the first
    one is the reference."""
    comparison: Comparison = Comparison()
    method: str = "diffkd"
    """Method: a key of methods, or an import path."""
    methods: Mapping[str, Mapping[str, Any]] = {}
    """Arguments of each method's function."""
    method_options: Mapping[str, Any] = {}
    """Arguments of a method that is named by import path."""
    weights: Mapping[str, Weight] = {}
    """Weights of losses: task, TAP/distance, TAP/diffusion, TAP/autoencoder or TAP."""
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    student: Student = Student()
    teacher: Teacher = Teacher()
    train: Train = Train()
    mix: Mix = Mix()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _together(self) -> Self:
        raise_for_faults(_faults(self))
        return self

    def teacher_recipe(self) -> dict[str, Any]:
        """Returns the sections of the recipe for the teacher, by their names."""
        recipe = {}
        for name in RECIPE:
            overrides = dict(getattr(self.teacher, name))
            values = {
                field: value for field, value in overrides.items() if value is not None
            }
            recipe[name] = getattr(self, name).replace(**values)
        return recipe

    def for_row(self, row: str) -> Self:
        """Returns the config of the runs of one row of a comparison.

        Args:
          row: a value of ``compare``: a method, or a key of ``comparison.variants``.

        >>> variant = Variant(method="kd", optimizer={"learning_rate": 0.05})
        >>> comparison = Comparison(variants={"low": variant})
        >>> config = Config(compare=("none", "low"), comparison=comparison)
        >>> config.for_row("low").method, config.for_row("low").optimizer.learning_rate
        ('kd', 0.05)
        """
        variant = self.comparison.variants.get(row, Variant())
        method = variant.method or row
        methods = dict(self.methods)
        for name, options in variant.methods.items():
            methods[name] = {**methods.get(name, {}), **options}
        changed = variant.changes()
        sections = {
            name: getattr(self, name).replace(**changed[name])
            for name in SECTIONS
            if name in changed
        }
        return self.replace(
            name=self.name if method == row else f"{self.name}-{row}",
            method=method,
            methods=methods,
            method_options={**self.method_options, **variant.method_options},
            weights={**self.weights, **variant.weights},
            compare=(),
            comparison=Comparison(),
            **sections,
        )


FIELDS = {field.path: field for field in fields_of(Config)}


def _faults(config: Config) -> Iterator[str]:
    """Yields an error line for each forbidden combination of fields of the sections."""
    epochs, size = config.train.epochs, config.data.batch_size
    yield from recipe_faults(
        config.schedule, config.optimizer, epochs, "", "train.epochs"
    )
    warmup = config.train.distill_warmup_epochs
    if epochs and warmup > epochs:
        yield (
            f"train.distill_warmup_epochs: found {warmup}, expected at most {epochs}, "
            "train.epochs"
        )
    yield from _group_faults(config, size, "data.batch_size")
    needs_methods = not config.compare and config.mode != "probe"
    if config.comparison != Comparison() and needs_methods:
        yield (
            f"comparison: found {config.comparison.model_dump(exclude_defaults=True)} "
            "without compare, expected the methods there, such as none,diffkd"
        )
    else:
        yield from _comparison_faults(config)
    if config.teacher.epochs:
        recipe = config.teacher_recipe()
        yield from recipe_faults(
            *(recipe["schedule"], recipe["optimizer"], config.teacher.epochs),
            *("teacher.", "teacher.epochs"),
        )
        if recipe["data"] != config.data:
            size = recipe["data"].batch_size
            yield from _group_faults(config, size, "teacher.data.batch_size")
            yield from data_faults(recipe["data"], "teacher.data.")


def _comparison_faults(config: Config) -> Iterator[str]:
    """Yields an error line for each row that does not fit the comparison."""
    variants = config.comparison.variants
    yield from name_faults(variants, config.compare)
    methods = {row: config.for_row(row).method for row in config.compare}
    if "self" in methods.values() and "none" not in methods:
        yield (
            f"compare: found {config.compare}, expected 'none' beside 'self', whose "
            "teacher is the student of 'none'"
        )
    for row in variants:
        run, at = config.for_row(row), f"comparison.variants.{row}."
        epochs, size = run.train.epochs, run.data.batch_size
        if (run.schedule, run.optimizer, epochs) != (
            *(config.schedule, config.optimizer, config.train.epochs),
        ):
            of = f"{at}train.epochs"
            yield from recipe_faults(run.schedule, run.optimizer, epochs, at, of)
        if run.train.norm_group_size != config.train.norm_group_size:
            yield from _group_faults(run, size, "data.batch_size", at)


def _group_faults(config: Config, size: int, of: str, at: str = "") -> Iterator[str]:
    """Yields an error line if norm groups do not divide batches of this size."""
    group = config.train.norm_group_size
    if config.mode in ("train", "probe") and group and size % group:
        yield (
            f"{at}train.norm_group_size: found {group}, expected 0 or a divisor of "
            f"{of}, {size}"
        )
