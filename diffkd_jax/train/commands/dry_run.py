"""Runs the command that checks a config and prints the sizes of its parts."""

import logging
from typing import Any

from ...config.comparison import prefix_variant_fields
from ...config.resolve import resolve
from ...data import stand_in
from ..build import build
from ..outputs import summary
from ..outputs.metrics import print_line
from ..preflight import check_start, check_teacher_source
from .planned_runs import configs_by_row

LOG = logging.getLogger(__name__)


def dry_run(config: Any) -> str:
    """Checks a config, then prints and returns its tables of taps and sizes.

    It uses no workdir and trains nothing. Data are not needed unless ``data.path`` is
    set: without them, sizes and classes are those that the config states.

    Args:
      config: a config as recipes make it, or a resolved one.

    Returns:
      The printed text.

    Raises:
      ValueError: the config cannot run.
      FileNotFoundError: weights are missing, or ``data.path`` is set and data are
        missing.
    """
    config = resolve(config)
    runs = configs_by_row(config) if config.compare else {config.method: config}
    texts, data = [], None
    for row, run_config in runs.items():
        with prefix_variant_fields(row, config.comparison.variants.get(row)):
            try:
                run = build(run_config, data)
            except FileNotFoundError as error:
                if config.data.path:  # the user's path is wrong
                    raise
                LOG.warning("the data are not looked at: %s", error)
                run = build(run_config, stand_in(config.data))
        check_start(run)
        check_teacher_source(run)
        texts.append(summary.describe_run(run))
        data = run.data
    text = "\n\n".join(texts)
    print_line(text)
    return text
