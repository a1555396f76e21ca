"""Command line: ``python -m diffkd_jax.main --config=configs/quickstart.py``."""

import logging as python_logging
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with an argument after a colon where it takes one."
)
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Directory of the run; runs/<name of the config> by default."
)


def run(config, workdir: str = "") -> None:
    """Does what ``config.mode`` says; see ``configs/common.py`` for the fields.

    Raises:
      ValueError: bad config, data or files.
      OSError: files that are missing or cannot be written.
    """
    from .train import compare as comparison
    from .train import run as runs  # after the flags, so that --help is quick
    from .train.sharding import start_processes

    if "://" in workdir:
        # pathlib would make a local directory of that name.
        raise ValueError(
            f"workdir: found {workdir!r}, expected a directory; mount the bucket, with "
            "gcsfuse or the like"
        )
    start_processes(config.distributed)
    directory = pathlib.Path(workdir or pathlib.Path("runs") / config.name)
    if config.dry_run:
        runs.dry_run(config)
    elif config.mode == "evaluate":
        runs.evaluate_only(config, directory)
    elif config.mode != "train":
        raise ValueError(f"mode: found {config.mode!r}, expected 'train' or 'evaluate'")
    elif config.compare:
        comparison.compare(config, directory)
    else:
        runs.train(config, directory)


def main(argv: list[str]) -> None:
    """Runs, and turns an expected error into one screen and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"found {argv[1:]}, expected flags only")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    python_logging.getLogger("diffkd_jax").setLevel(python_logging.INFO)
    try:
        run(CONFIG.value, WORKDIR.value)
    except (ValueError, OSError) as error:
        logging.debug("the error in full", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def parse(argv: list[str]) -> list[str]:
    """Parses flags; a config field that does not exist is one line, exit code 1."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        text = " ".join(str(error.args[0]).split())
        print(
            f"error: unknown config field: {text}; all fields are in configs/common.py",
            file=sys.stderr,
        )
        sys.exit(1)


def entry() -> None:
    """Parses flags and runs."""
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    entry()
