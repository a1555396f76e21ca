"""The faults: each trial yields what was injected, and what was found."""

import contextlib
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import time

from harness import HERE, Run, command_of, differences, rows, step_of

FAR = 5e-3  # of weights, after 60 steps of sums in another order
TOGETHER = {"distributed.lost_seconds": 5}


def result(injected, problems, note=""):
    found = "; ".join(map(str, problems)) or note
    return {"injected": injected, "survived": not problems, "found": found}


def finished(workdir, expected, fields=(), far=0.0, **how):
    """Calls the command again; what is not as expected when it has ended."""
    run = Run(workdir, fields, **how)
    codes = run.end()
    if codes == [0] * len(codes):
        return differences(workdir, expected, far)
    return [f"exit {codes}: {run.said()}"]


def saving(workdir):
    """Whether a checkpoint is being written."""
    return any("tmp" in p.name for p in (workdir / "checkpoints").glob("*"))


def evaluating(workdir, step):
    last = [row for row in rows(workdir) if row["step"] == step]
    return last and not any("eval/top1" in row for row in last)


PHASES = {
    "before the first step": lambda w: (w / "teacher/lock").exists(),
    "teacher, step 7": lambda w: step_of(w / "teacher") >= 7,
    "teacher, saving": lambda w: saving(w / "teacher"),
    "step 13": lambda w: step_of(w) >= 13,
    "evaluation at 15": lambda w: evaluating(w, 15),
    "saving at 20": lambda w: step_of(w) >= 20 and saving(w),
    "export": lambda w: (w / "model.safetensors").exists(),
    "report": lambda w: (w / "plots").exists(),
}


def kills_at_random(place, undisturbed, rng, seconds):
    for number in range(10):
        workdir, moments = place / str(number), []
        for _ in range(rng.choice([1, 1, 2])):
            run = Run(workdir)
            moments.append(rng.uniform(0, seconds))
            run.wait_until(lambda: False, moments[-1])
            run.send(signal.SIGKILL)
            run.end()
        note = f"step {step_of(workdir)}"
        problems = finished(workdir, undisturbed)
        at = " and ".join(f"{100 * m / seconds:.0f} %" for m in moments)
        yield result(f"kill at {at} of its time", problems, note)


def kills_in_each_phase(place, undisturbed, rng, seconds):
    for number, (phase, reached) in enumerate(PHASES.items()):
        workdir = place / str(number)
        run = Run(workdir)
        met = run.wait_until(lambda: reached(workdir))  # noqa: B023
        run.send(signal.SIGKILL)
        run.end()
        problems = [] if met else ["the phase was not met"]
        yield result(f"kill, {phase}", problems + finished(workdir, undisturbed))


def signals(place, undisturbed, rng, seconds):
    for name in ("SIGTERM", "SIGINT"):
        for number, (phase, reached) in enumerate(PHASES.items()):
            workdir = place / f"{name}{number}"
            run = Run(workdir)
            met = run.wait_until(lambda: reached(workdir))  # noqa: B023
            run.send(getattr(signal, name))
            codes, last = run.end(60), run.said()
            problems = [] if met else ["the phase was not met"]
            # 0 where the signal came after the last question.
            if codes not in ([128 + getattr(signal, name)], [0]) or run.traceback():
                problems.append(f"exit {codes}: {last}")
            again = finished(workdir, undisturbed)
            yield result(f"{name}, {phase}", problems + again, last)


def other_devices(place, undisturbed, rng, seconds):
    four = {"num_devices": 4}
    split = four | {"mesh.fsdp": 2, "mesh.fsdp_min_bytes": 256}
    for name, fields in (("4 devices", four), ("4 devices that share a state", split)):
        workdir, step = place / name.replace(" ", ""), rng.randint(5, 55)
        run = Run(workdir)
        run.wait_until(lambda: step_of(workdir) >= step)  # noqa: B023
        run.send(signal.SIGKILL)
        run.end()
        problems = finished(workdir, undisturbed, fields, far=FAR, devices=4)
        yield result(f"kill at step {step}, goes on on {name}", problems)


