"""Worker processes end with the run, however it ends."""

import os
import subprocess
import sys
import time

MAIN = """
import multiprocessing, time
import numpy as np
from absl import flags
from diffkd_jax.data import array_splits
from diffkd_jax.data.pipeline.batches import eval_batches

if __name__ == "__main__":
    image = np.zeros((9, 2, 2, 1), np.uint8)
    rows = array_splits.make_array_split(image, np.arange(9), 9, "")
    batches = eval_batches(rows, lambda b: b, batch_size=4, num_workers=1)
    next(batches)
    workers = [process.pid for process in multiprocessing.active_children()]
    print(*workers, flags.FLAGS.is_parsed(), flush=True)
    time.sleep(300)
"""


def test_workers_end_with_a_killed_run(tmp_path):
    (tmp_path / "run.py").write_text(MAIN)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(tmp_path / "run.py")]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        *workers, parsed = run.stdout.readline().split()
        run.kill()
    try:
        assert len(workers) == 1
        end = time.monotonic() + 20
        while is_running(int(workers[0])) and time.monotonic() < end:
            time.sleep(0.1)
        assert not is_running(int(workers[0]))
    finally:
        if is_running(int(workers[0])):
            os.kill(int(workers[0]), 9)
    assert parsed == "False"  # the flags of whoever calls are not touched


def is_running(process):
    """Not there, or there as an entry that nobody has waited for yet."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
