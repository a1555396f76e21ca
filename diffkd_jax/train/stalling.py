"""Warnings of a student that stays at chance, and of one loss that is most of all."""

import logging
from collections.abc import Mapping
from typing import Any

from ..tasks import Evidence, Task

LOG = logging.getLogger(__name__)
MOST = 2 / 3  # share of the total above which one loss of a tap is most of it
LOGS = 3  # logged means in a row in which it is


class Stalling:
    """A watch over the scores and losses of a run.

    It warns each time that the scores fall back to chance, and once of a loss.

    Args:
      task: of the run.
      most: evaluations in a row at chance after which the log says so, 0 for never.
    """

    def __init__(self, task: Task, most: int):
        self.task, self.most = task, most
        self.heaviest: list[str] = []
        self.said = False

    def look_at_scores(
        self, history: Mapping[int, Mapping[str, float]], seen: Evidence | None
    ) -> None:
        """Warns of a student that is no better than a guess in its last evaluations.

        Args:
          history: scores by step.
          seen: evidence of the last evaluation.
        """
        task, most = self.task, self.most
        if not most or seen is None or task.chance is None:
            return
        chance = float(task.chance(seen))
        guess = task.goodness({task.headline: chance})
        at_chance = [task.goodness(history[s]) <= guess for s in sorted(history)]
        before = at_chance[-most - 1 : -most]
        if at_chance[-most:] == [True] * most and before != [True]:
            last = history[max(history)][task.headline]
            LOG.warning(
                "%s of the student: found %.4g, no better than a guess (%.4g), in %d "
                "evaluations in a row; check the learning rate, data.mean, data.std, "
                "the weights of the losses and the order of the classes",
                *(task.headline, last, chance, most),
            )

    def look_at_losses(self, values: Mapping[str, Any]) -> None:
        """Warns of a tap's loss that is most of the total in several logs in a row.

        Args:
          values: means of the metrics of :func:`diffkd_jax.diffkd_step` since the last
            log.
        """
        total = values.get("loss/total", 0.0)
        shares = {
            name: values.get(f"weighted/{name}", value) / total
            for name, value in ((k.removeprefix("loss/"), v) for k, v in values.items())
            if f"loss/{name}" in values and total > 0 and _is_of_a_tap(name)
        }
        name = max(shares, key=lambda n: shares[n], default="")
        heavy = name if name and shares[name] > MOST else ""
        self.heaviest = [*self.heaviest[1 - LOGS :], heavy]
        if heavy and self.heaviest == [heavy] * LOGS and not self.said:
            self.said = True
            LOG.warning(
                "loss %s is %.4g of %.4g in all, %d%%, in %d logs in a row: the others "
                "hardly count; --config.weights.%s lowers it",
                *(heavy, shares[heavy] * total, total, round(100 * shares[heavy])),
                *(LOGS, heavy),
            )


def _is_of_a_tap(name: str) -> bool:
    return name != "total" and name.partition("/")[0] != "task"
