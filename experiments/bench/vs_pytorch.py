"""Blocks, teachers and whole steps against a plain PyTorch statement of the same.

    pip install '.[bench]'
    PYTHONPATH=. python experiments/bench/vs_pytorch.py block-wrn step-wrn --threads 2

For each case ours and PyTorch's variants are processes that take turns, each stopped
while another is timed. PyTorch starts from our weights: the numbers of parameters, the
losses of one batch under the same noise and, where there is a backward pass, the norms
of the gradient are compared first. Teachers have their norms folded on both sides.

The variant ``eigen`` is ours without oneDNN, which jaxlib has from 0.12 on.

Ratios are ours by the best of PyTorch's medians, medians over rounds with quartiles, by
wall clock and by CPU time of all threads. Both sides ask for huge pages, as the trainer
does (``diffkd_jax/backend/huge_pages.py``); ``--pages=small`` leaves them out.
"""

import argparse
import signal
import statistics
import sys
import tempfile

import numpy as np
import turns
from vs_cases import CASES

VARIANTS = ["nchw", "channels_last", "compile", "eigen"]
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
PAGES = {"huge": "glibc.malloc.hugetlb=1", "small": "glibc.malloc.hugetlb=0"}


def answer(asked):
    """A process of one side of one case."""
    case, half = asked.cases[0], asked.dtype == "bfloat16"
    if asked.side in ("ours", "eigen"):
        import jax
        import our_sides

        if asked.side == "eigen":
            our_sides.leave_out_onednn()

        if not half and jax.default_backend() == "gpu":  # else TensorFloat-32
            jax.config.update("jax_default_matmul_precision", "highest")
        kind = our_sides.KINDS[case.split("-")[0]]
        run, about = kind(case, asked.dtype if half else None, asked.file)
    else:
        import torch_sides

        run, about = torch_sides.prepared(
            case, asked.side, half, asked.threads[0], asked.file
        )
    turns.answer(run, about)


def check(case, ours, theirs, tolerance):
    """Raises unless both sides compute the same."""
    for name, value in ours.items():
        limit = 0 if name == "parameters" else tolerance * abs(value)
        if abs(value - theirs[name]) > limit:
            raise ValueError(f"{case}: {name}: ours {value}, PyTorch's {theirs[name]}")


def compare(case, threads, asked, folder):
    """Times one case and prints its row."""
    command = [sys.executable, __file__, case, f"--threads={threads}"]
    command += [f"--dtype={asked.dtype}", f"--file={folder}/{case}.npz"]
    environment = {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
    environment["GLIBC_TUNABLES"] = PAGES[asked.pages]
    sides = {}
    try:
        for name in ["ours", *asked.variants]:
            sides[name] = turns.Side([*command, f"--side={name}"], environment)
            both = sides["ours"].about, sides[name].about
            check(f"{case}, {name}", *both, TOLERANCE[asked.dtype])
        found = list(turns.rounds(sides, asked.rounds, asked.seconds))
    finally:
        for side in sides.values():
            side.close()
    cells = [case, str(threads)]
    for which in (0, 1):
        times = {n: np.array([r[n][which] for r in found]) for n in sides}
        medians = {n: statistics.median(t) for n, t in times.items()}
        best = min(set(asked.variants) - {"eigen"}, key=medians.get)
        low, middle, high = np.percentile(times["ours"] / times[best], [25, 50, 75])
        cells.append(f"**{middle:.2f}** ({low:.2f} to {high:.2f})")
        if which == 0:
            cells += [f"{1e3 * medians[n]:.0f}" for n in sides]
    print(f"| {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, help=f"of {CASES}")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32")
    parser.add_argument("--pages", choices=list(PAGES), default="huge")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if unknown := set(asked.cases) - set(CASES):
        parser.error(f"cases: found {sorted(unknown)}, expected some of {CASES}")
    if set(asked.variants) == {"eigen"}:
        parser.error("variants: found only eigen, expected one of PyTorch's too")
    if asked.side:
        answer(asked)
        return
    # So that no side is left behind, stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    names = " | ".join(f"{n}, ms" for n in ["ours", *asked.variants])
    print(f"| case | threads | wall | {names} | CPU |")
    print("|---|---|---|" + "---|" * (len(asked.variants) + 2))
    with tempfile.TemporaryDirectory() as folder:
        for case in asked.cases:
            for threads in asked.threads:
                compare(case, threads, asked, folder)


if __name__ == "__main__":
    main()
