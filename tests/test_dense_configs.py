"""Configs of dense tasks run two steps, on embedded or made-up images."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.models import build_network
from diffkd_jax.models.model import by_path
from diffkd_jax.weights.files import export_model
from diffkd_jax.weights.initial import frozen_mask
from diffkd_jax.weights.output_files import MODEL_FILE
from diffkd_jax.weights.untrained import build_untrained
from tests.helpers.configs import load_config

IDS = (7, 8, 11, 21, 23, 26, 0)  # road, sidewalk, building, ..., not labelled


@pytest.fixture
def cityscapes(tmp_path):
    """A tree in the right layout, of noise, with masks of blocks."""
    rng, data = np.random.default_rng(0), tmp_path / "data"
    for split, count in (("train", 4), ("val", 2)):
        folders = [data / x / split / "aachen" for x in ("leftImg8bit", "gtFine")]
        for folder in folders:
            folder.mkdir(parents=True)
        for i in range(count):
            name = f"aachen_{i:06}_000019"
            pixels = rng.integers(0, 256, (48, 96, 3), np.uint8)
            mask = rng.choice(IDS, (6, 12)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(folders[0] / f"{name}_leftImg8bit.png")
            Image.fromarray(mask).save(folders[1] / f"{name}_gtFine_labelIds.png")
    return data


def small(config):
    """A smoke run that compiles quickly."""
    config.num_devices = 1
    config.methods.diffkd_map.num_steps = 1
    return config


def test_smoke_of_the_quickstart(tmp_path):
    config = small(load_config("segmentation_quickstart", "smoke"))
    config.teacher.model = "deeplabv3_resnet8"
    main.run(config, str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["headline"]) == (2, "miou")
    assert 0 <= summary["final_miou"] <= 1
    assert {p.name for p in (tmp_path / "plots").iterdir()} >= {"iou.png", "masks.png"}
    with np.load(tmp_path / "examples.npz") as examples:
        assert examples["predicted/student/label"].shape == (6, 64, 64)
        assert examples["predicted/teacher/label"].dtype == np.uint8


@pytest.mark.slow
def test_a_comparison_shows_all_students(tmp_path):
    config = small(load_config("segmentation_quickstart", "compare,smoke"))
    config.teacher.model = "deeplabv3_resnet8"
    main.run(config, str(tmp_path))
    assert (tmp_path / "plots/masks.png").stat().st_size > 10_000
    assert "masks" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("argument", "student", "millions"),
    [
        ("", "deeplabv3_resnet18", "13,607"),
        ("scratch", "deeplabv3_resnet18", "13,607"),
        ("pspnet_r18,cwd", "pspnet_resnet18", "12,919"),
        ("deeplabv3_mbv2,dist", "deeplabv3_mobilenet_v2", "3,233"),
    ],
)
def test_the_rows_of_table_6(argument, student, millions, cityscapes, capsys):
    config = load_config("cityscapes", argument)
    config.dry_run, config.data.path, config.num_devices = True, str(cityscapes), 1
    config.data.batch_size, config.data.train_size = 2, (33, 65)  # traces faster
    config.train.epochs = 1.0
    main.run(config)
    out = capsys.readouterr().out
    assert f"student    {student}: {millions}," in out
    assert re.search(r"teacher    deeplabv3_resnet101: 6[01],\d{3},", out)  # folded


def test_the_recipe_of_cityscapes():
    config = load_config("cityscapes")
    assert round(config.train.epochs * (2975 // 16)) == 40_000
    assert (config.optimizer.name, config.optimizer.momentum) == ("sgd", 0.9)
    assert not config.optimizer.nesterov
    assert config.optimizer.learning_rate == 0.02
    assert config.optimizer.weight_decay == 5e-4
    assert (config.schedule.name, config.schedule.power) == ("poly", 0.9)
    assert config.schedule.end == 1e-4
    assert config.train.norm_group_size == 0
    assert config.data.train_size == (512, 1024)
    assert config.data.scale == (0.5, 2.0)
    assert config.methods.diffkd_map.distance == "dist"


def test_the_schedule_is_a_polynomial():
    from diffkd_jax.train.optimizer import make_schedule

    config = resolve(load_config("cityscapes"))
    peak = config.optimizer.learning_rate
    schedule = make_schedule(config.schedule, peak, 185, 40_000)
    for step in (0, 1000, 20_000, 39_999):
        expected = 1e-4 + (0.02 - 1e-4) * (1 - step / 40_000) ** 0.9
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-4)


def test_mixing_is_refused_where_a_task_has_none():
    config = load_config("segmentation_quickstart", "smoke")
    config.mix.mixup, config.dry_run = 0.2, True
    with pytest.raises(ValueError, match=r"mix\.mixup: found 0\.2, expected 0 for the"):
        main.run(config)


@pytest.fixture
def coco(tmp_path):
    """A tree of COCO: noise in both orientations, each image with two objects."""
    rng, data = np.random.default_rng(0), tmp_path / "data"
    categories = [{"id": k, "name": f"name {k}"} for k in (1, 17, 90)]
    for split, count in (("train2017", 6), ("val2017", 3)):
        (data / split).mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            width, height = (96, 64) if i % 3 else (64, 96)
            name = f"{i:012}.jpg"
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(data / split / name)
            sizes = {"width": width, "height": height}
            images.append({"id": 100 + i, "file_name": name, **sizes})
            for j in range(2):
                fields = {"id": len(annotations) + 1, "image_id": 100 + i, "iscrowd": 0}
                fields |= {"category_id": (1, 17, 90)[(i + j) % 3], "area": 700.0}
                annotations.append(fields | {"bbox": [4 + 20 * j, 6, 24.5, 30]})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        (data / "annotations").mkdir(exist_ok=True)
        file = data / f"annotations/instances_{split}.json"
        file.write_text(json.dumps(content))
    return data


def on_coco(config, folder):
    """The smoke run of ``coco`` on files in place of embedded scenes."""
    config.num_devices = 1
    with config.unlocked():
        config.data.name, config.data.options = "coco", {}
    config.data.path, config.data.num_classes = str(folder), 0
    config.data.train_split, config.data.eval_split = "train2017", "val2017"
    config.data.two_canvases = True
    return config


def light(config):
    """A smoke run of detection that compiles quickly, its teacher like its student."""
    with config.unlocked():
        config.num_devices = 1
        config.methods.diffkd_fpn.num_steps = 1
        config.teacher.model = config.student.model
        config.teacher.options = config.student.options
    return config


def test_smoke_of_detection(tmp_path):
    config = light(load_config("detection_quickstart", "smoke"))
    main.run(config, str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["headline"]) == (2, "ap")
    assert 0 <= summary["final_ap"] <= 1
    names = {p.name for p in (tmp_path / "plots").iterdir()}
    assert names >= {"ap.png", "precision.png", "boxes.png"}
    with np.load(tmp_path / "examples.npz") as examples:
        assert examples["predicted/student/boxes"].shape == (6, 100, 4)
        assert examples["predicted/teacher/valid"].dtype == bool


@pytest.mark.slow
@pytest.mark.parametrize("student", ["retinanet_r50,inherit", "fcos_r50", "faster_r50"])
def test_smoke_of_coco(student, coco, tmp_path):
    config = on_coco(load_config("coco", f"{student},smoke"), coco)
    config.methods.diffkd_fpn.num_steps = 1
    main.run(config, str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["steps"], summary["headline"]) == (2, "ap")
    config.mode = "predict"
    main.run(config, str(tmp_path / "run"))
    detections = json.loads((tmp_path / "run/predictions/detections.json").read_text())
    assert all(row["image_id"] in (100, 101, 102) for row in detections)
    assert all(row["category_id"] in (1, 17, 90) for row in detections)


@pytest.mark.parametrize(
    ("argument", "millions", "levels"),
    [
        ("", "36,3", "p3 p4 p5 p6 p7"),
        ("fcos_r50,mse_fpn", "32,1", "p3 p4 p5 p6 p7"),
        ("faster_r50,fgd", "41,3", "p2 p3 p4 p5"),
    ],
)
def test_the_rows_of_tables_4_and_5(argument, millions, levels, coco, capsys):
    config = load_config("coco", argument)
    config.dry_run, config.data.path, config.num_devices = True, str(coco), 1
    config.data.num_classes, config.data.batch_size = 0, 2
    config.data.canvas = config.data.train_size = (64, 96)  # traces faster
    config.data.resize, config.data.resize_longest = 64, 96
    config.train.epochs = 1.0
    main.run(config)
    out = capsys.readouterr().out
    kind = config.student.model
    assert f"student    {kind}: {millions}" in out
    assert f"teacher    {kind.replace('50', '101')}: " in out
    for level in levels.split():
        assert f"fpn/{level} " in out


def test_the_recipe_of_coco():
    config = load_config("coco", "faster_r50")
    assert config.optimizer.learning_rate == 0.02
    assert load_config("coco", "fcos_r50").optimizer.learning_rate == 0.01
    assert (config.train.epochs, config.data.batch_size) == (24, 16)
    assert config.schedule.boundaries == (16, 22)
    assert config.optimizer.weight_decay == 1e-4
    assert round(config.schedule.warmup_epochs * (117_266 // 16)) == 500
    assert config.schedule.warmup_start == 0.02 / 1000
    assert config.methods.diffkd_fpn.weight == 5
    assert (config.data.resize, config.data.resize_longest) == (800, 1333)
    boxes = load_config("coco", "retinanet_r50,kd_boxes").methods.diffkd_fpn
    assert boxes.box_weight == 1


@pytest.mark.slow
def test_smoke_of_tree_crowns(tmp_path):
    config = light(load_config("tree_crowns", "smoke"))
    main.run(config, str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["headline"]) == (2, "ap")


@pytest.mark.parametrize("student", ["retinanet_r50", "fcos_r50", "faster_r50"])
def test_all_but_the_backbone_is_inherited(student):
    config = load_config("coco", f"{student},inherit")
    options = config.student.options.to_dict() | {"width": 8, "fpn_channels": 32}
    model = build_network(config.student.model, num_classes=3, **options)
    shape = jax.ShapeDtypeStruct((1, 64, 96, 3), "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), shape)["params"]
    names = [n for n in by_path(params) if not n.startswith("backbone/")]
    named = frozen_mask(params, config.student.inherit, "")
    assert {n for n, taken in by_path(named).items() if taken} == set(names)
    for pattern in config.student.inherit:
        assert any(jax.tree.leaves(frozen_mask(params, [pattern], "")))


def test_patterns_to_inherit_are_checked_before_anything_is_trained(coco):
    config = on_coco(load_config("coco", "retinanet_r50,mse_fpn,inherit,smoke"), coco)
    config.dry_run = True
    config.student.inherit = (*config.student.inherit, "rpn_*")
    with pytest.raises(ValueError, match=r"student\.inherit: found 'rpn_\*'"):
        main.run(config)


def test_what_is_frozen_at_random_values_is_said(coco, caplog):
    config = on_coco(load_config("coco", "fcos_r50,none,smoke"), coco)
    config.dry_run = True
    main.run(config)
    assert "what is frozen stays at its random values" in caplog.text


@pytest.mark.parametrize(
    ("student", "weights"),
    [
        ("retinanet_r50", (0.5, 1e-3, 5e-4, 5e-4, 5e-6)),
        ("fcos_r50", (0.8, 1.6e-3, 8e-4, 8e-4, 8e-6)),
        ("faster_r50", (0.5, 5e-5, 2.5e-5, 5e-5, 5e-7)),
    ],
)
def test_the_weights_of_fgd_are_those_of_the_detector(student, weights):
    fgd = load_config("coco", f"{student},fgd").methods.fgd
    options = (fgd.temperature, fgd.alpha, fgd.beta, fgd.gamma, fgd.relation)
    assert options == weights


@pytest.mark.parametrize(
    "argument", ["fcos_r50,kd_boxes", "retinanet_r50,fgd,kd_boxes"]
)
def test_box_distillation_is_refused_where_there_is_none(argument):
    with pytest.raises(ValueError, match="coco: found 'kd_boxes' for"):
        load_config("coco", argument)


def test_a_method_that_matches_nothing_is_refused():
    config = load_config("detection_quickstart", "smoke")
    config.dry_run, config.methods.diffkd_fpn.levels = True, ()
    with pytest.raises(ValueError, match=r"methods\.diffkd_fpn\.levels: found \(\)"):
        main.run(config)


def test_a_trained_detector_needs_no_training_split(coco, tmp_path, capsys):
    """The run is an export of random weights, with three images."""
    config = load_config("detection_quickstart", "own,smoke")
    config.data.path, config.data.eval_split = str(coco), "val2017"
    for child in coco.iterdir():
        if "train" in child.name:
            shutil.rmtree(child)
    (coco / "annotations/instances_train2017.json").unlink()
    data = {"num_classes": 3, "class_names": ["name 1", "name 17", "name 90"]}
    options = config.student.options.to_dict()
    model = build_untrained(config.student.model, options, data, (256, 256, 3))
    image = {"image": jax.ShapeDtypeStruct((1, 256, 256, 3), "float32")}
    params, state = model.init(jax.random.key(0), image)
    variables = {"params": params, **state}
    export_model(tmp_path / MODEL_FILE, model._replace(variables=variables))
    config.mode, config.num_devices = "evaluate", 1
    main.run(config, str(tmp_path))
    assert "student  ap 0.0" in capsys.readouterr().out
    config.mode = "predict"
    with config.unlocked():
        config.task.options.score = 1e-3
    main.run(config, str(tmp_path))
    names = json.loads((tmp_path / "predictions/categories.json").read_text())
    assert names[1] == {"id": 17, "name": "name 17"}
    detections = json.loads((tmp_path / "predictions/detections.json").read_text())
    assert {row["image_id"] for row in detections} == {100, 101, 102}
    left, top, width, _ = np.transpose([row["bbox"] for row in detections])
    assert ((left >= 0) & (top >= 0) & (left + width <= 96.01)).all()


def test_all_methods_of_a_comparison_are_looked_at_before_the_first(tmp_path):
    config = load_config("detection_quickstart", "compare,smoke")
    config.compare, config.num_devices = ("none", "kd"), 1
    with pytest.raises(ValueError, match="tap 'logits': student output: found no"):
        main.run(config, str(tmp_path))
    assert not (tmp_path / "none").exists()


def test_a_dry_run_looks_at_the_teacher(tmp_path):
    config = load_config("detection_quickstart", "smoke")
    config.dry_run, config.num_devices = True, 1
    config.teacher.init = str(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing: found nothing"):
        main.run(config)


@pytest.mark.parametrize(
    ("recipe", "shapes"),
    [
        ("coco", "800x1344x3, 80 classes"),
        ("cityscapes", "512x1024x3 and 1024x2048x3, 19 classes"),
        ("imagenet", "224x224x3, 1000 classes"),
        ("cifar100", "32x32x3, 100 classes"),
    ],
)
def test_a_dry_run_needs_no_data(recipe, shapes, capsys, caplog):
    config = load_config(recipe)
    config.dry_run, config.num_devices, config.method = True, 1, "none"
    main.run(config)
    out = capsys.readouterr().out
    assert f"not looked at; as the config states, {shapes}\n" in out
    assert "the data are not looked at: data.path: found no" in caplog.text


@pytest.mark.parametrize("name", ["coco", "cityscapes"])
def test_a_dry_run_without_data_shows_what_one_with_data_shows(name, request, capsys):
    texts = []
    for folder in (request.getfixturevalue(name), ""):
        config = load_config(name)
        config.dry_run, config.num_devices, config.data.path = True, 1, str(folder)
        config.data.batch_size, config.train.epochs = 2, 1.0
        config.data.num_classes = config.data.num_classes if name != "coco" else 3
        if name == "coco":
            config.data.canvas = config.data.train_size = (96, 96)
            config.data.resize, config.data.resize_longest = 64, 96
            config.data.two_canvases = False
        else:
            config.data.canvas, config.data.train_size = (48, 96), (33, 65)
        main.run(config)
        texts.append(capsys.readouterr().out.splitlines())
    measured, stated = texts
    assert measured[0].split(", ")[2:] == stated[0].split(", ")[1:]
    # Objects of an image are counted in the data alone.
    less = lambda lines: [line.partition(", batch")[0] for line in lines[1:]]
    assert less(measured) == less(stated)


def test_a_path_that_is_wrong_is_no_reason_to_look_at_nothing():
    config = load_config("coco")
    config.dry_run, config.data.path = True, "/nowhere"
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        main.run(config)


@pytest.mark.parametrize(
    ("recipe", "argument", "shapes"),
    [("tree_crowns", "", "320x320x3 and"), ("detection_quickstart", "own", "256x256")],
)
def test_a_dry_run_of_boxes_without_a_number_of_classes(
    recipe, argument, shapes, capsys, caplog
):
    config = load_config(recipe, argument)
    config.dry_run, config.num_devices, config.method = True, 1, "none"
    main.run(config)
    assert f"as the config states, {shapes}" in capsys.readouterr().out
    assert (
        "data.num_classes: found 0, so sizes are those of a model of 1 class"
        in caplog.text
    )


def test_data_of_which_too_little_is_stated_are_needed():
    config = load_config("segmentation_quickstart")
    config.dry_run, config.data.name, config.data.options = True, "masks", {}
    with pytest.raises(ValueError, match=r"data\.num_classes: found 0, expected the"):
        main.run(config)
