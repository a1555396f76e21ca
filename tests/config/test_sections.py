"""Fields of a config: defaults, types, ranges, and all errors at once."""

import functools
import json
import math

import pydantic
import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from diffkd_jax.bounds import expected
from diffkd_jax.config.defaults import base
from diffkd_jax.config.recipes import recipes
from diffkd_jax.config.resolve import resolve
from diffkd_jax.config.sections import FIELDS
from diffkd_jax.core.train_state import MAX_SEED
from diffkd_jax.data.images.resize import INTERPOLATIONS
from tests.helpers.configs import load_config
from tests.helpers.goldens import GOLDEN

WITHOUT_WORDS = {
    "comparison.variants",
    "evaluations",
    "methods",
    "method_options",
    "weights",
} | {f"{section}.options" for section in ("task", "data", "student", "teacher")}


def rows(config, at=""):
    """Path to the type and the default of each field."""
    fields = {}
    for name, value in config.items():
        path = f"{at}{name}"
        if isinstance(value, ConfigDict) and len(value):
            fields |= rows(value, f"{path}.")
        elif isinstance(value, ConfigDict):
            fields[path] = ["dict", {}]
        else:
            fields[path] = [config.get_type(name).__name__, value]
    return fields


def test_defaults_and_types_of_flags_are_those_of_0_3():
    """The file holds the table of defaults from before fields were typed."""
    config = base()
    # These came later.
    del config.methods, config.comparison, config.probe
    del config.train.distill_warmup_epochs, config.train.diagnose_every
    current = json.loads(json.dumps(rows(config)))
    assert current == json.loads((GOLDEN / "base_config.json").read_text())


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_says_what_it_means_and_takes(path):
    field = FIELDS[path]
    assert field.meaning.endswith(".")
    assert bool(expected(field.kind)) == (path not in WITHOUT_WORDS)


def test_choices_are_those_of_what_reads_them():
    assert f"at most {MAX_SEED}" in expected(FIELDS["seed"].kind)
    assert expected(FIELDS["data.interpolation"].kind) == (
        f"one of {list(INTERPOLATIONS)}"
    )


@pytest.mark.parametrize("name", recipes())
def test_recipes_resolve_to_what_they_set(name):
    config = load_config(name)
    resolved = resolve(config)
    assert resolved.model_dump() == config.to_dict()
    assert resolve(resolved) is resolved
    assert resolve(FrozenConfigDict(config)) == resolved


def errors(**fields):
    """The lines of the error of a config with other values, whatever their types."""
    values = load_config("quickstart").to_dict()
    for path, value in fields.items():
        *sections, name = path.split(".")
        functools.reduce(lambda c, section: c[section], sections, values)[name] = value
    with pytest.raises(ValueError, match="found") as error:
        resolve(values)
    return str(error.value).splitlines()


def test_all_errors_come_at_once():
    lines = errors(
        **{
            "seed": -1,
            "mode": "nothing",
            "data.batch_size": 2.5,
            "data.mean": (0.5, 127.0),
            "data.train_size": (
                64,
                64,
            ),
            "mix.mixup": "much",
            "student.init_into": "head",
            "teacher.optimizer.name": "sdg",
            "train.label_smoothing": math.nan,
            "methods.kd.tua": 3.0,
        }
    )
    assert lines == [
        "mode: found 'nothing', expected one of ['train', 'evaluate', 'predict', "
        "'probe']",
        "seed: found -1, expected an integer at least 0 and at most 2147483647",
        "data.batch_size: found 2.5, expected an integer at least 1",
        "data.mean: found (0.5, 127.0), expected numbers at least 0 and at most 1, one "
        "or one a channel: levels of 0 to 255 are brought to 0 to 1 before",
        "student.init_into: found 'head' without student.init, expected a file of "
        "weights there",
        "teacher.optimizer.name: found 'sdg', expected one of ['sgd', 'rmsprop', "
        "'adamw'] or 'package.module:name'",
        "train.label_smoothing: found nan, expected a number at least 0 and below 1",
        "mix.mixup: found 'much', expected a number at least 0 and at most 1000",
        "methods.kd.tua: found 3.0, expected any of ['tau', 'weight', 'task_weight']",
    ]


