"""Runs the command that trains several methods and compares them."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from ...config.resolve import resolve
from ...config.sections import Config
from ..build import build_scoring
from ..cluster import processes
from ..cluster.signals import ShouldStop, never
from ..components import make_method
from ..finite import NotFinite
from ..outputs import report
from ..outputs.metrics import print_line
from ..preflight import check_comparison
from ..workdir.directory import refuse_single_run
from ..workdir.disk_errors import report_disk_faults
from .train import train

LOG = logging.getLogger(__name__)


def compare(
    config: Any, workdir: pathlib.Path, should_stop: ShouldStop = never
) -> list[dict[str, Any]]:
    """Trains each method of ``config.compare`` and writes a comparison.

    An entry of ``weights`` applies to the methods that have such a loss, and
    ``evaluations`` to those that have a teacher. Each run has its own directory
    ``<workdir>/<method>``. The teacher is trained once, in ``<workdir>/teacher``,
    unless ``teacher.init`` names one. Finished runs are kept.

    Args:
      config: a config as recipes make it, or a resolved one.
      workdir: directory of the comparison, created if needed.
      should_stop: returns the number of the signal to stop for, or 0.

    Returns:
      The summaries of the runs, in the order of ``config.compare``.

    Raises:
      ValueError: a config cannot run, a workdir belongs to another run, or a number is
        not finite.
      FileNotFoundError: the data or the teacher are missing.
      Stopped: a stop was requested; the same call resumes the comparison.
    """
    refuse_single_run(workdir)
    config = resolve(config)
    shared = config.teacher.workdir or str(workdir / "teacher")
    config = config.replace(teacher=config.teacher.replace(workdir=shared))
    runs, results = configs_by_method(config), []
    check_comparison(runs, workdir)  # all of them, before the first one takes hours

    def show(folder: pathlib.Path, examples: Mapping[str, Any]) -> list[pathlib.Path]:
        if not examples:
            return []
        scoring = build_scoring(next(iter(runs.values())))
        return report.draw_task_figures(
            scoring.task, scoring.data.meta, None, examples, folder
        )

    for method, run_config in runs.items():
        try:
            results.append(train(run_config, workdir / method, should_stop))
        except NotFinite as error:
            raise ValueError(
                f"{method}: {error}; all methods of a comparison have one config: for "
                "another rate choose another --workdir"
            ) from error
    if processes.is_primary():
        with report_disk_faults(workdir):
            print_line(report.write_comparison(workdir, results, show))
    return results


def configs_by_method(config: Config) -> dict[str, Config]:
    """Returns the config of the run of each method that ``config.compare`` names.

    Args:
      config: a resolved config.

    Returns:
      Configs by method. A weight that belongs to no method is logged and dropped.
    """
    runs, unused = {}, set(config.weights)
    for method in config.compare:
        run_config = config.replace(method=method, compare=())
        taps = make_method(run_config).taps
        weights = {
            name: weight
            for name, weight in config.weights.items()
            if name.partition("/")[0] in {"task", *taps}
        }
        evaluations = config.evaluations if taps else {}
        runs[method] = run_config.replace(weights=weights, evaluations=evaluations)
        unused -= set(weights)
    if unused:
        LOG.warning(
            "weights: %s: found in no method of %s, left out",
            *(sorted(unused), config.compare),
        )
    return runs
