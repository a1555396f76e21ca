"""What students are for: each task is a function that makes a :class:`Task`."""

from collections.abc import Callable

from . import classification
from .contract import Evidence, Task

TASKS: dict[str, Callable[..., Task]] = {
    "classification": classification.classification,
}

__all__ = ["TASKS", "Evidence", "Task"]
