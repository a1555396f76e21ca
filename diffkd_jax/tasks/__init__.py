"""Tasks by name: each is a function that returns a :class:`Task`."""

from collections.abc import Callable, Mapping

from .agreement import agreement
from .classification import task as classification_task
from .detection import task as detection_task
from .segmentation import task as segmentation_task
from .task import Evaluation, Evidence, Task

TASKS: dict[str, Callable[..., Task]] = {
    "classification": classification_task.classification,
    "segmentation": segmentation_task.segmentation,
    "detection": detection_task.detection,
}

# Rank of each array that the target of one example holds, by task.
TARGETS: dict[str, Mapping[str, int]] = {
    "classification": classification_task.TARGET,
    "segmentation": segmentation_task.TARGET,
    "detection": detection_task.TARGET,
}

# Further evaluations: functions from the description of the data to an Evaluation.
EVALUATIONS: dict[str, Callable[..., Evaluation]] = {"agreement": agreement}

__all__ = ["EVALUATIONS", "TARGETS", "TASKS", "Evaluation", "Evidence", "Task"]
