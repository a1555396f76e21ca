"""Plans the steps of a run: how many, at which rate, and when it logs and saves."""

from typing import NamedTuple

import optax

from ..config.sections import Config
from ..data import Data
from .optimizer import make_schedule


class Plan(NamedTuple):
    """The steps of a run: how many, at which rate, and how often it evaluates.

    Attributes:
      steps_per_epoch: updates for each epoch.
      total_steps: updates in all.
      batch_size: examples for each update, over all processes.
      log_every: number of steps between two lines of the log.
      eval_every: number of steps between two evaluations; each also saves a checkpoint.
      save_every: age in seconds at which the last checkpoint is followed by another
        one; 0 to save after evaluations only. It is checked every ``log_every`` steps,
        and more often if ``log_every`` is large.
      max_unreadable: share of the images that may fail to decode, 0 to 1.
      max_skipped: number of steps of the run whose update may be skipped because it is
        not finite.
      distill_every: one step in so many is distilled, the first one included; 1 for
        every step.
      chance_evaluations: number of successive evaluations at chance level after which a
        warning is logged; 0 for never.
      schedule: ``step -> learning rate``.
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
    schedule: optax.Schedule

    def is_due(self, step: int, every: int) -> bool:
        """Returns whether an action is due that is repeated every ``every`` steps.

        Args:
          step: number of updates so far. Every action is due at the last step.
          every: number of steps from one time to the next.

        >>> plan = Plan(4, 10, 8, 1, 4, 0.0, 0.0, 0, 1, 0, lambda step: 0.1)
        >>> [step for step in range(1, 11) if plan.is_due(step, 4)]
        [4, 8, 10]
        """
        return step == self.total_steps or step % every == 0


def make_plan(config: Config, data: Data) -> Plan:
    """Computes the plan of a run from its config and the size of its data.

    Args:
      config: a resolved config.
      data: the data.

    Returns:
      The plan. If ``train.max_steps`` ends the run earlier, the schedule is still that
      of all ``train.epochs``.

    Raises:
      ValueError: there would not be a single step, or the schedule's interval is
        shorter than one step.
    """
    size = config.data.batch_size
    per_epoch = data.train.size // size
    planned_steps = round(config.train.epochs * per_epoch)
    total = min(planned_steps, config.train.max_steps or planned_steps)
    if total < 1:
        advice = "raise train.epochs"
        if size > data.train.size:
            advice = f"lower data.batch_size to at most {data.train.size}"
        raise ValueError(
            f"train.epochs, data.batch_size: found {config.train.epochs} and {size}, "
            f"no step on {data.train.size} images, expected at least one; {advice}"
        )
    eval_every = max(1, round(config.eval_every_epochs * per_epoch))
    peak = config.optimizer.learning_rate
    return Plan(
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
        schedule=make_schedule(config.schedule, peak, per_epoch, planned_steps),
    )
