"""What the studies on scenes have in common: results, tables and pictures."""

from PIL import Image

from diffkd_jax.io import valid_json
from diffkd_jax.train.outputs import plots
from diffkd_jax.train.outputs.examples import merge_examples
from experiments.tables import means, table


def write(here, runs, *, order, headline, fields, bases, show, meta):
    """Writes ``results.jsonl`` and plots, and prints the tables.

    Args:
      here: folder of the study.
      runs: folder with a workdir ``<method>-<seed>`` for each run.
      order: names of the methods.
      headline: the score that is drawn.
      fields: scores to name in the tables, by their name in the summary.
      bases: methods that the others are compared with.
      show: of the task.
      meta: of the data, for ``show``.
    """
    files = sorted(runs.glob("*-*/summary.json"))
    read = lambda file: valid_json.undefined_as_nan(valid_json.loads(file.read_text()))
    rows = [read(file) for file in files]
    keep = ["method", "seed", "steps", *(f"final_{name}" for name in fields)]
    lines = [valid_json.dumps({k: row[k] for k in keep}) for row in rows]
    (here / "results.jsonl").write_text("\n".join(lines) + "\n")
    for name, text in fields.items():
        print(table(rows, f"final_{name}", order, text, bases))
        print(f"\nteacher {100 * rows[0][f'teacher_{name}']:.2f} %\n")
    drawn = means(rows, f"final_{headline}", order)
    plots.draw_comparison(here / "plots/comparison.png", drawn, headline)
    examples = merge_examples(runs, [f"{method}-0" for method in order])
    for file in show(here / "plots", examples, meta):
        # Noise is dear in a PNG file.
        with Image.open(file) as picture:
            picture.convert("RGB").save(file.with_suffix(".jpg"), quality=80)
        file.unlink()
