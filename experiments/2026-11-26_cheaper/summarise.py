"""Tables of the study from its runs.

    PYTHONPATH=. python experiments/2026-11-26_cheaper/summarise.py RUNS IDX_DIRECTORY

``RUNS`` holds a workdir ``<variant>-<seed>`` for each run; the directory holds the idx
files of full Fashion-MNIST.
"""

import pathlib
import sys

from variants import VARIANTS

from diffkd_jax.io import valid_json
from experiments.fashion_unseen import accuracy, unseen_pictures
from experiments.tables import table

HERE = pathlib.Path(__file__).parent
KEPT = ("variant", "seed", "final_top1", "unseen_top1")


def main(runs, idx_directory):
    rows, pictures = [], unseen_pictures(idx_directory)
    for file in sorted(pathlib.Path(runs).glob("*-*/summary.json")):
        variant = file.parent.name.rpartition("-")[0]
        row = valid_json.undefined_as_nan(valid_json.loads(file.read_text()))
        row |= {"variant": variant, "method": variant}
        rows.append(row | {"unseen_top1": accuracy(file.parent, pictures)})
    lines = [valid_json.dumps({name: row[name] for name in KEPT}) for row in rows]
    (HERE / "results.jsonl").write_text("\n".join(lines) + "\n")
    for field, what in (("unseen_top1", "8,000 further"), ("final_top1", "2,000")):
        print(f"\n{what} test pictures\n")
        print(table(rows, field, list(VARIANTS), bases=("none", "diffkd")))


if __name__ == "__main__":
    main(*sys.argv[1:])
