"""Tasks by name: each is a function that returns a :class:`Task`."""

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

# Rank of each array that the target of one example holds, by task.
TARGETS: dict[str, Mapping[str, int]] = {
    "classification": classification.TARGET,
    "segmentation": segmentation.TARGET,
    "detection": detection.TARGET,
}

# Further evaluations: functions from the description of the data to an Evaluation.
EVALUATIONS: dict[str, Callable[..., Evaluation]] = {"agreement": agreement}

__all__ = ["EVALUATIONS", "TARGETS", "TASKS", "Evaluation", "Evidence", "Task"]
