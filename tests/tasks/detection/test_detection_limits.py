"""Warnings of limits that lower the average precision."""

import numpy as np

from diffkd_jax.tasks.detection.detection_limits import warn_of_limit


def test_more_objects_than_are_kept_of_all_classes(caplog):
    valid = np.zeros((3, 12), bool)
    valid[0, :8] = valid[1, :12] = valid[2, :3] = True
    ignored = np.zeros_like(valid)
    ignored[0, :2] = True  # so that six are left
    classes = np.broadcast_to(np.arange(12), valid.shape)
    truth = {"classes": classes, "valid": valid, "ignored": ignored}
    warn_of_limit(truth, 2, 6, "val")
    (record,) = caplog.records
    assert record.getMessage() == (
        "val: 1 images have more than 6 objects of all classes, up to 12; at most "
        "6 detections of an image are kept (task.options.most)"
    )
    caplog.clear()
    warn_of_limit(truth, 2, 12, "val")
    warn_of_limit(truth, 2, None, "val")
    assert not caplog.records
    # A task may keep more than count of a class.
    warn_of_limit(truth | {"classes": np.zeros_like(classes)}, 4, 5, "val")
    assert len(caplog.records) == 2
