"""How long a run is, and what is due when."""

from typing import NamedTuple

from ..config import sections
from ..data import Data


class Plan(NamedTuple):
    """How long a run is, and what is due when.

    Attributes:
      steps_per_epoch: updates an epoch.
      total_steps: updates in all.
      batch_size: examples an update, over all processes.
      log_every: steps between two lines of the log.
      eval_every: steps between two evaluations, each with a checkpoint.
      save_every: age of a checkpoint at which there is another one, seconds; 0 for
        any. Looked at every ``log_every`` steps.
      max_unreadable: share of the pictures that may not decode.
      max_skipped: steps whose update may be left out, for it is not finite.
      distill_every: steps of which the first is distilled.
      chance_evaluations: evaluations in a row at chance after which the log says so.
    """

    steps_per_epoch: int
    total_steps: int
    batch_size: int
    log_every: int
    eval_every: int
    save_every: float
    max_unreadable: float
    max_skipped: int
    distill_every: int
    chance_evaluations: int

    def is_due(self, step: int, every: int) -> bool:
        """Whether what is due every so many steps, and at the end, is so at a step."""
        return step == self.total_steps or step % every == 0


def make_plan(config: sections.Config, data: Data) -> tuple[Plan, int]:
    """Steps of a run, and how many there would be without ``train.max_steps``.

    Args:
      config: of the run.
      data: of the run.

    Raises:
      ValueError: no step at all.
    """
    size = config.data.batch_size
    per_epoch = data.train.size // size
    planned = round(config.train.epochs * per_epoch)
    total = min(planned, config.train.max_steps or planned)
    if total < 1:
        raise ValueError(
            f"train.epochs, data.batch_size: found {config.train.epochs} and {size}, "
            f"no step on {data.train.size} images, expected at least one; lower "
            f"data.batch_size to at most {data.train.size}"
        )
    eval_every = max(1, round(config.eval_every_epochs * per_epoch))
    plan = Plan(
        steps_per_epoch=per_epoch,
        total_steps=total,
        batch_size=size,
        log_every=config.log_every_steps,
        eval_every=eval_every,
        save_every=60 * config.checkpoint.every_minutes,
        max_unreadable=config.data.max_unreadable,
        max_skipped=config.train.max_skipped,
        distill_every=config.train.distill_every,
        chance_evaluations=config.train.chance_evaluations,
    )
    return plan, planned