def two_processes(place, undisturbed, rng, seconds):
    """Of two devices each, so that all of them compute what four would."""
    how = {"processes": 2, "devices": 2, "fields": TOGETHER | {"num_devices": 0}}
    Run(place / "two", **how).end()
    harms = {
        "kill of both": (signal.SIGKILL, None),
        "kill of the first": (signal.SIGKILL, 0),
        "kill of the second": (signal.SIGKILL, 1),
        "stop of the first without dying": (signal.SIGSTOP, 0),
        "stop of the second without dying": (signal.SIGSTOP, 1),
        "SIGTERM to the first": (signal.SIGTERM, 0),
        "SIGTERM to the second": (signal.SIGTERM, 1),
        "SIGINT to both": (signal.SIGINT, None),
    }
    for name, (number, index) in harms.items():
        workdir, step = place / name.replace(" ", ""), rng.randint(3, 55)
        run = Run(workdir, **how)
        run.wait_until(lambda: step_of(workdir) >= step)  # noqa: B023
        began, problems = time.monotonic(), []
        run.send(number, index)
        others = [i for i in (0, 1) if i != index]
        codes = [run.processes[i].wait(60) for i in others]
        took = time.monotonic() - began
        if number in (signal.SIGTERM, signal.SIGINT):
            stopped = "stopped at step" in run.outputs[0].read_text()
            told = {128 + signal.SIGTERM, 128 + number}
            if not set(codes) <= told or not stopped:
                problems.append(f"exit {codes}, {'' if stopped else 'not '}stopped")
        last = run.said(others[0])
        run.send(signal.SIGKILL)
        run.end()
        again = finished(workdir, place / "two", **how)
        note = f"ended {took:.0f} s later: {last}"
        yield result(f"{name} at step {step}", problems + again, note)
    workdir = place / "one"
    run = Run(workdir, **how)
    run.wait_until(lambda: step_of(workdir) >= 23)
    run.send(signal.SIGKILL)
    run.end()
    alone = finished(workdir, place / "two", {"num_devices": 4}, FAR, devices=4)
    yield result("kill of both at step 23, goes on as one process", alone)


def damaged_checkpoints(place, undisturbed, rng, seconds):
    """Restored in this process, so that every file can be tried."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from config import get_config

    from diffkd_jax.train.build import build
    from diffkd_jax.train.workdir import checkpoint
    from diffkd_jax.train.workdir.checkpoint_manager import open_checkpoints

    run, workdir = build(get_config()), place / "run"
    state = run.init()

    def restored():
        with open_checkpoints(workdir, run.task) as checkpoints:
            found = checkpoint.restore(checkpoints, state)
        return int(found.step), checkpoint.compute_checksum(found)

    def fresh():
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(undisturbed / "checkpoints", workdir / "checkpoints")

    fresh()
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    newest, known = workdir / "checkpoints" / str(steps[-1]), {}
    for step in reversed(steps):
        at, known[step] = restored()
        assert at == step
        shutil.rmtree(workdir / "checkpoints" / str(step))
    fresh()
    parts = sorted(p.relative_to(newest) for p in newest.rglob("*"))

    def cut(path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def flip(path):
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)

    def zero(path):
        path.write_bytes(bytes(path.stat().st_size))

    files = [part for part in parts if (newest / part).is_file()]
    folders = [part for part in parts if (newest / part).is_dir()]
    full = [part for part in files if (newest / part).stat().st_size]
    harms = [(f.__name__, part, f) for part in full for f in (cut, flip, zero)]
    harms += [("delete", part, pathlib.Path.unlink) for part in files]
    harms += [("remove", part, shutil.rmtree) for part in folders]
    harms += [("empty", ".", lambda p: (shutil.rmtree(p), p.mkdir()))]
    for how, part, harm in harms:
        fresh()
        harm(newest / part)
        try:
            step, checksum = restored()
            problems = (
                [] if checksum == known.get(step) else [f"other numbers at {step}"]
            )
            note = "no effect" if step == steps[-1] else f"fell back to {step}"
        except ValueError as error:
            problems, note = [str(error).splitlines()[0]], ""
        yield result(f"{how} {part}", problems, note)


IN_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 none $2 || exit 9
shift 1; disk=$1; shift 1
"$@"; echo "EXIT $?"
mount -o remount,size=1g $disk
"$@"; echo "AGAIN $?"
cp -a $disk/run $disk.copy
"""
READ_ONLY = """
mount -t tmpfs none $1 || exit 9
disk=$1; shift 1
"$@" & run=$!
until [ $(cat $disk/run/metrics.jsonl 2>/dev/null | wc -l) -gt 9 ]; do sleep 0.05; done
kill $run; wait $run
mount -o remount,ro $disk; "$@"; echo "EXIT $?"
mount -o remount,rw $disk; "$@"; echo "AGAIN $?"
cp -a $disk/run $disk.copy
"""


