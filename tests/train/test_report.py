"""The pages of a run: any name is shown as it is, and nothing else is touched."""

import json
import subprocess
import sys

import numpy as np
import pytest

from diffkd_jax.figures import literal
from diffkd_jax.tasks.classification import draw_confusion
from diffkd_jax.train import examples, plots, report

ODD = (
    "$_^$",
    "a$b$c",
    "\udcff\udcfe",
    r"\frac{",
    "<b>x</b>",
    "x" * 300,
    "",
    "_",
    r"\$",
)


def test_names_that_are_no_formulas_are_drawn(tmp_path):
    counts = np.eye(len(ODD), dtype=int)
    draw_confusion(tmp_path / "confusion.png", counts, ODD)
    rows = [{"step": 1, "eval/top1": 0.5, "eval/loss": 1.0}]
    plots.scores(tmp_path / "score.png", dict.fromkeys(ODD, rows), "top1", 0.9)
    results = [{"method": name, "final_top1": 0.1 * k} for k, name in enumerate(ODD)]
    plots.comparison(tmp_path / "comparison.png", results, "top1")
    losses = {f"loss/{name}": 1.0 for name in ODD[:-2]}
    plots.losses(tmp_path / "losses.png", [{"step": k, **losses} for k in (1, 2)])
    drawn = [path.read_bytes()[:4] for path in tmp_path.iterdir()]
    assert drawn == [b"\x89PNG"] * 4


def test_a_dollar_is_a_dollar():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure()
    FigureCanvasAgg(figure)
    for text in ("$_^$", "a$b", "$x$ and $y$", r"\$x\$"):
        shown, math = Text(0, 0, "", figure=figure)._preprocess_math(literal(text))
        assert (shown, math) == (text, False)
    assert literal("\udcff") == "?"
    assert len(literal("x" * 300)) == 40


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"name": "<script>"}))
    return tmp_path


def test_a_page_escapes_all_text(workdir):
    result = {"name": "<i>n</i>", "method": "<i>m</i>", "final_top1": 0.5}
    result["headline"] = "top1"
    names = ("<i>c</i>", "\udcff")
    report.write_run(
        workdir,
        result,
        summary_text="<i>s</i> \udcff",
        trajectories={},
        draw=lambda folder: [draw_confusion(folder / "c.png", np.eye(2), names)],
    )
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;n" in page
    assert "&lt;script&gt;" in page
    assert "<i>" not in page
    assert "<script>" not in page


def test_links_of_a_comparison_are_escaped(tmp_path):
    odd = 'a"><script>b</script>#?'
    results = [
        {"name": "n", "method": name, "final_top1": 0.5, "best_top1": 0.5}
        | {"headline": "top1"}
        | {"images_per_second": 1.0}
        for name in ("none", odd)
    ]
    text = report.write_comparison(tmp_path, results, lambda folder, examples: [])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert 'href="none/report.html">none<' in page
    assert 'href="a%22%3E%3Cscript%3Eb%3C/script%3E%23%3F/report.html"' in page
    assert text.splitlines()[0].split() == [
        *("method", "top1", "best", "minus", "none", "images/s")
    ]


def test_drawing_leaves_the_caller_its_backend(tmp_path):
    """In a process that has another one, with a figure open."""
    code = f"""
import pathlib, sys, diffkd_jax.main, diffkd_jax.train.run
assert not [name for name in sys.modules if name.startswith("matplotlib")]
import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
mine = plt.figure()
before = dict(matplotlib.rcParams)
from diffkd_jax.train import plots
rows = [{{"step": 1, "eval/top1": 0.5}}]
plots.scores(pathlib.Path({str(tmp_path)!r}) / "a.png", {{"a": rows}}, "top1", None)
assert matplotlib.get_backend().lower() == "svg", matplotlib.get_backend()
assert plt.get_fignums() == [mine.number]
assert dict(matplotlib.rcParams) == before
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_examples_that_are_cut_are_not_shown(tmp_path, caplog):
    given = {"image": np.zeros((1, 2, 2, 1), np.uint8), "target": {"label": np.ones(1)}}
    given["predicted"] = {"student": {"label": np.ones(1)}}
    for name in ("none", "kd"):
        (tmp_path / name).mkdir()
        examples.save_examples(tmp_path / name, given)
    found = examples.compared_examples(tmp_path, ["none", "kd"])
    assert list(found["predicted"]) == ["none", "kd"]
    file = tmp_path / "none/examples.npz"
    file.write_bytes(file.read_bytes()[:100])
    found = examples.compared_examples(tmp_path, ["none", "kd"])
    assert list(found["predicted"]) == ["kd"]
    assert "examples are not shown" in caplog.text


def test_denoising_of_a_single_example_is_drawn(tmp_path):
    from diffkd_jax.train import plots

    points = {"teacher": np.zeros((1, 2)), "denoised": np.zeros((1, 2))}
    points["steps"] = np.zeros((3, 1, 2))
    plots.trajectory(tmp_path / "trajectory.png", points, "p5")
    assert (tmp_path / "trajectory.png").stat().st_size > 1000
