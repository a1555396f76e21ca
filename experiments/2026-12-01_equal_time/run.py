"""Runs one stage of the study, one run after the other, each on one core.

    PYTHONPATH=. python experiments/2026-12-01_equal_time/run.py STAGE DATA RUNS

Each run is a call of ``diffkd_jax.main`` with a folder of its own in ``RUNS``. The same
call continues a stage that was stopped: it leaves finished runs alone and resumes the
one that was interrupted. Each finished run adds a row to ``results.jsonl``. Several
stages can run at the same time; a run that another process holds is left to it.
"""

import argparse
import fcntl
import json
import os
import pathlib
import subprocess
import sys

from config import get_config
from stages import STAGES

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results.jsonl"


def main() -> None:
    """Runs the jobs of a stage that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("data", help="file of make_data.py")
    parser.add_argument("runs", type=pathlib.Path, help="folder of all runs")
    asked = parser.parse_args()
    asked.runs.mkdir(parents=True, exist_ok=True)
    for job in STAGES[asked.stage]():
        with (asked.runs / f"{job.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if job.name not in finished():
                run(job, asked.data, asked.runs, asked.stage)


def finished() -> set[str]:
    """Returns the names of the runs in ``results.jsonl``."""
    if not RESULTS.exists():
        return set()
    return {json.loads(line)["name"] for line in RESULTS.read_text().splitlines()}


def run(job, data: str, runs: pathlib.Path, stage: str) -> None:
    """Trains one student and adds its row to the results."""
    fields = {**job.fields, "data.path": data}
    if job.facts["row"] == "self":
        # The run of none with the same length and seed, which comes before it.
        undistilled = f"{job.name.replace('-self-', '-none-')}/model.safetensors"
        student = get_config(job.who).student
        fields |= {"teacher.model": student.model, "teacher.init": runs / undistilled}
        fields["teacher.options.channels"] = tuple(student.options.channels)
    elif fields["method"] != "none":
        fields["teacher.init"] = HERE / "teacher.safetensors"
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    workdir = runs / job.name
    subprocess.run(
        [
            *(sys.executable, "-m", "diffkd_jax.main"),
            *(f"--config={HERE / 'config.py'}:{job.who}", *flags),
            f"--workdir={workdir}",
        ],
        check=True,
        env={**os.environ, "NPROC": "1"},
    )
    summary = json.loads((workdir / "summary.json").read_text())
    row = {"name": job.name, "stage": stage, **job.facts}
    row["split"] = fields.get("data.eval_split", "valid")
    keys = ("steps", "final_top1", "teacher_top1", "images_per_second")
    row |= {key: summary[key] for key in keys if key in summary}
    with RESULTS.open("a") as stream:
        stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
