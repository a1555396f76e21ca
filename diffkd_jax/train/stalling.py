"""Warns if the student stays at chance level, or if one loss outweighs all others."""

import logging
from collections.abc import Mapping
from typing import Any

from ..tasks import Evidence, Task

LOG = logging.getLogger(__name__)
LARGE_SHARE = 2 / 3  # of the total loss; a tap's loss above it gets a warning
LOGS = 3  # number of successive logs in which it must be above


class Stalling:
    """A watch over the scores and losses of a run, which logs warnings.

    It warns each time that the scores fall to chance level, and once in a run about a
    tap's loss that is most of the total.

    Args:
      task: the task.
      max_at_chance: number of successive evaluations at chance level after which it
        warns; 0 for never.
    """

    def __init__(self, task: Task, max_at_chance: int) -> None:
        self.task, self.max_at_chance = task, max_at_chance
        self.largest: list[str] = []  # losses in the last logs, "" for none
        self.has_warned = False

    def look_at_scores(
        self, history: Mapping[int, Mapping[str, float]], evidence: Evidence | None
    ) -> None:
        """Warns if the last evaluations were at chance level, and the one before not.

        Args:
          history: scores by step.
          evidence: evidence of the last evaluation, from which the task computes the
            chance level; None for no check.
        """
        task, max_at_chance = self.task, self.max_at_chance
        if not max_at_chance or evidence is None or task.chance is None:
            return
        chance = float(task.chance(evidence))
        guess = task.goodness({task.headline: chance})
        at_chance = [task.goodness(history[s]) <= guess for s in sorted(history)]
        before = at_chance[-max_at_chance - 1 : -max_at_chance]
        if at_chance[-max_at_chance:] == [True] * max_at_chance and before != [True]:
            last = history[max(history)][task.headline]
            LOG.warning(
                "%s of the student: found %.4g, no better than a guess, which reaches "
                "up to %.4g here, in %d evaluations in a row; check the learning rate, "
                "data.mean, data.std, the weights of the losses and the order of the "
                "classes",
                *(task.headline, last, chance, max_at_chance),
            )

    def look_at_losses(self, values: Mapping[str, Any]) -> None:
        """Warns if one tap's loss is most of the total loss in several successive logs.

        Args:
          values: means of the metrics of :func:`diffkd_jax.diffkd_step` since the last
            log.
        """
        total = values.get("loss/total", 0.0)
        shares = {
            name: values.get(f"weighted/{name}", value) / total
            for name, value in ((k.removeprefix("loss/"), v) for k, v in values.items())
            if f"loss/{name}" in values and total > 0 and _is_tap_loss(name)
        }
        name = max(shares, key=lambda n: shares[n], default="")
        large = name if name and shares[name] > LARGE_SHARE else ""
        self.largest = [*self.largest[1 - LOGS :], large]
        if large and self.largest == [large] * LOGS and not self.has_warned:
            self.has_warned = True
            LOG.warning(
                "loss %s is %.4g of %.4g in all, %d%%, in %d logs in a row: the others "
                "hardly count; --config.weights.%s lowers it",
                *(large, shares[large] * total, total, round(100 * shares[large])),
                *(LOGS, large),
            )


def _is_tap_loss(name: str) -> bool:
    """Returns whether a loss belongs to a tap, and not to the task or the total."""
    return name != "total" and name.partition("/")[0] != "task"
