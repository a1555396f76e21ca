"""What students are for: each task is a function that makes a :class:`Task`."""

from collections.abc import Callable, Mapping

from .agreement import agreement
from .classification import task as classification
from .detection import task as detection
from .segmentation import task as segmentation
from .task import Evaluation, Evidence, Task

TASKS: dict[str, Callable[..., Task]] = {
    "classification": classification.classification,
    "segmentation": segmentation.segmentation,
    "detection": detection.detection,
}

# Ranks of the arrays of a target, of the tasks above.
TARGETS: dict[str, Mapping[str, int]] = {
    "classification": classification.TARGET,
    "segmentation": segmentation.TARGET,
    "detection": detection.TARGET,
}

# Further evaluations: each a function of the description of the data.
EVALUATIONS: dict[str, Callable[..., Evaluation]] = {"agreement": agreement}

__all__ = ["EVALUATIONS", "TARGETS", "TASKS", "Evaluation", "Evidence", "Task"]
