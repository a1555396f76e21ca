"""How the cost of DiffKD grows: with its steps, the batch and the latent width.

    PYTHONPATH=. python experiments/bench/growth.py num_steps batch width step
    PYTHONPATH=. python experiments/bench/growth.py

The first measures and keeps what it finds in ``growth.jsonl``, the second prints the
tables and draws the figure from that. Of a block it is the value and the gradient of
all losses: ``num_steps`` and ``batch`` on the features of wrn_40_2-wrn_40_1 (8x8, 128
channels, batch 64), ``width`` on those of r34-r18 (7x7, 512 channels, batch 16), with
an autoencoder. ``step`` is the whole training step of wrn_40_2-wrn_40_1 by batch.
Times are medians over rounds in which all points of a sweep run in turn.
"""

import argparse
import json
import math
import pathlib
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from pairs import drawn_teacher, first_batch, freeze, run_of
from turns import in_turn

from diffkd_jax.backend.compiler import compiler_options
from diffkd_jax.core.diffkd import DiffKD
from diffkd_jax.core.distill import distillation
from diffkd_jax.core.taps import Tap
from diffkd_jax.io import drawing

HERE = pathlib.Path(__file__).parent
KEPT = HERE / "growth.jsonl"
MIB = 2**20
PAIR = "cifar100:wrn_40_2-wrn_40_1"
SWEEPS = {
    "num_steps": (1, 2, 3, 5, 10),
    "batch": (16, 32, 64, 128, 256),
    "width": (64, 128, 256, 512, 1024),
    "step": (16, 32, 64, 128, 256),
}
TITLES = {
    "num_steps": "block, denoising steps",
    "batch": "block, batch",
    "width": "block, latent width",
    "step": "whole step, batch",
}


def block(sweep, x):
    """A function and its arguments: losses of a block and their gradient."""
    side, student, teacher, batch = 8, 64, 128, 64
    options = {"num_steps": 5}
    if sweep == "num_steps":
        options["num_steps"] = x
    elif sweep == "batch":
        batch = x
    else:
        side, student, teacher, batch = 7, 512, 512, 16
        options["latent_channels"] = x
    distill = distillation({"f": Tap("f", "f", block=DiffKD(**options))})
    draw = np.random.default_rng(0)
    student_out, teacher_out = (
        {"f": jnp.asarray(draw.standard_normal((batch, side, side, c), np.float32))}
        for c in (student, teacher)
    )
    init = jax.jit(distill.init, compiler_options=compiler_options(once=True))
    params, state = init(jax.random.key(0), student_out, teacher_out)

    def total(params, student_out, state, teacher_out):
        key = jax.random.key(1)
        losses, state, _ = distill.loss(params, state, key, student_out, teacher_out)
        return sum(losses.values()), state

    gradient = jax.value_and_grad(total, (0, 1), has_aux=True)
    return gradient, (params, student_out, state, teacher_out)


def step(x):
    """The training step at a batch, and its arguments."""
    run = run_of(PAIR, x)
    teacher = jax.device_put(freeze(run, drawn_teacher(run)))
    return run.pure_step, (run.init(), teacher, first_batch(run))


def measure(sweep, rounds):
    """A record of each point."""
    records, calls = [], {}
    for x in SWEEPS[sweep]:
        function, arguments = step(x) if sweep == "step" else block(sweep, x)
        jitted = jax.jit(function, compiler_options=compiler_options())
        lowered = jitted.lower(*arguments)
        compiled = lowered.compile()
        memory = compiled.memory_analysis()
        records.append(
            {
                "sweep": sweep,
                "x": x,
                "gflop": lowered.cost_analysis()["flops"] / 1e9,
                "arguments_mib": memory.argument_size_in_bytes / MIB,
                "temporary_mib": memory.temp_size_in_bytes / MIB,
            }
        )
        calls[x] = lambda f=compiled, a=arguments: jax.block_until_ready(f(*a))
    times = in_turn(calls, rounds)
    for record in records:
        samples = [1e3 * wall for wall, _ in times[record["x"]]]
        record["ms"] = statistics.median(samples)
        record["quartiles"] = np.percentile(samples, [25, 75]).tolist()
    return records


def keep(records):
    """Puts records in the place of older ones of the same sweep."""
    old = [r for r in read() if r["sweep"] != records[0]["sweep"]]
    lines = [json.dumps(record) for record in old + records]
    KEPT.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read():
    if not KEPT.exists():
        return []
    return [json.loads(line) for line in KEPT.read_text(encoding="utf-8").splitlines()]


def line_of(x, y):
    """Slope, intercept, and the largest distance from that line in %."""
    weights = 1 / np.asarray(y)  # relative distances count, not large values
    slope, start = np.polyfit(x, y, 1, w=weights)
    off = np.abs((slope * np.asarray(x) + start) / y - 1).max()
    return slope, start, 100 * off


def table(sweep, records):
    """Rows of a sweep, and how it grows."""
    print(f"| {TITLES[sweep]} | GFLOP | ms (quartiles) | temporary, MiB | arguments |")
    print("|---|---|---|---|---|")
    for r in records:
        low, high = r["quartiles"]
        print(
            f"| {r['x']} | {r['gflop']:.3g} | {r['ms']:.0f} ({low:.0f} to {high:.0f}) "
            f"| {r['temporary_mib']:.0f} | {r['arguments_mib']:.0f} |"
        )
    x = [r["x"] for r in records]
    print()
    for name in ("gflop", "ms", "temporary_mib"):
        y = [r[name] for r in records]
        if sweep == "width":
            powers = np.diff(np.log2(y)) / np.diff(np.log2(x))
            print(f"{name}: powers {', '.join(f'{p:.2f}' for p in powers)}")
            continue
        slope, start, off = line_of(x, y)
        print(f"{name}: {start:.3g} + {slope:.3g} x, within {off:.0f} %")
    print()


def draw(found):
    """Cost of each sweep relative to its first point, ``growth.png``."""
    kinds = {"gflop": "GFLOP", "ms": "time", "temporary_mib": "temporary memory"}
    figure, axes = drawing.subplots(1, len(found), figsize=(3.1 * len(found), 2.9))
    for axis, (sweep, records) in zip(np.atleast_1d(axes), found.items(), strict=True):
        x = [r["x"] for r in records]
        for (name, label), marker in zip(kinds.items(), "os^", strict=True):
            y = [r[name] / records[0][name] for r in records]
            axis.plot(x, y, marker=marker, markersize=4, label=label)
        axis.set(xscale="log", yscale="log", title=TITLES[sweep])
        axis.set_xticks(x, map(str, x))
        axis.minorticks_off()
        top = max(r[name] / records[0][name] for r in records for name in kinds)
        ticks = [2**k for k in range(math.ceil(math.log2(top)) + 1)]
        axis.set_yticks(ticks, map(str, ticks))
    np.atleast_1d(axes)[0].set_ylabel("cost, first point is 1")
    np.atleast_1d(axes)[0].legend(fontsize=7)
    drawing.save_figure(figure, HERE / "growth.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="*", help=f"of {', '.join(SWEEPS)}")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    for sweep in asked.sweeps:
        keep(measure(sweep, asked.rounds))
    if asked.sweeps:
        return
    found = {s: [r for r in read() if r["sweep"] == s] for s in SWEEPS}
    found = {sweep: records for sweep, records in found.items() if records}
    for sweep, records in found.items():
        table(sweep, records)
    draw(found)


if __name__ == "__main__":
    main()
