"""Several methods with one teacher, one schedule and one budget."""

import pathlib
from typing import Any

from . import report, run
from .disk import disk_faults_named
from .metrics import print_line
from .sharding import is_primary


def compare(config, workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Trains each method of ``config.compare`` and writes a comparison.

    Each run has its own directory ``<workdir>/<method>``; the teacher is trained once,
    in ``<workdir>/teacher``, unless ``teacher.init`` names one. Finished runs are kept.

    Returns:
      The summaries of the runs, in the order of ``config.compare``.
    """
    results = []
    for method in config.compare:
        own = config.copy_and_resolve_references()
        with own.unlocked():
            own.method, own.compare = method, ()
            own.teacher.workdir = config.teacher.workdir or str(workdir / "teacher")
        results.append(run.train(own, workdir / method))
    if is_primary():
        with disk_faults_named(workdir):
            print_line(report.write_comparison(workdir, results))
    return results
