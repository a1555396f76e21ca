"""Measures the time of a training step of each row, in turns with ``none``.

    NPROC=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONPATH=. taskset -c 0 \
        python experiments/2026-12-01_equal_time/step_times.py WHO DATA

Nothing else may run on the machine meanwhile. The times go into ``step_times.json``:
seconds of a step of the row, and of one of ``none`` in the same rounds. The forward
pass of the teacher is included. Rows that are there already are not measured again.
"""

import json
import pathlib
import sys

from config import get_config
from stages import ROWS

from diffkd_jax.config.resolve import resolve
from diffkd_jax.train.build import build
from diffkd_jax.train.commands.step_times import measure_step

FILE = pathlib.Path(__file__).parent / "step_times.json"


def build_row(who: str, data: str, row: str):
    """Returns the built run of a row."""
    config = get_config(who)
    config.data.path = data
    config.train.epochs = 160.0  # short runs are compiled with other options
    for field, value in ROWS[row].items():
        if field.startswith("methods."):
            _, method, option = field.split(".")
            config.methods = {method: {option: value}}
        else:
            config[field] = value
    if row == "self":
        config.teacher.model = config.student.model
        config.teacher.options = config.student.options
    return build(resolve(config))


def main(who: str, data: str) -> None:
    """Measures the rows of one student that have no time yet."""
    times = json.loads(FILE.read_text()) if FILE.exists() else {}
    reference = build_row(who, data, "none")
    for row in ROWS:
        if row in times.setdefault(who, {}):
            continue
        run = reference if row == "none" else build_row(who, data, row)
        pair = measure_step(run, reference)
        times[who][row] = [float(f"{seconds:.6g}") for seconds in pair]
        print(f"{row:20} {1000 * pair.seconds:6.2f} ms  {pair.cost:.2f}", flush=True)
        FILE.write_text(json.dumps(times, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
