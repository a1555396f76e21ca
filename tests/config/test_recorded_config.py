"""A run's ``config.json`` as a config."""

import json

import pytest
from absl import flags

from diffkd_jax import main
from diffkd_jax.config.command_line import define_flags
from diffkd_jax.config.files import BadConfig, read_config
from diffkd_jax.config.resolve import resolve
from tests.helpers.configs import tiny_config


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The record of a run that was told to stop before its first step."""
    from diffkd_jax.train.workdir.claim import claim_workdir

    config = tiny_config(**{"data.mean": (0.4,), "weights": {"logits": 0.5}})
    workdir = tmp_path_factory.mktemp("run")
    claim_workdir(resolve(config), workdir, {"classes": ["a"], "pictures": [1, 2]})
    return config, workdir / "config.json"


OWN = "tests.helpers.own_model:make"


def test_a_record_gives_the_config_of_its_run(recorded):
    config, file = recorded
    record = read_config(str(file), named=[OWN])
    assert record.to_dict() == config.to_dict()


def test_import_paths_of_a_record_are_named_again(recorded, monkeypatch, capsys):
    _, file = recorded
    with pytest.raises(ValueError, match=r"student.model: found the import path"):
        read_config(str(file))
    values = flags.FlagValues()
    define_flags(values)
    monkeypatch.setattr("sys.argv", [])
    arguments = ["main", f"--config={file}", f"--config.student.model={OWN}"]
    with pytest.raises(SystemExit):
        main.parse_flags(arguments, values)
    shown = capsys.readouterr().err
    assert f"add --config.teacher.model={OWN}" in shown
    values = flags.FlagValues()
    define_flags(values)
    arguments += [f"--config.teacher.model={OWN}", "--config.seed=7"]
    main.parse_flags(arguments, values)
    assert (values.config.seed, values.config.data.mean) == (7, (0.4,))
    assert values.config.student.options.width == 4


def test_every_import_path_of_a_record_counts(recorded, tmp_path, payload):
    """Also import paths of methods, distances, evaluations and optimizers."""
    name, proof = payload
    _, file = recorded
    for path in (
        *("method", "optimizer.name", "data.name", "task.name", "teacher.model"),
        *("methods.diffkd.distance", "evaluations.x.of", "student.options.layer"),
        "method_options.distance",
    ):
        record = json.loads(file.read_text())
        record["student"]["model"] = record["teacher"]["model"] = "resnet8"
        *sections, key = path.split(".")
        target = record
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = name
        copy = tmp_path / "config.json"
        copy.write_text(json.dumps(record))
        with pytest.raises(ValueError, match=f"{path}: found the import path"):
            read_config(str(copy))
    record["evaluations"] = {name: {}}
    record["method_options"] = {}
    copy.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="evaluations"):
        read_config(str(copy))
    assert not proof.exists()


RUN = '{"version": "0.4.0", "student": {}, "train": {}, '


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "found no readable JSON"),
        ("[1]", "expected the config.json of a run"),
        ("{}", "expected the config.json of a run"),
        (
            RUN + '"data": 3}',
            "found data 3, expected an object",
        ),
        (
            RUN + '"data": {"a": 1}}',
            "found the field data.a",
        ),
        (
            RUN + '"data": {}, "seed": "x"}',
            "seed: found 'x'",
        ),
        (
            RUN + '"data": {}, "sead": 1}',
            "the field sead",
        ),
    ],
)
def test_other_json_is_one_line(text, message, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(BadConfig, match=message):
        read_config(str(file))
