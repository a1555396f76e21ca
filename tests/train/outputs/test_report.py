"""Reports of runs show any name as it is, and change nothing else in the process."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from diffkd_jax.io import figure_text
from diffkd_jax.io.best_effort import noting
from diffkd_jax.io.figure_text import literal
from diffkd_jax.tasks.classification.plots import draw_confusion
from diffkd_jax.train.outputs import examples, plots, report
from diffkd_jax.train.outputs.comparison import write_comparison
from diffkd_jax.train.outputs.comparison_rows import ComparedRun

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


def test_names_are_not_drawn_as_formulas(tmp_path):
    counts = np.eye(len(ODD), dtype=int)
    draw_confusion(tmp_path / "confusion.png", counts, ODD)
    rows = [{"step": 1, "eval/top1": 0.5, "eval/loss": 1.0}]
    plots.draw_scores(tmp_path / "score.png", dict.fromkeys(ODD, rows), "top1", 0.9)
    points = {name: {"steps": [(1.0, 0.1 * k)]} for k, name in enumerate(ODD)}
    plots.draw_comparison(tmp_path / "comparison.png", points, "top1", 0.9)
    losses = {f"loss/{name}": 1.0 for name in ODD[:-2]}
    plots.draw_losses(tmp_path / "losses.png", [{"step": k, **losses} for k in (1, 2)])
    drawn = [path.read_bytes()[:4] for path in tmp_path.iterdir()]
    assert drawn == [b"\x89PNG"] * 4


FOREIGN = {
    "chinese and japanese": ("猫", "いぬ", "cat"),
    "emoji": ("🦔", "hedgehog"),
}


@pytest.fixture
def fonts(monkeypatch):
    """Replaces the installed fonts by those of other families."""

    def choose(*families):
        monkeypatch.setattr(figure_text, "OTHER_FONTS", families)
        figure_text.letters_by_font.cache_clear()
        figure_text._tell_of_letters.cache_clear()

    yield choose
    figure_text.letters_by_font.cache_clear()
    figure_text._tell_of_letters.cache_clear()


@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN)
def test_names_in_letters_that_no_font_has_are_in_the_page(
    names, fonts, workdir, caplog
):
    fonts()
    result = {"name": "a", "method": "方法", "headline": "top1", "final_top1": 0.5}
    report.write_run(
        workdir,
        result,
        summary_text="",
        trajectories={},
        draw=lambda folder: [
            draw_confusion(folder / f"{i}.png", np.eye(len(names)), names)
            for i in range(2)
        ],
    )
    page = (workdir / "report.html").read_text(encoding="utf-8")
    listed = ", ".join(f"{k}: {name}" for k, name in enumerate(names))
    assert page.count(f"in the figures: {listed}") == 1
    assert page.count("data:image/png") == 3
    assert caplog.text.count("letters that no installed font has") == 1


def test_a_font_that_has_the_letters_is_used(fonts, tmp_path):
    letter = "\u20e4"  # which DejaVu Sans lacks and STIX has, like CJK and Noto
    fonts()
    assert figure_text.labels(["a", letter]) == ["0", "1"]
    fonts("Not Installed", "STIXGeneral")
    assert figure_text.labels(["a", letter]) == ["a", letter]
    with noting() as notes:
        draw_confusion(tmp_path / "confusion.png", np.eye(2), ("a", letter))
    assert notes == []


def test_the_user_s_plot_settings_do_not_change_figures(tmp_path):
    import matplotlib

    rows = [{"step": 1, "eval/top1": 0.5}]
    plots.draw_scores(tmp_path / "a.png", {"a": rows}, "top1", None)
    settings = {"text.usetex": True, "figure.constrained_layout.use": True}
    settings |= {"savefig.dpi": 3, "font.family": "Nowhere", "lines.linewidth": 9}
    with matplotlib.rc_context(settings):
        plots.draw_scores(tmp_path / "b.png", {"a": rows}, "top1", None)
        assert matplotlib.rcParams["text.usetex"]
    first, second = ((tmp_path / f"{n}.png").read_bytes() for n in "ab")
    assert first == second


def failing(folder, *rest):
    raise TypeError("a slip of the user")


def test_a_figure_that_fails_is_a_line_of_the_page(workdir, monkeypatch, caplog):
    monkeypatch.setattr(plots, "draw_scores", failing)
    result = {"name": "a", "method": "kd", "headline": "top1", "final_top1": 0.5}
    for draw in (failing, lambda folder: ["no such file"], lambda folder: 3):
        report.write_run(workdir, result, summary_text="", trajectories={}, draw=draw)
        page = (workdir / "report.html").read_text(encoding="utf-8")
        assert "plot score: left out after TypeError: a slip of the user" in page
        assert "figures of the task: left out after" in page
        assert "data:image/png" not in page
    assert "test_report.py, line" in page
    assert caplog.text.count("plot score: left out") == 3


@pytest.mark.parametrize("end", [SystemExit(0), SystemExit("no figure today")])
def test_a_draw_that_exits_costs_only_its_figure(end, workdir):
    def draw(*given):
        raise end

    result = {"name": "a", "method": "kd", "headline": "top1", "final_top1": 0.5}
    report.write_run(workdir, result, summary_text="", trajectories={}, draw=draw)
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "figures of the task: left out after SystemExit" in page


def test_a_folder_is_not_a_figure(workdir):
    result = {"name": "a", "method": "kd", "headline": "top1", "final_top1": 0.5}
    draw = lambda folder: [folder]
    report.write_run(workdir, result, summary_text="", trajectories={}, draw=draw)
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "figures of the task: left out after IsADirectoryError" in page


def write_runs(workdir, scores, headline, show):
    """Writes the comparison of runs of one seed with these scores."""
    runs = []
    for method, score in scores.items():
        result = {"headline": headline, f"final_{headline}": score, "steps": 8}
        runs.append(ComparedRun(method, 0, "steps", method, 4.0, result))
    return write_comparison(workdir, "n", runs, dict.fromkeys(scores, 1.0), None, show)


def test_figures_of_a_comparison_may_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "draw_comparison", failing)
    assert "0.5000" in write_runs(tmp_path, {"kd": 0.5}, "top1", failing)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "plot comparison: left out" in page
    assert "figures of examples: left out" in page


@pytest.mark.parametrize("undefined", [None, float("nan")])
def test_undefined_scores_of_a_comparison_have_no_bar(undefined, tmp_path):
    scores = {"none": undefined, "kd": 0.25, "mse": 0.5}
    text = write_runs(tmp_path, scores, "ap", lambda *given: [])
    assert text.splitlines()[1].split()[:3] == ["none", "1", "nan"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2
    assert "left out" not in page


def test_a_full_disk_is_not_reported_as_a_failed_figure(workdir):
    def draw(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    result = {"name": "a", "method": "kd", "headline": "top1", "final_top1": 0.5}
    with pytest.raises(OSError, match="No space"):
        report.write_run(workdir, result, summary_text="", trajectories={}, draw=draw)


SETTINGS = {
    "backend": {"MPLBACKEND": "nowhere"},
    "bytes": {"MATPLOTLIBRC": "bytes"},
    "both": {"MPLBACKEND": "nowhere", "MATPLOTLIBRC": "bytes"},
    "folder": {"MPLCONFIGDIR": "/proc/nowhere"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_that_matplotlib_refuses_are_ignored(settings, tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xe9")
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe\xe9")  # of this directory
    code = """