WRONG = [
    (
        {"data.btach_size": 3},
        "data.btach_size: found 3, expected no such field; n",
    ),
    ({"data": 3}, "data: found 3, expected a mapping of names to values"),
    ({"methods.dk": {"tau": 1.0}}, "methods: found 'dk', expected one of ['none', "),
    ({"methods.kd": 3}, "methods.kd: found 3, expected a mapping of names to values"),
    ({"methods": 3}, "methods: found 3, expected a mapping of names to values"),
    ({"method": "dk"}, "method: found 'dk', expected one of ['none', "),
    ({"compare": ("kd", "dk")}, "compare: found 'dk', expected one of ['none', "),
    (
        {"compare": ("kd", "kd")},
        "compare: found ('kd', 'kd'), expected each method once",
    ),
    ({"compare": "kd"}, "compare: found 'kd', expected a tuple of texts"),
    (
        {"weights": {"task": True}},
        "weights.task: found True, expected a number at l",
    ),
    ({"evaluations": {"agreement": {"evry": 1.0}}}, "evaluations.agreement.evry: foun"),
    (
        {"evaluations": {"agreement": {"every_epochs": -1.0}}},
        "evaluations.agreement.every_epochs: found -1.0, expected a number at least 0",
    ),
    ({"data.channels": True}, "data.channels: found True, expected one of [0, 3]"),
    ({"data.flip": 1}, "data.flip: found 1, expected True or False"),
    ({"train.epochs": True}, "train.epochs: found True, expected a number at least 0"),
    ({"data.scale": (True, 2.0)}, "data.scale: found (True, 2.0), expected the least"),
    ({"seed": True}, "seed: found True, expected an integer at least 0"),
    ({"train.epochs": math.inf}, "train.epochs: found inf, expected a number at least"),
    (
        {"teacher.min_score": math.nan},
        "teacher.min_score: found nan, expected a number",
    ),
    (
        {"schedule.boundaries": (3, 2)},
        "schedule.boundaries: found (3, 2), expected epoc",
    ),
    (
        {"teacher.epochs": 1.0, "teacher.data.augment": "resized_crop"},
        "teacher.data.image_size: found 0, expected a size in pixels for teacher.da",
    ),
    (
        {"teacher.epochs": 1.0, "teacher.schedule.name": "exponential"},
        "teacher.schedule.every_epochs: found 0, expected above 0 for the sched",
    ),
]


@pytest.mark.parametrize(("fields", "line"), WRONG)
def test_a_wrong_value_is_a_line(fields, line):
    (error_line,) = errors(**fields)
    assert error_line.startswith(line)


def test_what_is_no_config_is_refused():
    with pytest.raises(ValueError, match="config: found NoneType, expected a Config"):
        resolve(None)
    values = load_config("quickstart").to_dict()
    values["student"]["options"] = {3: "channels"}
    with pytest.raises(ValueError, match=r"^student.options.3: found 'channels', exp"):
        resolve(values)


def test_lists_are_taken_as_tuples():
    config = ConfigDict(load_config("quickstart").to_dict())
    with config.ignore_type():
        config.data.mean, config.compare = [0.5], ["kd", "none"]
    resolved = resolve(config)
    assert (resolved.data.mean, resolved.compare) == ((0.5,), ("kd", "none"))


def test_the_teacher_s_recipe_is_the_student_s_with_its_own_fields():
    config = load_config("quickstart")
    config.teacher.optimizer.learning_rate, config.teacher.data.scale = 0.3, (1.0, 1.0)
    typed = resolve(config)
    recipe = typed.teacher_recipe()
    assert recipe["optimizer"] == typed.optimizer.replace(learning_rate=0.3)
    assert recipe["data"] == typed.data.replace(scale=(1.0, 1.0))
    assert recipe["train"] == typed.train


def test_sections_are_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        resolve(load_config("quickstart")).data.batch_size = 3
