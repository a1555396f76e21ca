"""A run is checked before its first step; a comparison checks all its runs."""

import pytest

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.train.commands.planned_runs import configs_by_row
from tests.helpers.configs import tiny_config


def test_a_comparison_checks_the_teacher_before_any_method_trains(tmp_path):
    """``none`` needs no teacher, and must not train before a wrong one is found."""
    for fields, message in (
        ({"teacher.init": str(tmp_path / "nowhere")}, "nowhere"),
        ({"teacher.epochs": 0.0}, "teacher.init: found ''"),
        ({"teacher.optimizer.name": "lion"}, "^teacher.optimizer.name: found 'lion'"),
        ({"teacher.optimizer.name": "no:w"}, "^teacher.optimizer.name: found 'no:w'"),
        ({"student.init": str(tmp_path / "nowhere")}, "nowhere"),
        ({"teacher.weights": "ema"}, "teacher.weights: found 'ema'"),
        ({"num_devices": 8, "data.batch_size": 12}, "data.batch_size: found 12"),
        ({"compare": ("none", "kd", "nothing")}, "compare: found 'nothing'"),
        ({"compare": ("none", "kd", "none")}, "compare: found .* each method once"),
    ):
        config = tiny_config(**{"compare": ("none", "kd")} | fields)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            main.run(config, str(tmp_path / "run"))
        assert not (tmp_path / "run").exists(), fields


def test_a_comparison_checks_the_workdirs_of_all_methods_first(tmp_path):
    """Otherwise a run of another config would be found there after hours."""
    fields = {"optimizer.learning_rate": 0.2, "train.max_steps": 1}
    main.run(tiny_config(method="none", **fields), str(tmp_path / "mse"))
    config = tiny_config(compare=("none", "mse"), **{"train.max_steps": 1})
    with pytest.raises(ValueError, match=r"learning_rate: found 0\.2"):
        main.run(config, str(tmp_path))
    assert not (tmp_path / "none").exists()


def test_a_file_in_place_of_a_later_directory_is_found_first(tmp_path):
    """The directory is that of a later method, or that of the teacher."""
    file, runs = tmp_path / "file", tmp_path / "runs"
    file.write_text("x")
    config = tiny_config(compare=("none", "kd"), **{"teacher.workdir": str(file / "t")})
    with pytest.raises(ValueError, match=f"found the file {file}, expected a direct"):
        main.run(config, str(runs))
    assert not runs.exists()
    runs.mkdir()
    (runs / "kd").write_text("x")
    with pytest.raises(ValueError, match="runs/kd, expected a directory"):
        main.run(tiny_config(compare=("none", "kd")), str(runs))
    assert not (runs / "none").exists()


def test_a_foreign_report_is_not_overwritten(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"report\.html, which is not of a comparison"):
        main.run(tiny_config(compare=("none",)), str(tmp_path))
    assert (tmp_path / "report.html").read_text() == "mine"


def test_weights_that_no_method_of_a_comparison_has_are_named(caplog):
    weights = {"logits": 2.0, "logitz": 3.0}
    configs_by_row(resolve(tiny_config(compare=("none", "kd"), weights=weights)))
    assert "weights: ['logitz']: found in no method of ('none', 'kd')" in caplog.text


def test_a_run_without_a_teacher_ignores_changed_teacher_fields(tmp_path, capsys):
    """Correcting ``teacher.options`` must not invalidate runs without a teacher."""
    fields = {"method": "none", "train.max_steps": 1}
    main.run(tiny_config(**fields), str(tmp_path))
    mended = {"teacher.model": "resnet8", "teacher.options": {"channels": (4, 4, 4, 8)}}
    main.run(tiny_config(**fields | mended), str(tmp_path))
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student.init": "/nowhere"}, "/nowhere: found nothing"),
        ({"num_devices": 8, "data.batch_size": 12}, "data.batch_size: found 12"),
        ({"teacher.weights": "mean"}, "teacher.weights: found 'mean'"),
        ({"teacher.weights": "ema"}, "teacher.weights: found 'ema'"),
        ({"teacher.optimizer.name": "lion"}, "^teacher.optimizer.name: found 'lion'"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(fields, message, tmp_path):
    for dry in (True, False):
        config = tiny_config(dry_run=dry, **fields)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            main.run(config, str(tmp_path / "run"))


def test_a_dry_run_without_a_teacher_logs_a_warning(tmp_path, caplog):
    config = tiny_config(dry_run=True, **{"teacher.epochs": 0.0})
    main.run(config, str(tmp_path / "run"))
    assert "teacher.init: found '', which a run needs" in caplog.text


def test_a_finished_comparison_no_longer_needs_its_teacher_s_file(
    finished, tmp_path, capsys
):
    file = tmp_path / "teacher.safetensors"
    file.write_bytes((finished / "teacher/model.safetensors").read_bytes())
    config = tiny_config(
        compare=("none", "kd"), **{"teacher.init": str(file), "train.max_steps": 1}
    )
    main.run(config, str(tmp_path / "runs"))
    file.unlink()
    capsys.readouterr()
    main.run(config, str(tmp_path / "runs"))
    assert capsys.readouterr().out.count("finished already") == 2