import logging, os, pathlib
logging.basicConfig()
from diffkd_jax.train.outputs import plots
rows = [{"step": 1, "eval/top1": 0.5}]
before = dict(os.environ)
plots.draw_scores(pathlib.Path("a.png"), {"a": rows}, "top1", None)
changed = {k for k, v in os.environ.items() if before.get(k) != v}
assert changed <= {"MPLCONFIGDIR"}, changed  # matplotlib's own, of a folder it made
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_dollar_sign_is_drawn_as_it_is():
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
    text = write_runs(tmp_path, {"none": 0.5, odd: 0.5}, "top1", lambda *given: [])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert 'href="none/report.html">none<' in page
    assert 'href="a%22%3E%3Cscript%3Eb%3C/script%3E%23%3F/report.html"' in page
    assert text.splitlines()[0].split() == [
        *("method", "n", "top1", "std", "minus", "none", "p"),
        *("steps", "cost", "of", "a", "step"),
    ]


def test_drawing_does_not_change_the_caller_s_backend(tmp_path):
    """The process has another backend, with a figure open."""
    code = f"""
import pathlib, sys, diffkd_jax.main, diffkd_jax.train.commands
assert not [name for name in sys.modules if name.startswith("matplotlib")]
import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
mine = plt.figure()
before = dict(matplotlib.rcParams)
from diffkd_jax.train.outputs import plots
rows = [{{"step": 1, "eval/top1": 0.5}}]
file = pathlib.Path({str(tmp_path)!r}) / "a.png"
plots.draw_scores(file, {{"a": rows}}, "top1", None)
assert matplotlib.get_backend().lower() == "svg", matplotlib.get_backend()
assert plt.get_fignums() == [mine.number]
assert dict(matplotlib.rcParams) == before
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_examples_in_a_truncated_file_are_not_shown(tmp_path, caplog):
    saved = {"image": np.zeros((1, 2, 2, 1), np.uint8), "target": {"label": np.ones(1)}}
    saved["predicted"] = {"student": {"label": np.ones(1)}}
    for name in ("none", "kd"):
        (tmp_path / name).mkdir()
        examples.save_examples(tmp_path / name, saved)
    actual = examples.merge_examples(tmp_path, ["none", "kd"])
    assert list(actual["predicted"]) == ["none", "kd"]
    file = tmp_path / "none/examples.npz"
    file.write_bytes(file.read_bytes()[:100])
    actual = examples.merge_examples(tmp_path, ["none", "kd"])
    assert list(actual["predicted"]) == ["kd"]
    assert "examples are not shown" in caplog.text


def test_denoising_of_a_single_example_is_drawn(tmp_path):
    from diffkd_jax.train.outputs import plots

    points = {"teacher": np.zeros((1, 2)), "denoised": np.zeros((1, 2))}
    points["steps"] = np.zeros((3, 1, 2))
    plots.draw_trajectory(tmp_path / "trajectory.png", points, "p5")
    assert (tmp_path / "trajectory.png").stat().st_size > 1000
