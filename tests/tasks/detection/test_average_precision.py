"""Average precision: goldens, the reference evaluator, and odd files."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from diffkd_jax.data.dataset import open_data
from diffkd_jax.data.pipeline import batches
from diffkd_jax.tasks.detection import average_precision
from diffkd_jax.tasks.detection.detection_limits import best_ap, warn_of_limit
from diffkd_jax.tasks.detection.plots import write
from tests.data.sources.test_coco import write_coco
from tests.helpers.data_options import data_options
from tests.helpers.goldens import GOLDEN
from tests.helpers.transforms import eval_transform

NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)


def padded(rows, pictures, keys):
    """Lists of dicts by image to arrays ``[n, m]``."""
    most = max([1, *map(len, rows)])
    result = {
        k: np.zeros((pictures, most, *shape), dtype)
        for k, (shape, dtype) in keys.items()
    }
    result["valid"] = np.zeros((pictures, most), bool)
    for i, row in enumerate(rows):
        for j, one in enumerate(row):
            result["valid"][i, j] = True
            for k in keys:
                result[k][i, j] = one[k]
    return result


def corners(box):
    x, y, w, h = box
    return [x, y, x + w, y + h]


def from_coco(reference, detected):
    """Padded arrays with the content of the two files of COCO."""
    place = {image["id"]: i for i, image in enumerate(reference["images"])}
    number = {c["id"]: k for k, c in enumerate(reference["categories"])}
    truth, found = ([[] for _ in place] for _ in "ab")
    for one in reference["annotations"]:
        truth[place[one["image_id"]]].append(
            {
                "stored": corners(one["bbox"]),
                "classes": number[one["category_id"]],
                "ignored": one.get("iscrowd", 0),
                "area": one.get("area", 0),
            }
        )
    for one in detected:
        found[place[one["image_id"]]].append(
            {
                "boxes": corners(one["bbox"]),
                "classes": number[one["category_id"]],
                "scores": one["score"],
            }
        )
    n = len(place)
    classes, scalar = ((), np.int32), ((), np.float64)
    box = ((4,), np.float64)
    kinds = {"stored": box, "classes": classes, "ignored": ((), bool), "area": scalar}
    return (
        padded(truth, n, kinds),
        padded(found, n, {"boxes": box, "classes": classes, "scores": scalar}),
    )


def as_coco(truth, found, classes):
    """Converts padded arrays to the input of the reference evaluator."""
    sides = lambda b: [*map(float, (b[0], b[1], b[2] - b[0], b[3] - b[1]))]
    n = len(truth["valid"])
    reference = {
        "images": [{"id": i + 1} for i in range(n)],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(classes)],
        "annotations": [],
    }
    for i, j in zip(*np.nonzero(truth["valid"]), strict=True):
        reference["annotations"].append(
            {
                "id": len(reference["annotations"]) + 1,
                "image_id": int(i) + 1,
                "category_id": int(truth["classes"][i, j]) + 1,
                "bbox": sides(truth["stored"][i, j]),
                "iscrowd": int(truth["ignored"][i, j]),
                "area": float(truth["area"][i, j]),
            }
        )
    detected = [
        {
            "image_id": int(i) + 1,
            "category_id": int(found["classes"][i, j]) + 1,
            "bbox": sides(found["boxes"][i, j]),
            "score": float(found["scores"][i, j]),
        }
        for i, j in zip(*np.nonzero(found["valid"]), strict=True)
    ]
    return reference, detected


def by_reference(reference, detected):
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = reference
        gt.createIndex()
        evaluator = COCOeval(gt, gt.loadRes(detected), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return np.where(evaluator.stats < 0, np.nan, evaluator.stats), evaluator.eval


def figures_of(truth, found, **options):
    return average_precision.coco_scores(
        average_precision.curves(truth, found, **options)
    )


def values(figures):
    return np.array([figures[name] for name in NAMES])


def read(name):
    return json.loads((GOLDEN / "dense/odd" / name).read_text())


EXPECTED = read("index.json")


def test_golden_figures_and_curves():
    golden = np.load(GOLDEN / "dense/coco_ap.npz")
    files = [
        json.loads(golden[k].tobytes())
        for k in ("ground_truth_json", "detections_json")
    ]
    truth, found = from_coco(*files)
    result = figures_of(truth, found)
    expected = np.where(golden["stats"] < 0, np.nan, golden["stats"])
    np.testing.assert_array_equal(values(result), expected)
    curves = average_precision.curves(truth, found)
    for ours, theirs in (
        (curves.precision[..., -1], golden["precision"]),
        (curves.recall[..., -1], golden["recall"]),
    ):
        theirs = np.where(theirs < 0, np.nan, theirs)
        np.testing.assert_array_equal(ours, theirs)
    each = average_precision.by_class(curves)
    np.testing.assert_allclose(np.nanmean(each), result["ap"], rtol=1e-12)
    assert np.isnan(each).sum() == 1


def random_set(seed, crowds, ties):
    rng = np.random.default_rng(seed)
    n, most, kept, classes = 9, 12, 30, 3
    start = rng.integers(0, 100, (n, most, 2))
    sides = np.exp(rng.uniform(1, 5, (n, most, 2))).astype(int)
    truth = {
        "stored": np.concatenate([start, start + sides], -1).astype(np.float32),
        "classes": rng.integers(0, classes, (n, most)),
        "valid": rng.random((n, most)) < 0.6,
        "ignored": rng.random((n, most)) < crowds,
        "area": sides.prod(-1) * rng.uniform(0.5, 1, (n, most)),
    }
    near = truth["stored"][np.arange(n)[:, None], rng.integers(0, most, (n, kept))]
    boxes = near + rng.integers(-6, 7, near.shape)
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    scores = rng.random((n, kept))
    found = {
        "boxes": boxes.astype(np.float32),
        "classes": rng.integers(0, classes, (n, kept)),
        "valid": rng.random((n, kept)) < 0.9,
        "scores": np.round(scores, 1) if ties else scores,
    }
    truth["valid"][3] = found["valid"][5] = False
    return truth, found, classes


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_the_reference(seed):
    truth, found, classes = random_set(seed, 0.2 * (seed % 3), ties=seed % 2)
    expected, curves = by_reference(*as_coco(truth, found, classes))
    result = figures_of(truth, found)
    np.testing.assert_array_equal(values(result), expected)
    ours = average_precision.curves(truth, found).precision
    theirs = curves["precision"]
    np.testing.assert_array_equal(ours, np.where(theirs < 0, np.nan, theirs))
    # The order of images does not matter if no scores are equal.
    if not seed % 2:
        order = np.random.default_rng(seed).permutation(len(truth["valid"]))
        again = figures_of(
            *({k: v[order] for k, v in x.items()} for x in (truth, found))
        )
        np.testing.assert_allclose(values(again), values(result), rtol=1e-12)


def odd(truth, detections):
    return from_coco(read(truth), read(detections))


@pytest.mark.parametrize(
    ("truth", "detections"),
    [
        ("coco_annotation_id_zero.json", "two_perfect_detections.json"),
        ("coco_annotation_id_again.json", "two_perfect_detections.json"),
        ("coco_crowd.json", "coco_crowd_detections.json"),
        ("coco_area_missing.json", "coco_area_detections.json"),
        ("coco_area_zero.json", "coco_area_detections.json"),
        ("coco_area_one.json", "coco_area_detections.json"),
    ],
)
def test_odd_files_have_the_figures_they_should(truth, detections):
    expected = EXPECTED[truth]["expected"]
    expected = expected | expected.get("as_given", {})
    found = figures_of(*odd(truth, detections))
    short = {"ap": "ap", "ap_s": "ap_small", "ap_m": "ap_medium", "ap_l": "ap_large"}
    for key, name in short.items():
        if expected.get(key) == "undefined":
            assert np.isnan(found[name])
        elif key in expected:
            assert found[name] == pytest.approx(expected[key])


def test_crowds_are_neither_objects_nor_nothing():
    expected = EXPECTED["coco_crowd.json"]["expected"]
    truth, found = odd("coco_crowd.json", "coco_crowd_detections.json")
    as_object = truth | {"ignored": np.zeros_like(truth["ignored"])}
    dropped = truth | {"valid": truth["valid"] & ~truth["ignored"]}
    for other, key in ((as_object, "as_object"), (dropped, "is_dropped")):
        figure = figures_of(other, found)["ap"]
        names = [k for k in expected if k.endswith(key) or k.endswith(f"counts_{key}")]
        assert figure == pytest.approx(expected[names[0]], abs=1e-5)


def test_what_is_undefined_is_no_number():
    name = "coco_class_without_truth.json"
    expected = EXPECTED[name]["expected"]
    truth, found = odd(name, "detections_with_class_b.json")
    assert figures_of(truth, found)["ap"] == expected["ap"]
    each = average_precision.by_class(average_precision.curves(truth, found, classes=2))
    assert each[0] == 1.0
    assert np.isnan(each[1])
    truth, found = odd(name, "no_detections.json")
    result = figures_of(truth, found)
    assert result["ap"] == expected["ap_without_detections"]
    assert result["ar_100"] == 0.0
    nothing = truth | {"valid": np.zeros_like(truth["valid"])}
    assert np.isnan(list(figures_of(nothing, found).values())).all()
    one = odd(name, "detections_with_class_b.json")[1]
    assert np.isnan(list(figures_of(nothing, one).values())).all()


def test_more_objects_than_detections_count(caplog):
    golden = np.load(GOLDEN / "dense/odd/dense_130.npz")
    expected = EXPECTED["dense_130.npz"]["expected"]
    boxes = np.array([corners(b) for b in golden["boxes_xywh"]])[None]
    shape = boxes.shape[:2]
    truth = {
        "stored": boxes,
        "classes": np.zeros(shape, int),
        "valid": np.ones(shape, bool),
        "ignored": np.zeros(shape, bool),
        "area": np.zeros(shape),
    }
    found = {**truth, "boxes": boxes, "scores": golden["scores"][None]}
    result = figures_of(truth, found)
    assert result["ap"] == pytest.approx(expected["ap_at_100"], abs=1e-5)
    assert result["ar_100"] == pytest.approx(expected["ar_at_100"], abs=1e-5)
    assert best_ap(truth, 100)[0] == pytest.approx(result["ap"], abs=1e-12)
    more = figures_of(truth, found, limits=(1, 10, 130))
    assert more["ap"] == expected["ap_at_130"]
    assert more["ar_130"] == 1.0
    warn_of_limit(truth, 100, None, "val")
    assert "val: 1 images have more than 100 objects" in caplog.text
    assert "0.76238" in caplog.text
    caplog.clear()
    warn_of_limit(truth, 130, 130, "val")
    assert not caplog.text


def test_what_is_found_on_the_canvas_goes_back_to_the_image(tmp_path):
    """Boxes pass through two image sizes and padded batches, back to the file."""
    options = data_options(
        name="coco",
        path=str(write_coco(tmp_path, pictures=14)),
        eval_split="val",
        augment="resize_flip",
        train_size=(32, 44),
        canvas=(32, 44),
        two_canvases=True,
        resize=29,
        resize_longest=41,
    )
    split = open_data(options).evaluation
    transform = eval_transform(options)
    rows = []
    for batch in batches.eval_batches(split, transform, batch_size=4):
        real, target = batch["mask"] > 0, batch["target"]
        back = target["boxes"] / np.tile(target["scale"][:, None, ::-1], 2)
        own = target | {"index": batch["index"], "back": back}
        rows.append({k: v[real] for k, v in own.items()})
    seen = {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}
    seen = {k: v[np.argsort(seen["index"])] for k, v in seen.items()}
    found = seen | {"boxes": seen["back"], "scores": np.ones_like(seen["area"])}
    assert figures_of(seen, found)["ap"] == pytest.approx(1)
    predictions = (
        (
            split.name(i),
            {k: x[i] for k, x in found.items()},
            {"id": json.loads(split.box_summary.ids[i]), "target": {}},
        )
        for i in range(split.size)
    )
    write(tmp_path, predictions, {"category_ids": [3, 5]})
    written = json.loads((tmp_path / "detections.json").read_text())
    given = json.loads((tmp_path / "annotations/instances_val.json").read_text())
    for row, annotation in zip(written, given["annotations"], strict=True):
        assert row["image_id"] == annotation["image_id"]
        assert row["category_id"] == annotation["category_id"]
        np.testing.assert_allclose(row["bbox"], annotation["bbox"], atol=1e-4)


def test_sizes_are_of_the_limits_given():
    truth, found = odd("coco_area_missing.json", "coco_area_detections.json")
    result = figures_of(truth, found, size_limits=(10, 15))
    assert np.isnan(result["ap_small"])
    assert np.isnan(result["ap_medium"])
    assert result["ap_large"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.full((1, 3), np.nan)}, "detections: found scores that are not"),
        ({"boxes": np.full((1, 3, 4), np.inf)}, "detections: found boxes that are not"),
        ({"boxes": np.zeros((1, 2, 4))}, r"detections: found boxes of shape \(1, 2, 4"),
        ({"classes": np.full((1, 3), -1)}, "detections: found class -1, expected 0"),
        (
            {"scores": np.ones((1, 2))},
            r"detections: found scores of shape \(1, 2\), ex",
        ),
        (
            {
                "boxes": np.zeros((2, 3, 4)),
                **{k: np.zeros((2, 3), int) for k in ("valid", "scores", "classes")},
            },
            "detections: found 2 images, expected 1, as in the truth",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_named(change, message):
    truth, found = odd("coco_area_missing.json", "coco_area_detections.json")
    with pytest.raises(ValueError, match=message):
        figures_of(truth, {**found, **change})