def _in_namespace(script, *arguments):
    command = ["unshare", "-rm", "bash", "-c", script, "bash", *map(str, arguments)]
    environment = os.environ | {
        "PYTHONPATH": f"{HERE.parents[1]}:{HERE}",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    code = lambda word: next(
        (x.split()[1] for x in lines if x.startswith(word)), "none"
    )
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    return (
        code("EXIT "),
        code("AGAIN "),
        (errors or [done.stderr[-300:]])[0],
        done.stderr,
    )


def full_disks(place, undisturbed, rng, seconds):
    size = sum(p.stat().st_size for p in undisturbed.rglob("*") if p.is_file()) // 1024
    for share in (2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100):
        disk = place / str(share)
        disk.mkdir()
        first, again, said, output = _in_namespace(
            IN_A_SMALL_DISK,
            f"{size * share // 100}k",
            disk,
            *command_of(disk / "run", {}),
        )
        problems = (
            [] if first == "1" or (first == "0" and share > 60) else [f"exit {first}"]
        )
        if "Traceback" in output or len(output.splitlines()) > 12:
            problems.append(f"{len(output.splitlines())} lines of output")
        if again == "0":
            problems += differences(pathlib.Path(f"{disk}.copy"), undisturbed)
        else:
            problems.append(f"then exit {again}")
        note = said if first == "1" else "was large enough"
        yield result(f"disk of {share} % of the run", problems, note)


def workdirs(place, undisturbed, rng, seconds):
    disk = place / "readonly"
    disk.mkdir()
    first, again, said, _ = _in_namespace(
        READ_ONLY, disk, *command_of(disk / "run", {})
    )
    problems = [] if (first, again) == ("1", "0") else [f"exit {first}, {again}"]
    copy = pathlib.Path(f"{disk}.copy")
    problems += differences(copy, undisturbed) if copy.exists() else ["no end"]
    yield result("read-only when it goes on", problems, said)

    workdir, away = place / "vanished", place / "away"
    run = Run(workdir)
    run.wait_until(lambda: step_of(workdir) >= 23)
    workdir.rename(away)
    codes, last = run.end(), run.said()
    problems = [] if codes == [1] and not run.traceback() else [f"exit {codes}: {last}"]
    with contextlib.suppress(FileNotFoundError):
        workdir.rename(place / "made again")
    away.rename(workdir)
    yield result(
        "moved away at step 23", problems + finished(workdir, undisturbed), last
    )

    workdir = place / "shared"
    run = Run(workdir)
    run.wait_until(lambda: step_of(workdir) >= 5)
    other = Run(workdir, {"optimizer.learning_rate": 0.5})
    codes, last = other.end(), other.said()
    problems = [] if codes == [1] else [f"exit {codes}: {last}"]
    problems += [] if run.end() == [0] else [f"the first one: {run.said()}"]
    yield result("a second run in it", problems + differences(workdir, undisturbed))


def decoders(place, undisturbed, rng, seconds):
    for workers in (0, 2):
        fields = {
            "data.name": "hanging:load",
            "data.path": place / "hang",
            "data.stalled_seconds": 8,
            "data.num_workers": workers,
        }
        for name, number in (("SIGTERM meanwhile", signal.SIGTERM), ("left alone", 0)):
            workdir, step = place / f"{number}-{workers}", rng.randint(3, 55)
            run = Run(workdir, fields)
            run.wait_until(lambda: step_of(workdir) >= step)  # noqa: B023
            (place / "hang").touch()
            time.sleep(3)
            if number:
                run.send(number, 0)
            codes, last = run.end(60), run.said()
            problems = (
                []
                if codes == [128 + number if number else 1]
                else [f"exit {codes}: {last}"]
            )
            problems += ["a traceback"] if run.traceback() else []
            (place / "hang").unlink()
            problems += finished(workdir, undisturbed, fields)
            label = f"hangs at step {step}, {name}, {workers} workers"
            yield result(label, problems, last)


def growth(place, undisturbed, rng, seconds):
    """Medians of the first and the last steps, of the process and its workers."""
    for workers in (0, 2):
        fields = {
            "train.epochs": 100.0,
            "eval_every_epochs": 5.0,
            "data.num_workers": workers,
        }
        workdir = place / str(workers)
        run, seen = Run(workdir, fields), []
        while run.processes[0].poll() is None:
            time.sleep(0.5)
            with contextlib.suppress(OSError, KeyError):  # one that has just ended
                seen.append((step_of(workdir), *_held(run.processes[0].pid)))
        codes = run.end()
        problems = [] if codes == [0] else [f"exit {codes}: {run.said()}"]
        ends = []
        for low, high in ((200, 600), (1600, 2000)):
            part = [held for at, *held in seen if low <= at < high]
            ends.append([statistics.median(x) for x in zip(*part, strict=True)])
        names = ("MiB", "descriptors", "threads")
        note = ", ".join(
            f"{name} {a:.0f} -> {b:.0f}"
            for name, a, b in zip(names, *ends, strict=True)
        )
        if any(b > 1.05 * a + 3 for a, b in zip(*ends, strict=True)):
            problems.append(note)
        label = f"2,000 steps and 20 evaluations, {workers} workers"
        yield result(label, problems, note)


def _held(pid):
    """Memory in MiB, descriptors and threads of a process and its children."""
    pids = [pid]
    for parent in pids:
        for task in pathlib.Path(f"/proc/{parent}/task").iterdir():
            pids += [int(child) for child in (task / "children").read_text().split()]
    totals = [0.0, 0, 0]
    for one in pids:
        folder = pathlib.Path(f"/proc/{one}")
        status = dict(
            line.split(":", 1) for line in (folder / "status").read_text().splitlines()
        )
        totals[0] += int(status["VmRSS"].split()[0]) / 1024
        totals[1] += len(list((folder / "fd").iterdir()))
        totals[2] += int(status["Threads"])
    return totals


TRIALS = {
    f.__name__: f
    for f in (
        kills_at_random,
        kills_in_each_phase,
        signals,
        other_devices,
        two_processes,
        damaged_checkpoints,
        full_disks,
        workdirs,
        decoders,
        growth,
    )
}
