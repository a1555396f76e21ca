"""Time from a command to its first logged steps, without and with compiled programs.

    python experiments/bench/first_step.py --rounds=3

Two commands, each first with an empty cache of compiled programs and then again:
``smoke`` is all of ``quickstart:smoke`` up to the student's first step, its teacher's
training included; ``student`` is the first step of ``quickstart`` with a teacher that
is there. With ``--against=DIR`` the same commands run from another checkout, in turn.

Wall clock and CPU seconds of the process when the line of the step comes; medians. The
stages are wall clock, from what JAX logs: ``start`` is all before the first trace
(imports, data), tracing of functions inside others counts once, ``compile`` includes
reading the cache and may be at the same time as other stages, ``rest`` is the time
outside of all stages, ``programs`` are those compiled or read.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import psutil

STAGES = {
    "Finished tracing": "trace",
    "Finished jaxpr to MLIR": "lower",
    "Finished XLA compilation": "compile",
}
EVENT = re.compile(
    rf"(\d+):(\d+):([\d.]+).*\] ({'|'.join(STAGES)}).* in ([\d.e-]+) sec"
)
COLUMNS = ["wall", "cpu", "start", *STAGES.values(), "rest", "programs"]
SMOKE = ["--config=quickstart:smoke"]


def run(checkout, arguments, cache, until):
    """Seconds by stage until a line holds ``until``; then the command is ended."""
    command = [sys.executable, "-m", "diffkd_jax.main", *arguments]
    own = {"PYTHONPATH": str(checkout), "JAX_LOG_COMPILES": "1"}
    with tempfile.TemporaryFile("w+") as log:
        began, start = time.time(), time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--compilation_cache={cache}"],
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=checkout,
        )
        found = {}
        for line in process.stdout:
            if until and until in line:
                found["wall"] = time.perf_counter() - start
                found["cpu"] = sum(psutil.Process(process.pid).cpu_times()[:2])
                process.kill()
                break
        process.wait()
        log.seek(0)
        text = log.read()
    if until and not found:
        raise SystemExit(f"{command}: found no {until!r}\n{text[-2000:]}")
    return found | stages(text, began, found.get("wall", 0.0))


def stages(text, began, wall):
    """Seconds of each stage before the step, from the log of one run."""
    midnight = time.mktime((*time.localtime(began)[:3], 0, 0, 0, 0, 0, -1))
    spans, programs = {name: [] for name in STAGES.values()}, 0
    for hour, minute, second, what, seconds in EVENT.findall(text):
        end = midnight + 3600 * int(hour) + 60 * int(minute) + float(second) - began
        spans[STAGES[what]].append((end - float(seconds), end))
        programs += STAGES[what] == "compile"
    found = {name: covered(own) for name, own in spans.items()}
    found["start"] = min((begin for own in spans.values() for begin, _ in own))
    everything = [span for own in spans.values() for span in own]
    found["rest"] = wall - found["start"] - covered(everything)
    return found | {"programs": programs}


def covered(spans):
    """Length of the union of intervals."""
    total = reached = 0.0
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def measured(checkout, folder, teacher):
    """Both commands, cold and warm, in fresh directories."""
    commands = {
        "smoke": [*SMOKE],
        "student": [
            "--config=quickstart",
            f"--config.teacher.init={teacher}",
            "--config.log_every_steps=1",
        ],
    }
    found = {}
    for name, arguments in commands.items():
        cache = folder / f"cache_{name}"
        for state in ("cold", "warm"):
            workdir = f"--workdir={folder / name}_{state}"
            until = " diffkd  step 1/"
            found[name, state] = run(checkout, [*arguments, workdir], cache, until)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=pathlib.Path, help="another checkout")
    given = parser.parse_args()
    here = pathlib.Path(__file__).resolve().parents[2]
    checkouts = {"": here} | ({"other, ": given.against} if given.against else {})
    samples = {}
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        run(here, [*SMOKE, f"--workdir={folder / 'first'}"], folder / "cache", "")
        teacher = folder / "first" / "teacher"
        for i in range(given.rounds):
            for label, checkout in checkouts.items():
                place = folder / f"{label[:5]}{i}"
                for key, found in measured(checkout, place, teacher).items():
                    samples.setdefault((label, *key), []).append(found)
    print(f"| command | {' | '.join(COLUMNS)} | of cold |\n|{'---|' * 10}")
    for (label, name, state), found in samples.items():
        middle = {c: statistics.median(f[c] for f in found) for c in COLUMNS}
        cells = [f"{middle[c]:.1f}" for c in COLUMNS[:-1]]
        shares = [
            a["wall"] / b["wall"]
            for a, b in zip(found, samples[label, name, "cold"], strict=True)
        ]
        share = f"{statistics.median(shares):.2f}" if state == "warm" else ""
        cells += [f"{middle['programs']:.0f}", share]
        print(f"| {label}{name}, {state} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
