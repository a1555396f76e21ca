"""Writes the results of a trained run: exported models, summary and report."""

import functools
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ...io.best_effort import attempt, noting
from ...weights.checks import check_finite
from ...weights.files import export_model
from ...weights.output_files import EMA_FILE, MODEL_FILE, file_digest
from ..cluster import processes, sharding
from ..cluster.signals import ShouldStop, stop_if_requested
from ..run import Fitted, Run, ema_variables, student_variables
from ..workdir.directory import SUMMARY, write_json
from . import report
from .examples import predict_examples, save_examples
from .trajectories import trace_denoising

LOG = logging.getLogger(__name__)
EXPORTS = "sha256"  # key of the summary: digests of the exported files, by name


def write_results(
    run: Run,
    fitted: Fitted,
    teacher_scores: Mapping[str, float],
    run_text: str,
    workdir: pathlib.Path,
    should_stop: ShouldStop,
) -> dict[str, Any]:
    """Exports the student of a trained run, then writes its summary and its report.

    The report comes last, because figures may fail. A call that finds all but the
    report makes the report again.

    Args:
      run: the run, its teacher loaded.
      fitted: the result of its training.
      teacher_scores: scores of the teacher on the task; {} without them.
      run_text: tables of sizes and taps, for the report.
      workdir: directory of the run.
      should_stop: returns the number of the signal to stop for, or 0.

    Returns:
      The content of ``summary.json`` without the digests of the exported files.

    Raises:
      ValueError: numbers of the student are not finite.
      Stopped: a stop was requested.
    """
    result = _summarise(run, fitted, teacher_scores)
    names = export_student(run, fitted, workdir)
    if processes.is_primary():
        digests = {name: file_digest(workdir / name) for name in names}
        write_json(workdir / SUMMARY, {**result, EXPORTS: digests})
    stop_if_requested(should_stop)
    with noting():
        trajectories = _compute_for_figures(
            "denoising", trace_denoising, run, fitted.state
        )
        arguments = (run, fitted.state, bool(teacher_scores))
        examples = _compute_for_figures("examples", predict_examples, *arguments)
        stop_if_requested(should_stop)
        if processes.is_primary():
            if examples:
                save_examples(workdir, examples)
            report.write_run(
                workdir,
                result,
                summary_text=run_text,
                trajectories=trajectories,
                draw=functools.partial(
                    report.draw_task_figures,
                    run.task,
                    run.data.meta,
                    fitted.evidence,
                    examples,
                ),
            )
    processes.wait_for_all("the run is written")
    return result


def _summarise(
    run: Run, fitted: Fitted, teacher_scores: Mapping[str, float]
) -> dict[str, Any]:
    """Returns the content of ``summary.json`` without digests."""
    headline, history = run.task.headline, fitted.history
    return {
        "name": run.config.name,
        "method": run.config.method,
        "headline": headline,
        "seed": run.config.seed,
        "steps": int(fitted.state.step),
        **{f"final_{k}": v for k, v in history[-1].items()},
        f"best_{headline}": max(history, key=run.task.goodness)[headline],
        **{f"teacher_{k}": v for k, v in teacher_scores.items()},
        "images_per_second": fitted.images_per_second,
    }


def export_student(run: Run, fitted: Fitted, workdir: pathlib.Path) -> list[str]:
    """Writes the student and, if there is one, its moving average to the workdir.

    Args:
      run: the run.
      fitted: the result of its training.
      workdir: directory of the run.

    Returns:
      The names of the files.

    Raises:
      ValueError: numbers are not finite.
    """
    state = fitted.state
    exports = {MODEL_FILE: sharding.gather_arrays(student_variables(state))}
    if state.ema:
        exports[EMA_FILE] = sharding.gather_arrays(ema_variables(state))
    for name, trained in exports.items():
        check_finite(workdir / name, trained)
    if processes.is_primary():
        for name, trained in exports.items():
            export_model(workdir / name, run.student._replace(variables=trained))
    return list(exports)


def _compute_for_figures(
    name: str, compute: Callable[..., dict[str, Any]], *arguments: Any
) -> dict[str, Any]:
    """Computes what figures show; returns {} and logs a warning if that fails.

    If there are several processes, they compute together, and an error ends all of
    them.
    """
    if jax.process_count() > 1:
        return compute(*arguments)
    return attempt(name, compute, *arguments) or {}


def warn_of_replaced_exports(workdir: pathlib.Path, digests: Any) -> None:
    """Logs a warning for each exported file that the run did not write itself.

    ``digests`` is the entry :data:`EXPORTS` of the summary. Summaries of earlier
    versions have none, and nothing is compared.
    """
    for name in (MODEL_FILE, EMA_FILE):
        digest = digests.get(name) if isinstance(digests, Mapping) else None
        if digest and file_digest(workdir / name) != digest:
            LOG.warning(
                "%s: found a file that this run did not write; the scores in the "
                "report are not its scores",
                workdir / name,
            )
