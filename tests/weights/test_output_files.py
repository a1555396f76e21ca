"""Commands write the named file, and replace no file of the user."""

import os

import numpy as np
import pytest

from diffkd_jax import export_weights, import_weights
from diffkd_jax.weights.files import export_model, load_model
from diffkd_jax.weights.output_files import appearing
from diffkd_jax.weights.untrained import build_untrained
from diffkd_jax.weights.weights import is_ours, open_weights
from tests.helpers.variables import random_variables

SHAPE = (8, 8, 3)


def small():
    options = {"channels": [4, 4, 4, 8]}
    model = build_untrained("resnet8", options, {"num_classes": 3}, SHAPE)
    return model._replace(variables=random_variables(model.module, SHAPE))


@pytest.fixture
def run(tmp_path):
    """A workdir like that of a finished run."""
    export_model(tmp_path / "run/model.safetensors", small())
    (tmp_path / "run/config.json").write_text("{}")
    (tmp_path / "run/checkpoints/8").mkdir(parents=True)
    return tmp_path / "run"


def files(folder):
    """Content of each file below a folder."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(capsys, *arguments, main=export_weights.main):
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert len(said.err.splitlines()) == 1
    return said.err


def export(source, target, *flags):
    return (f"--from={source}", f"--to={target}", *flags)


@pytest.mark.parametrize("flags", [(), ("--force",)])
@pytest.mark.parametrize(
    "target",
    [
        *("model.safetensors", "model_ema.safetensors", "./../run/model.safetensors"),
        *(
            "checkpoints/8/new.safetensors",
            "link.safetensors",
            "linked/any.safetensors",
        ),
    ],
)
def test_no_file_of_a_run_is_replaced(target, flags, run, capsys):
    (run / "link.safetensors").symlink_to("model.safetensors")
    (run / "linked").symlink_to("checkpoints/8")
    before = files(run)
    error = refused(capsys, *export(run, run / target, *flags))
    assert "--to: found " in error
    assert files(run) == before


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_the_source_is_not_replaced_through_a_link(link, run, tmp_path, capsys):
    link(run / "model.safetensors", tmp_path / "same.safetensors")
    target = tmp_path / "same.safetensors"
    for flags in ((), ("--force",)):
        error = refused(capsys, *export(run, target, *flags))
        assert "the file that is read" in error
    assert is_ours(open_weights(target))
    alone = tmp_path / "alone.safetensors"
    export_model(alone, small())
    assert "file that is read" in refused(capsys, *export(alone, alone, "--force"))
    load_model(alone)


@pytest.mark.parametrize("ending", ["pth", "pt", "onnx", "npz", "bin", "h5", "", "PTH"])
def test_a_name_of_another_format_is_refused(ending, run, tmp_path, capsys):
    target = tmp_path / (f"student.{ending}" if ending else "student")
    error = refused(capsys, *export(run, target))
    assert "expected a name that ends in .safetensors" in error
    assert not target.exists()


def test_a_file_that_is_there_stays_without_force(run, tmp_path, capsys):
    target = tmp_path / "student.safetensors"
    target.write_bytes(b"mine")
    assert "--force" in refused(capsys, *export(run, target))
    assert target.read_bytes() == b"mine"
    assert export_weights.main(list(export(run, target, "--force"))) == 0
    assert target.read_bytes() != b"mine"
    target.unlink()
    target.symlink_to(tmp_path / "nothing")
    assert "--force" in refused(capsys, *export(run, target))
    assert target.is_symlink()


def test_directories_and_files_are_not_mixed_up(run, tmp_path, capsys):
    (tmp_path / "folder.safetensors").mkdir()
    target = tmp_path / "folder.safetensors"
    assert "found the directory" in refused(capsys, *export(run, target, "--force"))
    (tmp_path / "plain").write_text("mine")
    target = tmp_path / "plain/a/b.safetensors"
    assert f"found the file {tmp_path / 'plain'}, expected a directory" in refused(
        capsys, *export(run, target)
    )


def test_a_new_file_in_a_workdir_is_taken_and_its_neighbours_stay(run):
    """A neighbour is, for example, the ``.partial`` file of another program."""
    (run / "student.partial").write_text("mine")
    assert export_weights.main(list(export(run, run / "student.safetensors"))) == 0
    assert (run / "student.partial").read_text() == "mine"
    assert not list(run.glob(".*"))


def test_a_file_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("old")

    def write():
        with appearing(tmp_path / "file") as partial:
            partial.write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.fixture
def weights(run, tmp_path):
    """A file to import."""
    path = tmp_path / "torch.safetensors"
    assert export_weights.main(list(export(run, path))) == 0
    return path


OPTIONS = '--options={"channels": [4, 4, 4, 8]}'


def imported(source, target, *flags):
    return ("--model=resnet8", f"--from={source}", f"--to={target}", OPTIONS, *flags)


def test_an_import_writes_a_file_or_into_a_directory(weights, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for target, written in (
        ("there", "there/model.safetensors"),
        ("new/folder", "new/folder/model.safetensors"),
        ("v0.5", "v0.5/model.safetensors"),
        ("teacher.safetensors", "teacher.safetensors"),
    ):
        command = imported(weights, tmp_path / target)
        assert import_weights.main(list(command)) == 0
        assert str(tmp_path / written) in capsys.readouterr().out
        np.testing.assert_array_equal(
            load_model(tmp_path / written).variables["params"]["head"]["bias"],
            small().variables["params"]["head"]["bias"],
        )


def test_an_import_replaces_nothing(weights, run, tmp_path, capsys):
    main = import_weights.main
    before = files(tmp_path)
    for target, flags, word in (
        (run, (), "a file of a run"),
        (run, ("--force",), "a file of a run"),
        (weights, ("--force",), "the file that is read"),
        (tmp_path / "teacher.pth", (), "ends in .safetensors"),
        (tmp_path / "teacher.onnx", (), "ends in .safetensors"),
    ):
        command = imported(weights, target, *flags)
        assert word in refused(capsys, *command, main=main), target
    assert files(tmp_path) == before
    target = tmp_path / "teacher.safetensors"
    target.write_bytes(b"mine")
    assert "--force" in refused(capsys, *imported(weights, target), main=main)
    assert target.read_bytes() == b"mine"
    assert main(list(imported(weights, target, "--force"))) == 0
    load_model(target)
    (tmp_path / "list").write_text("mine")
    command = imported(weights, tmp_path / "list")
    assert "expected a directory, or a file" in refused(capsys, *command, main=main)
