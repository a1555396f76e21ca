"""The runs of each stage of the study, in their order."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).parent
RESULTS, TIMES = HERE / "results.jsonl", HERE / "step_times.json"
SEEDS = (0, 1, 2, 3, 4)
# Epochs after which the student no longer improves without distillation. A first guess;
# the stage length_chosen decides.
LENGTH = {"small": 320}
CORE = ("none", "kd", "dist", "diffkd", "projection")

DIFFKD = "methods.diffkd"
# The fields that make each row of the tables; the first five come first.
ROWS: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "kd": {"method": "kd"},
    "dist": {"method": "dist"},
    "diffkd": {"method": "diffkd"},
    "projection": {"method": "projection"},
    "mse": {"method": "mse"},
    "diffkd_features": {"method": "diffkd_features"},
    "diffkd_logits": {"method": "diffkd_logits"},
    "no_diffusion_loss": {"method": "diffkd", f"{DIFFKD}.denoiser": "distance"},
    "frozen": {"method": "diffkd", f"{DIFFKD}.denoiser": "frozen"},
    "gamma_1": {"method": "diffkd", f"{DIFFKD}.gamma": 1.0},
    "gamma_0.5": {"method": "diffkd", f"{DIFFKD}.gamma": 0.5},
    "gamma_0": {"method": "diffkd", f"{DIFFKD}.gamma": 0.0},
    "regressor": {"method": "regressor"},
    "random_teacher": {"method": "random_teacher"},
    "self": {"method": "diffkd"},  # its teacher is the student of none
}
# Rows that take the settings of another one, of which they replace one part.
SETTINGS_OF = {
    row: "diffkd"
    for row, fields in ROWS.items()
    if row != "diffkd" and fields["method"] in ("diffkd", "regressor", "random_teacher")
}
WEIGHTS = {
    "mse": ("weight",),
    "dist": (),
    "diffkd": ("weight", "logits_weight"),
    "projection": ("weight", "logits_weight"),
    "diffkd_features": ("weight",),
    "diffkd_logits": ("weight",),
}


class Job(NamedTuple):
    """One run.

    Attributes:
      name: name of its folder.
      who: which network trains: ``small``, ``large`` or ``teacher``.
      fields: fields of the config that differ from those of ``config.py``.
      facts: what its row in the results says beside the scores.
    """

    name: str
    who: str
    fields: Mapping[str, Any]
    facts: Mapping[str, Any]


def make_job(
    who: str, row: str, epochs: float, seed: int, trial: str = "", **fields: Any
) -> Job:
    """Returns a job that is named after its row, its length and its seed.

    Args:
      who: which network trains.
      row: name of the method or of its variant.
      epochs: length of the training.
      seed: seed of the run.
      trial: name of the settings that are tried; "" for no trial.
      **fields: further fields of the config.
    """
    named = {**ROWS[row], **fields}
    named |= {"train.epochs": epochs, "eval_every_epochs": epochs / 8, "seed": seed}
    facts = {"who": who, "row": row, "epochs": epochs, "seed": seed, "trial": trial}
    name = f"{who}-{row}-{epochs:g}-{seed}" + (f"-{trial}" if trial else "")
    return Job(name, who, named, facts)


def teacher() -> list[Job]:
    """Returns the runs that show at which length the teacher no longer improves."""
    return [make_job("teacher", "none", n, 100) for n in (30, 60, 120)]


def length(who: str = "small") -> list[Job]:
    """Returns the runs that show at which length ``none`` no longer improves."""
    lengths = (40, 80, 160, 320, 640)
    return [make_job(who, "none", n, seed) for seed in (10, 11) for n in lengths]


def length_chosen(who: str = "small") -> list[Job]:
    """Returns the runs of ``length`` with the settings that ``select`` chose."""
    trial = chosen_trial(who, "none")
    fields = trials("none")[trial]
    return [
        make_job(who, "none", n, seed, trial, **fields)
        for n in (160, 320, 640, 1280)
        for seed in (10, 11)
    ]


def trials(row: str) -> dict[str, dict[str, Any]]:
    """Returns the four settings that are tried for a row, by name."""
    decay, rate = "optimizer.weight_decay", "optimizer.learning_rate"
    if row == "none":
        rates = {f"rate_{x:g}": {rate: x} for x in (0.1, 0.05, 0.2)}
        return {**rates, "decay_1e-4": {decay: 1e-4}}
    if row == "kd":
        names = ("tau", "weight", "task_weight")
        settings = ((4.0, 0.9, 0.1), (4.0, 0.5, 0.5), (1.0, 1.0, 1.0))
        tried = {
            f"tau_{s[0]:g}_weight_{s[1]:g}": {
                f"methods.kd.{name}": x for name, x in zip(names, s, strict=True)
            }
            for s in settings
        }
        return {**tried, "decay_1e-4": {decay: 1e-4}}
    if row == "dist":
        tried = {
            f"weight_{w:g}": {"weights.logits/distance": w} for w in (1.0, 0.3, 3.0)
        }
    else:
        # A control reads the options of the method that it controls.
        method = "diffkd" if row == "projection" else row
        tried = {
            f"weight_{w:g}": {f"methods.{method}.{name}": w for name in WEIGHTS[row]}
            for w in (1.0, 0.3, 3.0)
        }
    return {**tried, "decay_1e-4": {decay: 1e-4}}


def select(who: str = "small") -> list[Job]:
    """Returns the runs that choose rates and weights, on unseen training images."""
    rows = [row for row in ROWS if row not in SETTINGS_OF]
    return [
        make_job(who, row, 40, 10, trial, **fields)
        for row in rows
        for trial, fields in trials(row).items()
    ]


def read_rows(stage: str) -> list[dict[str, Any]]:
    """Returns the rows of a stage in ``results.jsonl``."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [row for row in map(json.loads, lines) if row["stage"] == stage]


