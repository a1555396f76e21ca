"""Messages say what a file without weights is, whatever its name ends in."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffkd_jax import export_weights, import_weights
from diffkd_jax.weights.files import export_model, load_model, load_torch
from diffkd_jax.weights.paths import model_file
from diffkd_jax.weights.torch.reader import read_state_dict
from diffkd_jax.weights.untrained import build_untrained
from tests.helpers.goldens import GOLDEN
from tests.helpers.variables import random_variables

TORCH = GOLDEN / "torch_files/zip.pth"
SHAPE = (32, 32, 3)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 44789\n"


def archived():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
    return stream.getvalue()


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return stream.getvalue()


def saved(save, *arguments, **named):
    stream = io.BytesIO()
    save(stream, *arguments, **named)
    return stream.getvalue()


INDEX = {"metadata": {"total_size": 8}, "weight_map": {"fc.bias": "a-00001-of-00002"}}
KINDS = {
    "pointer": (POINTER, "a pointer of Git LFS.*git lfs pull"),
    "windows": (POINTER.replace(b"\n", b"\r\n"), "a pointer of Git LFS"),
    "annex": (b"/annex/objects/SHA256E-s9--01.pth\n", "git-annex.*git annex get"),
    "dvc": (b"outs:\n- md5: 0123\n  path: a.pth\n", "a pointer of DVC.*dvc pull"),
    "page": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", "a web page.*login"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied", "an XML text.*login"),
    "text": (b"404: Not Found", "a text that begins with '404: Not Found'.*again"),
    "json": (b'{"error": "Repository is gated"}', "a JSON text"),
    "index": (json.dumps(INDEX).encode(), r"an index of weights .*\(shards\)"),
    "indented": (json.dumps(INDEX, indent=2).encode(), r"\(shards\)"),
    "tar": (archived(), "a tar archive.*unpack it"),
    "gzip": (gzip.compress(b"weights"), "a gzip archive.*unpack it"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file.*save its weights"),
    "keras3": (zipped("config.json", "model.weights.h5"), "a model of Keras"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.4.0", "ONNX or TensorFlow"),
    "saved_model": (b"\x08\x01\x12\xc4\x9e\x04\n\xb2", "ONNX or TensorFlow"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(90), "a file of GGUF"),
    "npy": (saved(np.save, np.ones(3)), r"a NumPy array \(\.npy\)"),
    "npz": (saved(np.savez, a=np.ones(3)), r"arrays of NumPy \(\.npz\)"),
    "zip": (zipped("readme.txt"), r"a zip archive of \['readme\.txt'\]"),
    "empty_zip": (zipped(), "a zip archive without entries"),
    "torchscript": (
        zipped("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"),
        r"a module of TorchScript.*state_dict\(\)",
    ),
    "cut_zip": (TORCH.read_bytes()[:900], "without its end.* truncated"),
    "empty": (b"", "an empty file.*download it again"),
    "zeros": (bytes(5000), "begins with zeros"),
    "pickle": (pickle.dumps({"w": 1}), "a pickle that torch.save did not write"),
    "bytes": (b"\1\2\3\xff" * 9, "begins with the bytes 01 02 03 ff"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(90), r"a PNG image"),
    "umlaut": (b"a" + "ä".encode() * 3000, "a text that begins with 'aä"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_what_a_file_is_by_its_content(kind, name, tmp_path):
    content, message = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}: found .*{message}") as found:
        load_torch(path, "resnet8", {}, SHAPE)
    assert len(str(found.value).splitlines()) == 1
    assert "expected weights in a" in str(found.value)
    assert len(str(found.value)) < 400 + len(str(path))


@pytest.mark.parametrize("kind", ["pointer", "page", "index", "empty", "npz", "pickle"])
def test_every_reader_of_models_says_it(kind, tmp_path, capsys):
    content, message = KINDS[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    plain = message if kind not in ("npz", "pickle") else "a (zip archive|pickle)"
    with pytest.raises(ValueError, match=f"found {plain}"):
        load_model(tmp_path)
    target = f"--to={tmp_path / 'out.safetensors'}"
    assert export_weights.main([f"--from={tmp_path}", target]) == 1
    assert import_weights.main(["--model=resnet8", f"--from={path}", target]) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 2
    assert said.count(f"{path}: found ") == 2


def test_weights_of_torch_are_not_called_an_export(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(TORCH.read_bytes())
    with pytest.raises(ValueError, match=r"found a zip archive, .*teacher\.init"):
        load_model(tmp_path)
    save_file({"fc.bias": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"found no model exported by .*teacher\.init"):
        load_model(tmp_path)


def test_an_ending_that_lies_is_read_by_content(tmp_path):
    expected = read_state_dict(TORCH)
    (tmp_path / "zip.safetensors").write_bytes(TORCH.read_bytes())
    assert set(read_state_dict(tmp_path / "zip.safetensors")) == set(expected)
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "tensors.pth")
    assert set(read_state_dict(tmp_path / "tensors.pth")) == {"a"}


def test_a_truncated_safetensors_file_says_so(tmp_path):
    model = build_untrained("resnet8", {}, {"num_classes": 5}, SHAPE)
    model = model._replace(variables=random_variables(model.module, SHAPE))
    export_model(tmp_path / "model.safetensors", model)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for size in (20, 900, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        for read in (load_model, lambda p: read_state_dict(p / "model.safetensors")):
            with pytest.raises(ValueError, match="damaged or truncated") as found:
                read(tmp_path)
            assert f"in a file of {size:,} bytes" in str(found.value)


def test_links_that_lead_nowhere_and_folders(tmp_path):
    link = tmp_path / "weights.pth"
    link.symlink_to(tmp_path / "blobs/0123")
    with pytest.raises(
        FileNotFoundError, match=r"a link to .*blobs/0123, which does not"
    ):
        read_state_dict(link)
    with pytest.raises(
        FileNotFoundError, match=r"a link to .*blobs/0123, which does not"
    ):
        model_file(link)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: found a link to"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="found a directory, expected a file"):
        read_state_dict(tmp_path)


def test_urls_are_not_paths():
    for read in (load_model, read_state_dict):
        with pytest.raises(ValueError, match=r"^https://.*found a URL.*download"):
            read("https://download.example/resnet18.pth")


def test_a_folder_of_several_runs_names_them(tmp_path, capsys):
    for name in ("diffkd", "none", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "plots").mkdir()
    message = r"but the runs \['diffkd', 'none', 'teacher'\].*such as .*/diffkd$"
    with pytest.raises(FileNotFoundError, match=message):
        load_model(tmp_path)
    command = [f"--from={tmp_path}", f"--to={tmp_path / 'out.safetensors'}"]
    assert export_weights.main(command) == 1
    assert "but the runs ['diffkd', 'none', 'teacher']" in capsys.readouterr().err


def test_folders_without_a_model_say_what_they_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: found nothing"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(TORCH.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"but \['pytorch_model\.bin'\], expec"):
        load_model(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="expected a finished run"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("flax_model.msgpack", "a file of MessagePack, as Flax writes it"),
        ("model.ckpt.data-00000-of-00001", "a checkpoint of TensorFlow"),
        ("model.ckpt.index", "a checkpoint of TensorFlow"),
    ],
)
def test_formats_that_only_their_name_tells(name, kind, tmp_path):
    (tmp_path / name).write_bytes(b"\x84\xa6\xff\x01" * 99)
    with pytest.raises(ValueError, match=f"found {kind}, expected weights"):
        read_state_dict(tmp_path / name)


def test_a_shard_is_called_one(tmp_path):
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"conv1.weight": np.ones((1, 1, 1, 1), np.float32)}, path)
    with pytest.raises(ValueError, match="one of several shards"):
        load_torch(path, "resnet8", {}, SHAPE)
