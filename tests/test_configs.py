"""Every config runs two steps, on embedded images."""

import functools
import json

import pytest

from diffkd_jax import main
from diffkd_jax.methods import METHODS, build_method
from tests.helpers.configs import ROOT, load_config

ALL = {p.stem for p in (ROOT / "configs").glob("[!_]*.py")}
DENSE = {  # in test_dense_configs.py
    *("cityscapes", "segmentation_quickstart"),
    *("coco", "detection_quickstart", "tree_crowns"),
}
NAMES = sorted(ALL - DENSE)


def test_there_are_configs():
    assert {"quickstart", "cifar10", "cifar100", "imagenet"} | DENSE <= ALL


MARKS = {"quickstart": (pytest.mark.optimised,)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, ())) for name in sorted(ALL)]
)
def test_smoke(name, tmp_path):
    """The config of ``--config=NAME:smoke`` on one device, as a CPU has."""
    config = load_config(name, "smoke")
    config.num_devices = 1
    main.run(config, str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["method"].startswith("diffkd")


@pytest.mark.parametrize("name", NAMES)
def test_the_dry_run_of_the_real_recipe(name, capsys):
    """The recipe, except for its data set, which may not be on this machine."""
    config = load_config(name)
    config.dry_run = True
    config.data.name, config.data.path = "fashion_mnist_embedded", ""
    config.data.eval_split, config.data.num_classes = "test", 0
    config.data.mean, config.data.std = (0.5,), (0.5,)
    main.run(config)
    out = capsys.readouterr().out
    assert "features/" not in out
    assert "diffusion x 1" in out
    assert ("autoencoder x 1" in out) == (name in ("imagenet", "real_teacher"))


OF_PYRAMIDS = ("diffkd_fpn", "fgd", "mse_fpn")
ON_CLASSES = [name for name in METHODS if name not in OF_PYRAMIDS]


@pytest.mark.parametrize("method", ON_CLASSES)
def test_every_method_has_losses_for_its_weights(method, capsys):
    config = load_config("quickstart")
    config.method, config.dry_run = method, True
    config.methods.cwd.output = "features"  # which are maps
    main.run(config)
    shown = capsys.readouterr().out
    for name in build_method(method, {"cwd": {"output": "features"}}).weights:
        assert name == "task" or f"{name.split('/')[1]} x " in shown


def test_recipe_a1():
    config = load_config("cifar100", "resnet32x4-resnet8x4")
    assert (config.teacher.model, config.student.model) == ("resnet32x4", "resnet8x4")
    assert (config.train.epochs, config.data.batch_size) == (240, 64)
    assert config.schedule.boundaries == (150, 180, 210)
    assert config.optimizer.learning_rate == 0.05
    assert config.optimizer.weight_decay == 5e-4
    assert not config.optimizer.nesterov


@pytest.mark.parametrize(
    ("pair", "shapes", "rule"),
    [
        ("wrn_40_2-wrn_40_1", ("8x8x64", "8x8x128"), ""),
        ("resnet56-resnet20", ("8x8x64", "8x8x64"), ""),
        ("resnet32x4-resnet8x4", ("8x8x256", "8x8x256"), ""),
        ("cifar_resnet50-cifar_mobilenet_v2", ("2x2x1280", "4x4x2048"), "4x4 -> 2x2"),
        ("resnet32x4-shufflenet_v1", ("4x4x960", "8x8x256"), "8x8 -> 4x4"),
        ("resnet32x4-shufflenet_v2", ("4x4x1024", "8x8x256"), "8x8 -> 4x4"),
    ],
)
def test_pairs_of_table_9_and_their_spatial_rule(pair, shapes, rule, capsys):
    config = load_config("cifar100", pair)
    config.dry_run, config.num_devices = True, 1
    config.method = "diffkd_features"
    config.data.name, config.data.num_classes = "fashion_mnist_embedded", 0
    config.data.channels, config.data.image_size, config.data.resize = 3, 32, 32
    main.run(config)
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("features")).split()
    assert (row[2], row[4]) == shapes
    expected = f"features: teacher {rule} by average pooling"
    assert (lines[-1] == expected) == bool(rule)


