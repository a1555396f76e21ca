"""Fields that all recipes share, and the arguments of recipes.

A recipe anywhere is a Python file with ``get_config(argument="")`` that starts from
:func:`base`; those in ``configs/`` are installed as ``diffkd_jax.configs``. Configs
hold names and numbers only. Every field can be set on the command line, as in
``--config.optimizer.learning_rate=0.1``,
``--config.methods.diffkd.num_steps=3`` or ``--config.weights.logits/distance=0.5``,
and
every argument of a model, a task or a data set, as in
``--config.student.options.width=0.5``.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ..methods import METHODS
from ..named import keywords

# Fields that may change between two calls on the same workdir.
FREE_FIELDS = (
    "mode",
    "predictions",
    "dry_run",
    "log_every_steps",
    "train.max_skipped",
    "train.chance_evaluations",
    "checkpoint.every_minutes",
    "compare",
    "num_devices",
    "mesh.fsdp",
    "mesh.fsdp_min_bytes",
    "distributed.enabled",
    "distributed.coordinator",
    "distributed.num_processes",
    "distributed.process_id",
    "distributed.local_devices",
    "distributed.start_seconds",
    "distributed.lost_seconds",
    "data.path",  # data can move; its classes and sizes are compared
    "data.num_threads",
    "data.num_workers",
    "data.max_unreadable",
    "data.max_doubtful",
    "data.stalled_seconds",
    "data.canvas",  # of evaluation
    "teacher.init",  # so can a teacher; its numbers are compared
    "teacher.workdir",
)
# Of a teacher that is trained here; its epochs are ``teacher.epochs``.
OF_TEACHER = {
    "train": ("max_steps", "label_smoothing", "ema_decay"),
    "data": (
        *("batch_size", "augment", "padding", "flip"),
        *("rand_augment", "rand_augment_std", "color_jitter"),
        *("scale", "scale_step"),
    ),
}


def base() -> ConfigDict:
    """Defaults of every field; recipes change what they need."""
    config = ConfigDict(
        {
            "name": "",  # names the default workdir, runs/<name>
            "mode": "train",  # of the exported student: "evaluate" or "predict"
            "predictions": "",  # new folder to predict into; <workdir>/predictions
            "dry_run": False,  # print sizes and taps, train nothing
            "seed": 0,
            "num_devices": 0,  # 0 for all
            # Devices that share one copy of state and teacher: arrays of so many bytes
            # are split over them. For models that do not fit a device.
            "mesh": {"fsdp": 1, "fsdp_min_bytes": 2**20},
            "distributed": {
                "enabled": False,  # one process a host, each started the same way
                # The rest is found on Cloud TPU, Slurm, Open MPI and Kubernetes, or in
                # JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.
                "coordinator": "",  # "address:port" of process 0
                "num_processes": 0,
                "process_id": -1,  # 0 to num_processes - 1
                "local_devices": (),  # or JAX_LOCAL_DEVICE_IDS; all by default
                "start_seconds": 300.0,  # to wait for all processes
                "lost_seconds": 60.0,  # without a sign of life of another one
            },
            "log_every_steps": 20,
            "eval_every_epochs": 1.0,  # evaluation and checkpoint
            # Checkpoints in between, where the last one is older; 0 for none. Looked
            # at every log_every_steps, or 100.
            "checkpoint": {"every_minutes": 10.0},
            # Further evaluations: {"agreement": {}} with "every_epochs" (0 for
            # eval_every_epochs), "split" ("" for eval_split), "of" (an import path).
            "evaluations": {},
            "compare": (),  # methods to run one after the other
            "method": "diffkd",  # a key of methods
            # Options of methods are the arguments of diffkd_jax.methods.METHODS.
            "methods": options_of(METHODS),
            "method_options": {},  # the same of a method that is named by import path
            # Of losses, besides those of the method: "task", "<tap>/distance",
            # "<tap>/diffusion", "<tap>/autoencoder", or "<tap>" for all of a tap.
            "weights": {},
            "task": {
                "name": "classification",
                "options": {},  # beside mix and train.label_smoothing
            },
            "data": {
                "name": "",  # fashion_mnist_embedded, cifar10, ..., tfds/<name>
                "path": "",  # file or directory, where the data set needs one
                "options": {},  # further arguments of the data set
                "train_split": "train",
                "eval_split": "test",  # "holdout" for choosing hyper-parameters
                "holdout": 0,  # training pictures kept for eval_split "holdout"
                "limit": 0,  # pictures of a split, drawn over all classes; 0 for all
                "num_classes": 0,  # checked against the data, 0 for no check
                "batch_size": 64,
                "eval_batch_size": 256,  # rounded up to a multiple of the devices
                # Or "resized_crop", "scale_crop_flip", "resize_flip", "none".
                "augment": "crop_flip",
                "padding": 4,
                "flip": True,
                # scale_crop_flip, resize_flip: height and width of what is trained on;
                # of the former the factors of the size, in steps (0: any between).
                "train_size": (),
                "scale": (0.5, 2.0),
                "scale_step": 0.1,
                "rand_augment": 0.0,  # magnitude, 0 to 10; 0 for none
                "rand_augment_std": 0.5,
                "color_jitter": 0.0,  # factors within 1 +- this; 0 for none
                "image_size": 0,  # pixels; 0 keeps the size
                "eval_size": 0,  # of evaluation, 0 for image_size
                # Height and width to which whole pictures are padded in evaluation,
                # where they are of several sizes.
                "canvas": (),
                # Shorter side before the central crop, or on the canvas, pixels; 0 for
                # its own.
                "resize": 0,
                # The most that the longer side becomes on a canvas; 0 for any length.
                "resize_longest": 0,
                # resize_flip: shorter sides of which one is drawn; () for resize.
                "train_resize": (),
                # Whether canvas and train_size are turned for pictures that are higher
                # than wide; then all pictures of a batch are so, or none is.
                "two_canvases": False,
                "keep_empty": False,  # train on pictures without an object too
                "max_objects": 100,  # of a picture to train on; the largest are kept
                "interpolation": "bilinear",  # or "bicubic"
                "channels": 0,  # 3 for grey pictures as RGB, 0 keeps them
                "mean": (0.0,),
                "std": (1.0,),
                "exact_crops": False,  # resized_crop as Pillow does it, slower
                "num_threads": 2,
                "num_workers": 0,  # processes that prepare batches, 0 for threads
                "max_unreadable": 0.001,  # share of pictures that may not decode
                # Share of what cannot be right: objects or files that stand twice, or
                # evaluation images that are also in training. Below 100 it is only
                # counted and named.
                "max_doubtful": 0.01,
                # The level of images of 16 bits that is white, such as 4095 for a
                # camera of 12 bits; 0 for 65535.
                "max_level": 0,
                "stalled_seconds": 600.0,  # without a batch, after which a run ends
            },
            "student": {
                "model": "",
                "options": {},
                "dtype": "float32",
                "init": "",  # weights to start from, as of teacher.init
                "init_into": "",  # path of the subtree that they are for
                "init_leave_out": (),  # patterns of paths in them, such as "head/*"
                "inherit": (),  # patterns of paths that start as the teacher's
            },
            "teacher": {
                "model": "",
                "options": {},
                "dtype": "float32",  # or "bfloat16": norms and losses stay float32
                "num_classes": 0,  # of its head, 0 for the classes of the data
                "init": "",  # workdir of a run, or weights: ours, .safetensors, .pth
                "weights": "",  # or "ema": the average, where init holds one
                "epochs": 0.0,  # without init: train it so long, once
                "workdir": "",  # where to train it; <workdir>/teacher by default
                # Worst headline score to start with, in its direction.
                "min_score": placeholder(float),
            },
            "train": {
                "epochs": 0.0,
                "max_steps": 0,
                "label_smoothing": 0.0,
                # Consecutive examples a group of batch norm statistics, in student and
                # distiller; 0 for the whole batch.
                "norm_group_size": 0,
                "ema_decay": 0.0,  # average of the student, evaluated beside it
                # Steps that may be left out where their numbers are not finite, before
                # the run stops.
                "max_skipped": 0,
                # Distil at the first of so many steps, in the others train on the task
                # alone, its weight as it is. Above 1 it is another method, and a
                # cheaper one. What is logged is a mean over the steps that have it,
                # loss/total over all of them.
                "distill_every": 1,
                # Evaluations in a row no better than a guess, after which the log says
                # so; 0 for never.
                "chance_evaluations": 3,
            },
            "mix": {
                "mixup": 0.0,  # alpha, 0 for never
                "cutmix": 0.0,  # likewise
                "switch": 0.5,  # probability of CutMix where both are on
                "erase": 0.0,  # probability of random erasing
            },
            "optimizer": {
                "name": "sgd",  # or "rmsprop", "adamw"
                "learning_rate": 0.1,
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 5e-4,
                "decay_norms_and_biases": True,
                "frozen": (),  # patterns of the student's paths that do not train
                "clip_norm": 0.0,  # largest norm of the whole gradient, 0 for any
                "decay": 0.9,  # rmsprop: of the average of squares
                "epsilon": 1e-3,  # rmsprop: inside the root
            },
            "schedule": {
                "name": "step",  # or "exponential", "cosine", "poly", "constant"
                "boundaries": (),  # step: epochs
                "factor": 0.1,  # step, exponential
                "every_epochs": 0.0,  # exponential
                "end": 0.0,  # cosine, poly: last learning rate
                "power": 0.9,  # poly
                "warmup_epochs": 0.0,
                "warmup_start": 0.0,  # first learning rate
            },
        }
    )
    # The teacher's own recipe: what is set in these takes the place of the student's.
    for name in ("schedule", "optimizer", "mix"):
        config.teacher[name] = unset(config[name])
    del config.teacher.optimizer.frozen
    config.teacher.train = unset({k: config.train[k] for k in OF_TEACHER["train"]})
    config.teacher.data = unset({k: config.data[k] for k in OF_TEACHER["data"]})
    return config


def options_of(functions: Mapping[str, Callable]) -> ConfigDict:
    """The keyword arguments of functions by name, with their defaults.

    >>> options_of({"kd": lambda *, tau=4.0: None}).kd.tau
    4.0
    """
    return ConfigDict(
        {
            name: {k: _default(v) for k, v in keywords(function).items()}
            for name, function in functions.items()
        }
    )


def _default(value: Any) -> Any:
    """None becomes a field that may be a number later."""
    return placeholder(int) if value is None else value


def unset(section: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a section, each None until it is set, of the same types."""
    return {name: placeholder(type(value)) for name, value in section.items()}


