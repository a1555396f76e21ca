"""Starts runs, waits for their phases, and compares what they leave."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
TIMED = {"images_per_second"}
MARK = "DIFFKD_JAX_CHAOS"  # in the environment of all processes of a trial


def command_of(workdir, fields):
    command = [sys.executable, "-m", "diffkd_jax.main"]
    command += [f"--config={HERE / 'config.py'}", f"--workdir={workdir}"]
    return command + [f"--config.{name}={value}" for name, value in fields.items()]


class Run:
    """Processes of one run, in a group of their own."""

    def __init__(self, workdir, fields=(), *, processes=1, devices=1, prefix=()):
        fields = dict(fields)
        self.workdir = pathlib.Path(workdir)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if processes > 1:
            fields["distributed.enabled"] = True
        command = [*prefix, *command_of(workdir, fields)]
        self.processes, self.outputs = [], []
        for index in range(processes):
            environment = os.environ | {
                MARK: str(os.getpid()),
                "PYTHONPATH": f"{ROOT}:{HERE}",
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            }
            if processes > 1:
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                    "JAX_NUM_PROCESSES": str(processes),
                    "JAX_PROCESS_ID": str(index),
                }
            self.outputs.append(
                self.workdir.with_name(f"{self.workdir.name}-{index}.log")
            )
            with self.outputs[-1].open("a") as output:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def wait_until(self, condition, seconds=240):
        """Whether the condition came true before the run was over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            if self.processes[0].poll() is not None:
                return False
            time.sleep(0.002)
        return False

    def send(self, number, index=None):
        """A signal to all processes, or to one; with their workers."""
        for process in self.processes if index is None else [self.processes[index]]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def end(self, seconds=300):
        """Exit codes; what does not end is killed, and has none."""
        codes = []
        for process in self.processes:
            try:
                codes.append(process.wait(seconds))
            except subprocess.TimeoutExpired:
                codes.append(None)
        self.send(signal.SIGKILL)
        return codes

    def said(self, index=0):
        """The last line of ours in a process's output."""
        lines = self.outputs[index].read_text(errors="replace").splitlines()
        ours = [x for x in lines if x.strip() and "resource_tracker" not in x]
        return ours[-1].replace(str(self.workdir.parent), "...") if ours else ""

    def traceback(self):
        """Whether any process showed one, in any call on the workdir."""
        return any("Traceback" in file.read_text() for file in self.outputs)


def rows(workdir):
    """Rows of the log so far, whole lines."""
    file = pathlib.Path(workdir) / "metrics.jsonl"
    if not file.exists():
        return []
    found = []
    for line in file.read_text().splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def step_of(workdir):
    return max((row["step"] for row in rows(workdir)), default=0)


def differences(workdir, expected, far=0.0):
    """What of a finished run is not as in another one; ``far`` allows rounding."""
    found = []
    for place in (".", "teacher"):
        ours, theirs = (pathlib.Path(p) / place for p in (workdir, expected))
        names = [
            {p.name for p in x.iterdir()} - {"events", "lock", "damaged", "teacher"}
            for x in (ours, theirs)
        ]
        if names[0] != names[1]:
            found.append(f"{place}: files {sorted(names[0] ^ names[1])}")
        weights = [load_file(x / "model.safetensors") for x in (ours, theirs)]
        apart = max(np.abs(weights[0][n] - weights[1][n]).max() for n in weights[1])
        if apart > far:
            found.append(f"{place}: weights {apart:.1e} apart")
        logs = [
            [{**row, **dict.fromkeys(TIMED, 0)} for row in rows(x)]
            for x in (ours, theirs)
        ]
        if [r["step"] for r in logs[0]] != [r["step"] for r in logs[1]]:
            found.append(f"{place}: other steps in the log")
        elif not far and logs[0] != logs[1]:
            found.append(f"{place}: other rows in the log")
        kept = [{p.name for p in (x / "checkpoints").iterdir()} for x in (ours, theirs)]
        # A stop leaves one of its own, which may be among the newest at the end.
        if (
            max(map(int, kept[0])) != max(map(int, kept[1]))
            or not 2 <= len(kept[0]) < 4
        ):
            found.append(f"{place}: checkpoints {sorted(kept[0])}")
    return found


def orphans():
    """Processes of this trial that are still there after it."""
    time.sleep(0.5)
    mark, found = f"{MARK}={os.getpid()}".encode(), []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            own = mark in (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if own and state != "Z":
                found.append(int(folder.name))
    return found
