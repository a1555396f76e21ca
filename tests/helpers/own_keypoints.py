"""A kind of target of one's own: one keypoint for each image, with its task."""

import jax.numpy as jnp
import numpy as np

from diffkd_jax.data import Dataset, Split
from diffkd_jax.data.transforms import views
from diffkd_jax.data.transforms.viewed_targets import follow_views
from diffkd_jax.tasks import Evidence, Task


def follow(target, examples, size):
    """Moves the points with their images, as shares of height and width."""
    points = np.zeros((len(examples), 2), np.float32)
    for row, example in enumerate(examples):
        if example is not None:
            point = views.view_points(
                example.view, target["point"][row][None], example.size
            )
            points[row] = point[0] / (size[1], size[0])
    return {"point": points}


KEYPOINTS = follow_views("keypoints", lambda target: "point" in target, follow)


def load(path, *, size=32):
    """Dark images of 12x16 pixels with one bright spot, and the spot's position."""
    del path

    def make(seed, count):
        rng = np.random.default_rng(seed)
        point = rng.integers((3, 3), (13, 9), (count, 2))
        image = np.zeros((count, 12, 16, 3), np.uint8)
        for row, (x, y) in enumerate(point):
            image[row, y, x] = 255
        centre = (point + 0.5).astype(np.float32)

        def fetch(rows):
            return {"image": image[rows], "target": {"point": centre[rows]}}

        return Split(count, fetch)

    splits = {"train": make(0, size), "test": make(1, size // 2)}
    return Dataset(splits, meta={"num_classes": 2}, transform=KEYPOINTS)


def locate(meta):
    """Regression of the point's position, in shares of width and height."""
    assert meta["num_classes"] == 2  # x and y

    def error(outputs, batch):
        return jnp.square(outputs["logits"] - batch["target"]["point"]).sum(-1)

    def evidence(outputs, batch):
        sums = {"count": batch["mask"].sum()}
        return Evidence(
            sums | {"square": (batch["mask"] * error(outputs, batch)).sum()}
        )

    return Task(
        loss=lambda outputs, batch: {"task": error(outputs, batch).mean()},
        predict=lambda outputs, batch: {"point": outputs["logits"]},
        evidence=evidence,
        score=lambda total: {
            "distance": (total.sums["square"] / total.sums["count"]) ** 0.5
        },
        headline="distance",
        higher_is_better=False,
        target={"point": 1},
    )