def cifar(pair: str, dataset: str) -> ConfigDict:
    """Recipe A1 (paper, appendix): 240 epochs of SGD, x0.1 at 150, 180 and 210.

    Args:
      pair: ``<teacher>-<student>``, or "smoke".
      dataset: "cifar10" or "cifar100".
    """
    pair = "wrn_16_2-wrn_16_1" if pair == "smoke" else pair
    teacher, separator, student = pair.partition("-")
    if not separator:
        raise ValueError(f"{dataset}: found {pair!r}, expected <teacher>-<student>")
    config = base()
    config.name = f"{dataset}-{pair}"
    config.teacher.model, config.student.model = teacher, student
    config.data.name = dataset
    config.data.num_classes = 100 if dataset == "cifar100" else 10
    config.data.batch_size = 64
    config.train.epochs = config.teacher.epochs = 240.0
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 5e-4
    config.schedule.boundaries = (150, 180, 210)
    config.log_every_steps = 100
    return config


def parse_argument(
    recipe: str, argument: str, *groups: Iterable[str]
) -> tuple[str, ...]:
    """The word of each group in ``argument``, words between commas; "" for none.

    Args:
      recipe: name of the recipe, for the message.
      argument: what stands behind the colon of ``--config``.
      groups: words of which one can be given; no word is in two groups.

    Raises:
      ValueError: an unknown word, or two of one group.

    >>> parse_argument("mine", "smoke,big", ["small", "big"], ["smoke"])
    ('big', 'smoke')
    """
    words = [word for word in argument.split(",") if word]
    found = [[word for word in words if word in group] for group in groups]
    known = {word for group in found for word in group}
    wrong = [word for word in words if word not in known]
    wrong += [word for group in found for word in group[1:]]
    if wrong:
        expected = " and one of ".join(str(list(group)) for group in groups)
        raise ValueError(f"{recipe}: found {wrong[0]!r}, expected one of {expected}")
    return tuple(group[0] if group else "" for group in found)


def shrink(config: ConfigDict) -> ConfigDict:
    """Two steps on a few embedded pictures: what ``:smoke`` of every recipe runs."""
    config.name += "-smoke"
    config.data.name, config.data.path = "fashion_mnist_embedded", ""
    config.data.num_classes, config.data.eval_split = 10, "test"
    config.data.mean, config.data.std = (0.2860,), (0.3530,)
    config.data.limit, config.data.batch_size = 64, 16
    config.data.eval_batch_size, config.data.num_workers = 32, 0
    config.train.max_steps, config.log_every_steps = 2, 1
    if not config.teacher.init:
        config.teacher.epochs = 1.0
        if config.schedule.warmup_epochs:
            config.teacher.schedule.warmup_epochs = 0.0
    if config.train.norm_group_size:
        config.train.norm_group_size = 8
    return config
