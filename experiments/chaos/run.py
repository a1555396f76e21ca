"""Injects faults into small runs, and tells what survived.

    python experiments/chaos/run.py [TRIAL ...] [--seed=0]

Every trial starts real commands, does harm, calls the same command again until the run
has ended, and compares with a run that nothing happened to: weights, log and names of
files, to the bit where devices and processes are the same. It appends a row to
``results.jsonl`` and rewrites the table in ``README.md``. Linux; trials that need a
disk of their own use ``unshare``.
"""

import argparse
import json
import pathlib
import random
import shutil
import tempfile
import time

from harness import HERE, Run, differences, orphans
from trials import TRIALS

FILE = HERE / "results.jsonl"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", nargs="*", default=list(TRIALS), help="by name")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="chaos-"))
    Run(folder / "warm").end()  # compiles
    began = time.monotonic()
    undisturbed = Run(folder / "undisturbed")
    if undisturbed.end() != [0]:
        raise SystemExit(undisturbed.said())
    seconds = time.monotonic() - began
    same = differences(folder / "warm", folder / "undisturbed")
    print(f"undisturbed: {seconds:.0f} s, twice the same: {same or 'yes'}", flush=True)
    for name in arguments.trials:
        rng = random.Random(f"{arguments.seed} {name}")
        place = folder / name
        place.mkdir()
        for row in TRIALS[name](place, folder / "undisturbed", rng, seconds):
            left = orphans()
            row = {"trial": name, "seed": arguments.seed, **row, "orphans": len(left)}
            print(json.dumps(row), flush=True)
            with FILE.open("a") as file:
                file.write(json.dumps(row) + "\n")
        shutil.rmtree(place)
    write_table()


def write_table():
    """The table in ``README.md``: the newest row of each injection."""
    newest = {}
    for line in FILE.read_text().splitlines():
        row = json.loads(line)
        newest[row["trial"], row["seed"], row["injected"]] = row
    groups = {}
    for row in newest.values():
        groups.setdefault(row["trial"], []).append(row)
    lines = ["| trial | injected | survived | lost | orphans | of the lost |"]
    lines.append("|---|---|---|---|---|---|")
    for name, found in groups.items():
        lost = [row for row in found if not row["survived"]]
        why = "; ".join(f"{row['injected']}: {row['found']}" for row in lost)
        counts = (len(found), len(found) - len(lost), len(lost))
        left = sum(row["orphans"] for row in found)
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {left} | {why} |")
    readme = HERE / "README.md"
    head, _, tail = readme.read_text().partition("<!-- table -->")
    tail = tail.partition("<!-- end -->")[2]
    table = "\n".join(lines)
    readme.write_text(f"{head}<!-- table -->\n\n{table}\n\n<!-- end -->{tail}")


if __name__ == "__main__":
    main()
