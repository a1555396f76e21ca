"""Files that PyTorch wrote (``tests/golden/torch_files``), read without it."""

import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffkd_jax.weights.torch.reader import read_state_dict
from tests.helpers.goldens import GOLDEN

FOLDER = GOLDEN / "torch_files"


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_every_dtype_view_and_shape(name):
    found = read_state_dict(FOLDER / name)
    with np.load(FOLDER / "expected.npz") as expected:
        assert set(found) == set(expected)
        for key in expected:
            wanted = expected[key]
            dtype = ml_dtypes.bfloat16 if key == "bf16" else wanted.dtype
            assert (found[key].dtype, found[key].shape) == (dtype, wanted.shape)
            np.testing.assert_array_equal(found[key].astype(wanted.dtype), wanted)


def test_wrappers_prefixes_and_diffkd_blocks_are_taken_off():
    found = read_state_dict(FOLDER / "wrapped.pth")
    assert set(found) == {
        *("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean"),
        *("1.running_var", "1.num_batches_tracked"),
    }


def test_safetensors(tmp_path):
    arrays = {"a.weight": np.eye(3, dtype=np.float32), "b": np.ones(2, np.float16)}
    save_file(arrays, tmp_path / "file.safetensors")
    found = read_state_dict(tmp_path / "file.safetensors")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


class Hostile:
    """A pickle that creates a file when it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_hostile_file_runs_nothing(kind, tmp_path):
    proof, path = tmp_path / "ran", tmp_path / "file.pth"
    code = pickle.dumps({"weight": Hostile(proof)}, protocol=2)
    pickle.loads(code)
    assert proof.exists()  # so the pickle is one that would
    proof.rmdir()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", code)
    else:
        path.write_bytes(code)
    with pytest.raises(ValueError, match=r"file.pth: .*posix.mkdir.* could run code"):
        read_state_dict(path)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_truncated_files_are_refused(name, share, tmp_path):
    data = (FOLDER / name).read_bytes()
    path = tmp_path / "file.pth"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"file.pth: "):
        read_state_dict(path)


# {"w": _rebuild_tensor_v2(<float storage "0" of 4>, 2, (3,), (1,))} by hand: the last
# number would be the fifth.
OUTSIDE = (
    b"(S'w'\nctorch._utils\n_rebuild_tensor_v2\n"
    b"((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
    b"I%d\n(I3\nt(I1\nttRd."
)


def test_tensors_outside_their_storage_are_refused(tmp_path):
    path = tmp_path / "file.pth"

    def write(offset):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", OUTSIDE % offset)
            archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())

    write(1)
    np.testing.assert_array_equal(read_state_dict(path)["w"], [1, 2, 3])
    write(2)
    with pytest.raises(ValueError, match="outside its storage"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file"),
        (b"hello, no weights here", "expected weights in a .safetensors or .pth"),
        (pickle.dumps([1, 2]), "found a pickle that torch.save did not write"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state_dict(tmp_path / "file.pth")


def test_a_file_without_arrays_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"epoch": 3}))
    with pytest.raises(
        ValueError, match=r"found no arrays by name \(but \['epoch'\]\)"
    ):
        read_state_dict(tmp_path / "file.pth")
    with pytest.raises(FileNotFoundError, match=r"nothing.pth: found nothing"):
        read_state_dict(tmp_path / "nothing.pth")
