"""What the first step says of a distillation: whether taps compare what they should."""

import logging
import math
from collections.abc import Iterable, Mapping

LOG = logging.getLogger(__name__)
MOST = 1000.0  # times the task's loss


def look(metrics: Mapping[str, float], taps: Iterable[str]) -> None:
    """Logs the size of both sides of each tap and their distance, and what is strange.

    Strange is what is not finite, a distance of exactly 0, and one whose weighted loss
    is a thousand times that of the task: either is usually a mistake, neither is always
    one.

    Args:
      metrics: of the first step.
      taps: their names.

    >>> sizes = {"rms/x/student": 1.0, "rms/x/teacher": 1.0}
    >>> look({"loss/task": 1.0, "loss/x/distance": 0.0, **sizes}, ["x"])
    """
    weighted = {
        name: metrics.get(f"weighted/{name}", value)
        for name, value in ((k.removeprefix("loss/"), v) for k, v in metrics.items())
        if f"loss/{name}" in metrics
    }
    task = sum(v for name, v in weighted.items() if name.partition("/")[0] == "task")
    for tap in taps:
        name = f"{tap}/distance"
        distance = metrics[f"loss/{name}"]
        student, teacher = (metrics[f"rms/{tap}/{x}"] for x in ("student", "teacher"))
        text = (
            f"tap {tap!r}: first distance {distance:.4g} between a student of "
            f"{student:.4g} and a teacher of {teacher:.4g}, root mean squares"
        )
        if not math.isfinite(weighted[name] + task):
            LOG.warning("%s, and losses of %.4g beside the task's %.4g", text,
                        weighted[name], task)  # fmt: skip
        elif distance == 0:
            LOG.warning("%s: both sides are the same, or nothing is compared", text)
        elif 0 < MOST * task < weighted[name]:
            LOG.warning(
                "%s; its weighted loss of %.4g is over %d times the task's, %.4g",
                text,
                weighted[name],
                MOST,
                task,
            )
        else:
            LOG.info(text)