def chosen_trial(who: str, row: str) -> str:
    """Returns the name of the trial of a row with the best score; the first of equals.

    Raises:
      ValueError: not all trials of the row are finished.
    """
    scores = {
        result["trial"]: result["final_top1"]
        for result in read_rows("select")
        if (result["who"], result["row"]) == (who, row)
    }
    expected = list(trials(row))
    if missing := [name for name in expected if name not in scores]:
        raise ValueError(f"{row}: found no result of {missing}; run the stage 'select'")
    return max(expected, key=scores.__getitem__)


def equal_time_epochs(who: str, row: str) -> int:
    """Returns how many epochs of a row take as long as ``LENGTH`` epochs of none."""
    times = json.loads(TIMES.read_text())[who]
    seconds, reference = times[row]
    return round(LENGTH[who] * reference / seconds)


def final(who: str, rows: Sequence[str], budget: str) -> list[Job]:
    """Returns the runs on the test images: all rows of a seed, then the next seed.

    Args:
      who: which student trains.
      rows: names of rows.
      budget: ``steps`` or ``time``.
    """
    jobs = []
    for seed in SEEDS:
        for row in rows:
            settings_of = SETTINGS_OF.get(row, row)
            fields = dict(trials(settings_of)[chosen_trial(who, settings_of)])
            epochs = LENGTH[who]
            if budget == "time":
                epochs = equal_time_epochs(who, row)
            fields["data.eval_split"] = "test"
            job = make_job(who, row, epochs, seed, **fields)
            jobs.append(job._replace(facts={**job.facts, "budget": budget}))
    return jobs


STAGES: dict[str, Callable[[], list[Job]]] = {
    "teacher": teacher,
    "length": length,
    "select": select,
    "length_chosen": length_chosen,
    "steps": lambda: final("small", CORE, "steps"),
    "time": lambda: final("small", CORE, "time"),
}
