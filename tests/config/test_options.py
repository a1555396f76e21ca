"""Options of tasks, models, methods and data, refused where they are declared."""

import math

import pytest

from diffkd_jax.models import MODELS
from diffkd_jax.models.options import option_names
from diffkd_jax.train.build import build
from tests.helpers.configs import load_config

RECIPES = {
    name: f"{name}_quickstart" for name in ("segmentation", "detection")
} | {"classification": "quickstart"}  # fmt: skip

BAD = [
    ("segmentation", "task.options", {"aux_weight": "text"}),
    ("segmentation", "task.options", {"aux_weight": math.nan}),
    ("segmentation", "task.options", {"aux_weight": -1.0}),
    ("segmentation", "task.options", {"align_corners": "maybe"}),
    ("segmentation", "task.options", {"window": 16}),
    ("segmentation", "task.options", {"window": (16, 16, 16)}),
    ("segmentation", "task.options", {"write_ids": 3}),
    ("segmentation", "student.options", {"rates": (1000000, 2, 3)}),
    ("segmentation", "student.options", {"aspp_channels": 10**6}),
    ("segmentation", "student.options", {"head_dropout": 2.0}),
    ("segmentation", "teacher.options", {"aspp_dropout": 1.0}),
    ("segmentation", "student.options", {"channels": (4, 4, 8)}),
    ("segmentation", "data.options", {"count": "ten"}),
    ("detection", "task.options", {"by_batch": "maybe"}),
    ("detection", "task.options", {"clamp_below": 7}),
    ("detection", "task.options", {"score": 1.0}),
    ("detection", "task.options", {"size_limits": (32.0,)}),
    ("detection", "student.options", {"width": 1000000}),
    ("detection", "student.options", {"norm_train": "yes"}),
    ("detection", "student.options", {"anchor_sizes": (0.0, 32.0)}),
    ("detection", "methods.diffkd_fpn", {"levels": ("p3", "p3")}),
    ("detection", "methods.diffkd_fpn", {"levels": "p3"}),
    ("detection", "methods.diffkd_fpn", {"share": 2}),
    ("classification", "methods.diffkd", {"num_steps": -1}),
    ("classification", "methods.diffkd", {"gradient": "some"}),
    ("classification", "methods.diffkd", {"tau": math.inf}),
    ("classification", "methods.diffkd", {"weight": True}),
    ("classification", "student.options", {"depth": 3}),
]


@pytest.mark.parametrize(("task", "section", "options"), BAD)
def test_options_that_cannot_be_are_named(task, section, options):
    config = load_config(RECIPES[task], "smoke")
    target = config
    for part in section.split("."):
        target = target[part]
    (name, value) = next(iter(options.items()))
    with target.unlocked():
        if name in target:
            del target[name]
        target[name] = value
    with pytest.raises(ValueError, match=rf"{name}'?.*(: found|, expected)") as error:
        build(config)
    assert section.split(".")[0] in str(error.value)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_number_of_a_built_in_model_has_a_range(name):
    """A share of 2, a negative number and one beyond memory are refused."""
    fields = option_names(MODELS[name])
    config = load_config("quickstart", "smoke")
    config.method = "none"
    config.student.model = name
    for field, kind in fields.items():
        for value in ({bool: 7, int: -1}.get(kind, math.nan), "some"):
            with config.unlocked():
                config.student.options = {field: value}
            with pytest.raises(ValueError, match=field):
                build(config)


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("segmentation", {"task.name": "classification"}),
        ("segmentation", {"data.name": "fashion_mnist_embedded"}),
        ("segmentation", {"data.name": "scene_boxes"}),
        ("detection", {"data.name": "scenes"}),
        ("classification", {"data.name": "scenes"}),
        ("classification", {"data.name": "scene_boxes", "data.num_classes": 0}),
        ("classification", {"task.name": "detection"}),
    ],
)
def test_data_of_another_kind_than_the_task_s_are_refused_by_name(task, fields):
    config = load_config(RECIPES[task], "smoke")
    with config.unlocked():
        config.data.options = {}
        if fields.get("task.name"):
            config.task.options = {}
    config.update_from_flattened_dict(fields)
    message = f"found '{config.data.name}'.*for task.name '{config.task.name}'"
    with pytest.raises(ValueError, match=message):
        build(config)


def test_a_student_of_which_nothing_trains_is_refused():
    config = load_config("quickstart", "smoke")
    config.optimizer.frozen = ("stem*", "*")
    with pytest.raises(ValueError, match="leaves nothing of the student to train"):
        build(config)


def test_a_step_of_scales_beyond_their_range_is_refused():
    config = load_config("segmentation_quickstart", "smoke")
    config.data.scale, config.data.scale_step = (0.5, 2.0), 5.0
    with pytest.raises(
        ValueError, match=r"data\.scale_step: found 5\.0, expected 0 or"
    ):
        build(config)
