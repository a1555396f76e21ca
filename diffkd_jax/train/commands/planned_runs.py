"""Plans the runs of a comparison: their configs, their lengths and their folders."""

import logging
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ...config.comparison import prefix_variant_fields
from ...config.sections import Config
from ..components import make_method
from .step_times import StepTime

LOG = logging.getLogger(__name__)
# Smaller differences in length are not worth a run; a measured time varies as much.
SAME_LENGTH = 0.02


class PlannedRun(NamedTuple):
    """A run of a comparison.

    Attributes:
      row: name of its row: a method or a variant.
      seed: seed of the run.
      budget: ``steps`` for the length of the config, ``time`` for the length that takes
        as long as the reference.
      folder: name of the run's directory in that of the comparison.
      config: config of the run.
    """

    row: str
    seed: int
    budget: str
    folder: str
    config: Config


def configs_by_row(config: Config) -> dict[str, Config]:
    """Returns the config of the runs of each row that ``config.compare`` names.

    Args:
      config: a resolved config.

    Returns:
      Configs by row. A weight of ``config.weights`` for a loss that the row's method
      does not have is left out. If no row has the loss, this is logged.

    Raises:
      ValueError: a method does not exist or does not take its options.
    """
    runs, unused = {}, set(config.weights)
    for row in config.compare:
        run_config, variant = config.for_row(row), config.comparison.variants.get(row)
        with prefix_variant_fields(row, variant):
            taps = make_method(run_config).taps
        own_weights = {} if variant is None else variant.weights
        weights = {}
        for name, weight in run_config.weights.items():
            tap, _, loss = name.partition("/")
            block = taps[tap].block if tap in taps else None
            losses = getattr(block, "loss_names", (loss,))
            has_loss = tap in taps and loss in ("", "distance", *losses)
            if tap == "task" or has_loss or name in own_weights:
                weights[name] = weight
        evaluations = config.evaluations if taps else {}
        runs[row] = run_config.replace(weights=weights, evaluations=evaluations)
        unused -= set(weights)
    if unused:
        LOG.warning(
            "weights: %s: found in no method of %s, left out",
            *(sorted(unused), config.compare),
        )
    return runs


def plan_runs(
    config: Config,
    by_row: Mapping[str, Config],
    budget: str,
    factors: Mapping[str, float],
) -> list[PlannedRun]:
    """Plans the runs of all seeds and rows for one budget.

    Args:
      config: the resolved config of the comparison.
      by_row: configs by row, from :func:`configs_by_row`.
      budget: ``steps`` or ``time``.
      factors: length of each row's runs as a multiple of that of its config. Rows
        without a factor are left out.

    Returns:
      The runs: for each seed, those of all rows.
    """
    runs = []
    for seed in config.comparison.seeds or (config.seed,):
        for row, factor in factors.items():
            folder = name_folder(config, row, seed)
            folder += "" if factor == 1.0 else "-time"
            run_config = scale_length(by_row[row].replace(seed=seed), factor)
            runs.append(PlannedRun(row, seed, budget, folder, run_config))
    return runs


def name_folder(config: Config, row: str, seed: int) -> str:
    """Returns the name of the folder of a run at the length of its config.

    Args:
      config: the resolved config of the comparison.
      row: name of the row.
      seed: seed of the run.

    >>> name_folder(Config(seed=0), "kd", 1)
    'kd-seed1'
    """
    return row if seed == config.seed else f"{row}-seed{seed}"


def scale_length(config: Config, factor: float) -> Config:
    """Returns a config that trains the student longer or shorter.

    Epochs, ``max_steps``, the warm-ups of the schedule and of the distances, the
    schedule's changes and the times between two evaluations are multiplied, so that the
    number of evaluations stays the same.

    Args:
      config: a resolved config.
      factor: the multiple, above 0.

    >>> scale_length(Config(eval_every_epochs=2.0), 1.5).eval_every_epochs
    3.0
    """
    if factor == 1.0:
        return config
    train, schedule = config.train, config.schedule
    max_steps = max(1, round(train.max_steps * factor)) if train.max_steps else 0
    return config.replace(
        train=train.replace(
            epochs=train.epochs * factor,
            max_steps=max_steps,
            distill_warmup_epochs=train.distill_warmup_epochs * factor,
        ),
        schedule=schedule.replace(
            boundaries=tuple(epoch * factor for epoch in schedule.boundaries),
            every_epochs=schedule.every_epochs * factor,
            warmup_epochs=schedule.warmup_epochs * factor,
        ),
        eval_every_epochs=config.eval_every_epochs * factor,
        evaluations={
            name: evaluation.replace(every_epochs=evaluation.every_epochs * factor)
            if evaluation.every_epochs
            else evaluation
            for name, evaluation in config.evaluations.items()
        },
    )


def length_factors(
    times: Mapping[str, StepTime],
    own_students: Collection[str],
    lengths: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Returns the lengths at which all rows train as long as the reference.

    Args:
      times: time of a step by row; the first one is the reference.
      own_students: rows whose teacher is the finished student of ``none``. Its
        training, at the length of its config, counts as part of theirs.
      lengths: number of steps of each row at the length of its config; None if all
        have the same number.

    Returns:
      Length by row, as a multiple of that of its config. A length within 2 % of the
      config's is exactly 1, so that its runs are those for equal steps. A row whose
      teacher alone takes all of the time is left out, and the log says so.

    >>> times = {"diffkd": StepTime(0.4, 0.4), "none": StepTime(0.1, 0.4)}
    >>> length_factors(times, [])
    {'diffkd': 1.0, 'none': 4.0}
    >>> length_factors(times, [], {"diffkd": 10, "none": 20})
    {'diffkd': 1.0, 'none': 2.0}
    """
    reference, factors = next(iter(times)), {}
    lengths = lengths or dict.fromkeys(times, 1)
    costs = {
        row: pair.cost * (lengths[row] / lengths[reference])
        for row, pair in times.items()
    }
    for row, cost in costs.items():
        used = costs["none"] if row in own_students else 0.0
        if used < 1.0:
            factor = (1.0 - used) / cost
            factors[row] = 1.0 if abs(factor - 1.0) <= SAME_LENGTH else factor
        else:
            LOG.warning(
                "%s: not trained for equal time: the training of its teacher, the "
                "student of none, takes as long as the reference %s; name a method of "
                "a longer step first",
                *(row, reference),
            )
    return factors