# Section 3 of the paper's appendix, and what its code adds.
RECIPES = {
    "b1": {
        "train.epochs": 100,
        "train.label_smoothing": 0,
        "train.ema_decay": 0,
        "train.norm_group_size": 32,
        "data.batch_size": 256,
        "data.interpolation": "bilinear",
        "data.rand_augment": 0,
        "data.color_jitter": 0,
        "mix.mixup": 0,
        "mix.cutmix": 0,
        "mix.erase": 0,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.1,
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 1e-4,
        "optimizer.decay_norms_and_biases": False,
        "optimizer.clip_norm": 0,
        "schedule.name": "step",
        "schedule.boundaries": (30, 60, 90),
        "schedule.factor": 0.1,
        "schedule.warmup_epochs": 0,
    },
    "b2": {
        "train.epochs": 450,
        "train.label_smoothing": 0.1,
        "train.ema_decay": 0.9999,
        "train.norm_group_size": 96,
        "data.batch_size": 768,
        "data.interpolation": "bilinear",
        "data.rand_augment": 9,
        "data.rand_augment_std": 0.5,
        "data.color_jitter": 0,
        "mix.mixup": 0,
        "mix.cutmix": 0,
        "mix.erase": 0.2,
        "optimizer.name": "rmsprop",
        "optimizer.learning_rate": 0.048,
        "optimizer.momentum": 0.9,
        "optimizer.decay": 0.9,
        "optimizer.epsilon": 1e-3,
        "optimizer.weight_decay": 1e-5,
        "optimizer.decay_norms_and_biases": False,
        "optimizer.clip_norm": 0,
        "schedule.name": "exponential",
        "schedule.factor": 0.97,
        "schedule.every_epochs": 2.4,
        "schedule.warmup_epochs": 3,
        "schedule.warmup_start": 1e-6,
    },
    "b3": {
        "train.epochs": 300,
        "train.label_smoothing": 0.1,
        "train.ema_decay": 0,
        "train.norm_group_size": 64,
        "data.batch_size": 1024,
        "data.interpolation": "bicubic",
        "data.rand_augment": 9,
        "data.rand_augment_std": 0.5,
        "data.color_jitter": 0.4,
        "mix.mixup": 0.8,
        "mix.cutmix": 1.0,
        "mix.switch": 0.5,
        "mix.erase": 0.25,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 5e-4,
        "optimizer.weight_decay": 5e-2,
        "optimizer.decay_norms_and_biases": False,
        "optimizer.clip_norm": 5,
        "schedule.name": "cosine",
        "schedule.end": 5e-6,
        "schedule.warmup_epochs": 20,
        "schedule.warmup_start": 5e-7,
        "student.options.drop_path": 0.2,
    },
}
# Tables 2 and 3: recipe, teacher, student, width of the autoencoder.
PAIRS = {
    "r34-r18": ("b1", "resnet34", "resnet18", 1024),
    "r50-mbv1": ("b1", "resnet50", "mobilenet_v1", 1024),
    "r50-r34": ("b2", "resnet50", "resnet34", 1024),
    "r50-mbv2": ("b2", "resnet50", "mobilenet_v2", 1024),
    "r50-effb0": ("b2", "resnet50", "efficientnet_b0", 1024),
    "swin_l-r50": ("b2", "swin_l", "resnet50", 768),
    "swin_l-swin_t": ("b3", "swin_l", "swin_t", 768),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_imagenet_pairs_follow_their_recipe(pair):
    recipe, teacher, student, latent = PAIRS[pair]
    config = load_config("imagenet", pair)
    for field, value in RECIPES[recipe].items():
        actual = functools.reduce(lambda c, name: c[name], field.split("."), config)
        assert actual == value, field
    assert (config.teacher.model, config.student.model) == (teacher, student)
    assert (config.data.image_size, config.data.resize) == (224, 256)
    options = config.methods.diffkd
    assert options.latent_channels == latent
    assert (options.student == "last_conv") == (student == "efficientnet_b0")
    assert {options.weight, options.logits_weight} == {1.0}
    assert not config.weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "student"),
    [
        ("r50-r34", "resnet8"),
        ("swin_l-swin_t", "tests.helpers.own_model:small_swin"),
    ],
)
def test_smoke_of_recipes_b2_and_b3(pair, student, tmp_path):
    """The pair is small, so that it compiles faster."""
    config = load_config("imagenet", f"{pair},smoke")
    config.num_devices = 1
    config.teacher.model, config.student.model = "resnet8", student
    config.methods.diffkd.update(num_steps=1, latent_channels=16)
    main.run(config, str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == 2
    assert ("final_ema_top1" in summary) == (pair == "r50-r34")


@pytest.mark.parametrize("pair", ["r50-mbv1", "r50-effb0", "swin_l-swin_t"])
def test_the_dry_run_of_an_imagenet_pair(pair, capsys):
    """Sizes of the blocks of the official code: 11.3 M for ResNet-50 to MobileNetV1."""
    config = load_config("imagenet", pair)
    config.dry_run, config.num_devices = True, 1
    config.method = "diffkd_features"
    config.data.name, config.data.eval_split = "fashion_mnist_embedded", "test"
    config.data.num_classes, config.data.batch_size = 0, 2
    config.train.norm_group_size = 2
    config.data.mean, config.data.std, config.data.channels = (0.5,), (0.5,), 3
    main.run(config)
    row = capsys.readouterr().out.splitlines()[-1].split()
    latent = "768" if pair.startswith("swin") else "1024"
    assert row[:2] == ["features", "last_conv" if "effb0" in pair else "features"]
    assert row[5].endswith(f"x{latent}")
    if pair == "r50-mbv1":
        assert row[6].startswith("11,3")


@pytest.mark.parametrize("method", ["kd", "dkd", "dist", "mse", "none", "diffkd_dist"])
def test_imagenet_methods_by_argument(method):
    assert load_config("imagenet", f"r50-mbv1,{method}").method == method
    assert load_config("imagenet", method).student.model == "resnet18"
    with pytest.raises(ValueError, match="imagenet: found 'r50-r17'"):
        load_config("imagenet", f"r50-r17,{method}")
