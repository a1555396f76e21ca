"""Derives from the numbers of a probe what to try first: one sentence for each rule.

The rules and thresholds are rules of thumb. ``docs/probe.md`` gives the reason of each.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ...core.gradients import ALL

HIGH_RATIO, LOW_RATIO = 10.0, 0.03  # of a gradient's norm to that of the task
AGREED = 0.5  # cosine from which a large gradient does no harm
OPPOSED = -0.05  # cosine below which a gradient works against the task's
LATE = 0.5  # share of the planned training from which a short one stands for it
FEW_STEPS = 100
LEAST_NOISE = 0.005


class Agreement(NamedTuple):
    """The gradient of a loss beside that of the task, medians over a training.

    Attributes:
      ratio: norm of the gradient as a multiple of the task's.
      cosine: cosine between both, -1 to 1; NaN if one of them is zero.
      weight: weight of the loss; None if it depends on the step, or for a sum.
    """

    ratio: float
    cosine: float
    weight: float | None = None


class ProbedMethod(NamedTuple):
    """The results of the short runs of a method.

    Attributes:
      cost: time of a step as a multiple of that without distillation.
      score: mean score at equal steps.
      score_in_time: mean score after the time that the costliest method needs for the
        equal steps; NaN if there is no such run.
      steps_in_time: number of steps in that time.
      gradients: agreement with the task by loss, and of all under ``distillation``.
    """

    cost: float
    score: float
    score_in_time: float
    steps_in_time: int
    gradients: Mapping[str, Agreement] = {}


class ProbeFacts(NamedTuple):
    """The facts that a probe measured.

    Attributes:
      headline: name of the score.
      higher_is_better: whether a larger score is better.
      images: number of held-out images on which all scores were measured.
      steps: equal number of steps of the short runs.
      planned_steps: number of steps of the training that the config asks for.
      teacher: score of the teacher; NaN if it cannot be scored.
      is_given: whether the teacher is a given file, which may know the held-out images.
      methods: results by method; ``none`` is the training without distillation.
      seeds: number of seeds.
    """

    headline: str
    higher_is_better: bool
    images: int
    steps: int
    planned_steps: int
    teacher: float
    is_given: bool
    methods: Mapping[str, ProbedMethod]
    seeds: int = 1

    @property
    def noise(self) -> float:
        """Returns the difference of two scores up to which it may be chance.

        It is ``1 / sqrt(images)``, at least 0.005, for scores from 0 to 1. Other scores
        are first divided by that without distillation.
        """
        share = max(LEAST_NOISE, 1 / math.sqrt(max(1, self.images)))
        largest = abs(self.methods["none"].score)
        return share * (largest if largest > 1 else 1.0)

    def gain(self, score: float, other: float) -> float:
        """Returns by how much a score is better than another one."""
        return score - other if self.higher_is_better else other - score


def advise(facts: ProbeFacts) -> list[str]:
    """Returns sentences on what to try first, the most important ones first.

    Args:
      facts: what the probe measured.

    >>> none = ProbedMethod(1.0, 0.6, 0.7, 300)
    >>> kd = ProbedMethod(3.0, 0.75, 0.75, 100)
    >>> facts = ProbeFacts("score", True, 10_000, 100, 100, 0.7, False,
    ...     {"none": none, "kd": kd})
    >>> advise(facts)[0].partition(":")[0]
    'The teacher (0.7000) is not ahead of the student without distillation (0.7000)'
    """
    sentences = [*_judge_teacher(facts)]
    if facts.steps >= FEW_STEPS:
        sentences += [*_judge_length(facts), *_judge_methods(facts)]
    for name, method in facts.methods.items():
        sentences += _judge_gradients(name, method.gradients)
    return [*sentences, *_caveats(facts)]


def _longest(facts: ProbeFacts) -> tuple[float, int]:
    """Returns the score and the steps of the longest run without distillation."""
    none = facts.methods["none"]
    if math.isnan(none.score_in_time):
        return none.score, facts.steps
    return none.score_in_time, none.steps_in_time


def _judge_teacher(facts: ProbeFacts) -> Iterator[str]:
    plain, _ = _longest(facts)
    if math.isnan(facts.teacher):
        yield "The teacher cannot be scored on these data, so the gap to it is unknown."
        return
    gap = facts.gain(facts.teacher, plain)
    pair = (
        f"The teacher ({facts.teacher:.4f}) is {{}} of the student without "
        f"distillation ({plain:.4f})"
    )
    if gap <= facts.noise:
        yield (
            f"{pair.format('not ahead')}: it has little to teach. Train a better "
            "teacher first (teacher.epochs, teacher.model), or distil nothing."
        )
    else:
        yield f"{pair.format('ahead')} by {gap:.4f}: distillation can help to close it."


def _judge_length(facts: ProbeFacts) -> Iterator[str]:
    plain, steps = _longest(facts)
    times, climb = steps / facts.steps, facts.gain(plain, facts.methods["none"].score)
    if times < 1.05:
        return
    longer = f"Without distillation, {times:.2g} times as many steps"
    if climb <= facts.noise:
        yield (
            f"{longer} change the score by {climb:+.4f}, no more than chance "
            f"({facts.noise:.4f}): the student is near its plateau."
        )
    elif steps < LATE * facts.planned_steps:
        yield (
            f"{longer} still add {climb:.4f}. These runs have {steps} of the "
            f"{facts.planned_steps} steps of the config, so a gain seen here may "
            "vanish at full length. Raise probe.seconds before you trust it."
        )
    else:
        yield (
            f"{longer} still add {climb:.4f}. Longer training (train.epochs) helps by "
            "itself, without a teacher: try it before a method that does not beat "
            "it in equal time."
        )


def _judge_methods(facts: ProbeFacts) -> Iterator[str]:
    none = facts.methods["none"]
    in_time = {
        name: facts.gain(method.score_in_time, none.score_in_time)
        for name, method in facts.methods.items()
        if name != "none" and math.isfinite(method.score_in_time)
    }
    in_steps = {
        name: facts.gain(method.score, none.score)
        for name, method in facts.methods.items()
        if name != "none"
    }
    best = max(in_time, key=in_time.__getitem__, default="")
    if best and in_time[best] > facts.noise:
        yield (
            f"Try {best} first: in equal time it is {in_time[best]:.4f} better "
            f"than no distillation. A step takes {facts.methods[best].cost:.2f} times "
            "as long."
        )
        return
    best = max(in_steps, key=in_steps.__getitem__)
    if in_steps[best] > facts.noise:
        seconds = in_time.get(best, math.nan)
        yield (
            f"{best} is {in_steps[best]:.4f} better in equal steps, but only "
            f"{seconds:+.4f} in equal time, because a step takes "
            f"{facts.methods[best].cost:.2f} times as long. If time is what you have "
            "least of, train longer without distillation, or distil at some steps only "
            "(train.distill_every=4)."
        )
    else:
        yield (
            "No method is better than no distillation by more than chance "
            f"({facts.noise:.4f}), the best one is {best} with {in_steps[best]:+.4f} "
            "in equal steps. This probe does not show that distillation pays."
        )


def _judge_gradients(name: str, gradients: Mapping[str, Agreement]) -> Iterator[str]:
    for loss, agreement in gradients.items():
        agrees = agreement.cosine >= AGREED  # then it teaches the task as well
        if loss != ALL and agreement.ratio > HIGH_RATIO and not agrees:
            weight = "its weight"
            if agreement.weight is not None:
                target = agreement.weight / agreement.ratio
                weight += f" from {agreement.weight:g} to about {target:.1g}"
            yield (
                f"{name}: the gradient of {loss} is {agreement.ratio:.3g} times that "
                f"of the task, which it drowns. Lower {weight} (weights, {loss}), so "
                "that the ratio is about 1."
            )
    total = gradients.get(ALL)
    if total is None:
        return
    if total.ratio < LOW_RATIO:
        yield (
            f"{name}: the gradient of the distillation is only {total.ratio:.2g} of "
            "the task's, so it hardly acts on the student. Raise the weights of its "
            "losses."
        )
    if total.cosine < OPPOSED:
        yield (
            f"{name}: the gradient of the distillation points against that of the task "
            f"(cosine {total.cosine:.2f}). Lower its weights, or match another output."
        )


def _caveats(facts: ProbeFacts) -> Iterator[str]:
    if facts.steps < FEW_STEPS:
        yield (
            f"{facts.steps} steps are too few to judge the methods and the length of "
            "the training. Raise probe.seconds."
        )
    if facts.is_given:
        yield (
            "The teacher comes from teacher.init. If it was trained on the held-out "
            "images, its score here is too good."
        )
    if facts.seeds == 1:
        yield (
            "There is one seed. Repeat what looks good with `compare` and several "
            "seeds before you rely on it."
        )


def median_of(values: Sequence[float]) -> float:
    """Returns the median of the numbers that are finite; NaN if there are none.

    Args:
      values: the numbers.

    >>> median_of([1.0, float("nan"), 3.0])
    2.0
    """
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return math.nan
    middle = len(finite) // 2
    return (finite[middle] + finite[~middle]) / 2
