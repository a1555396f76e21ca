"""Command line: ``python -m diffkd_jax.main --config=quickstart``.

``--helpfull`` ends with a table of all fields of a config.
"""

import contextlib
import functools
import gc
import logging as python_logging
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Collection
from typing import Any

from absl import app, flags, logging

from .backend import huge_pages
from .config import command_line
from .config.command_line import define_flags
from .config.files import ConfigParser
from .io import console

USES_STUDENT = ("evaluate", "predict")  # modes
FLAGS = flags.FLAGS


def run(
    config,
    workdir: str = "",
    *,
    signals: bool = False,
    given: Collection[str] | None = None,
) -> None:
    """Does what ``config.mode`` says; whose fields are in ``diffkd_jax/config``.

    Args:
      config: of the run.
      workdir: its directory, ``runs/<name>`` by default.
      signals: save and stop on SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU,
        which are the caller's otherwise.
      given: paths of the fields that were set by hand, such as ``data.limit``: to
        evaluate or predict, the others are those of the run in ``workdir``. None for
        all that are not at their default.

    Raises:
      Stopped: a signal came, which it names; the same call goes on.
      ValueError: bad config, data or files.
      OSError: files that are missing or cannot be written.
    """
    # After the flags, so that --help is quick.
    from .config.machine import Distributed
    from .config.resolve import check_section, resolve
    from .train.cluster.devices import check_devices, own_settings
    from .train.cluster.processes import start_processes

    if "://" in workdir:
        # pathlib would make a local directory of that name.
        raise ValueError(
            f"workdir: found {workdir!r}, expected a directory; mount the bucket, with "
            "gcsfuse or the like"
        )
    if config.dry_run or config.mode not in USES_STUDENT:
        config = resolve(config)  # else its data and student are those of the run
    distributed = check_section(Distributed, config.distributed, "distributed.")
    with own_settings():
        start_processes(distributed)
        check_devices()
        _run(config, workdir, signals, given)


def _run(
    config: Any, workdir: str, signals: bool, given: Collection[str] | None
) -> None:
    from .train import commands as runs
    from .train.cluster.processes import ending_together
    from .train.cluster.signals import never, on_signals
    from .weights.checks import expand

    directory = expand(workdir or pathlib.Path("runs") / config.name)
    catch = signals and not config.dry_run
    with (
        ending_together(config.distributed.lost_seconds),
        on_signals() if catch else contextlib.nullcontext(never) as asked,
    ):
        if config.dry_run:
            runs.dry_run(config)
        elif config.mode != "train":
            runs.use_student(config, directory, asked, given=given)
        elif config.compare:
            runs.compare(config, directory, asked)
        else:
            runs.train(config, directory, asked)


def main(argv: list[str], *, given: Collection[str] | None = None) -> int:
    """Runs, and returns the exit code.

    Returns:
      0 for a finished run, 128 and the signal's number for one that was asked to stop
      and saved its state, and 1 for an expected error, which is one line.
    """
    # Tracing makes objects by the million, which stay: going through all of them again
    # and again would delay the first step.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    from .backend.compilation_cache import keep_programs  # after the flags too
    from .data.pipeline.read_ahead import is_stuck
    from .data.pipeline.workers import give_back_memory
    from .train.cluster import processes
    from .train.cluster.devices import describe_fault
    from .train.cluster.signals import Stopped
    from .train.outputs.metrics import print_line

    del argv
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
        _silence_orbax()
    level = python_logging.DEBUG if FLAGS.verbosity > 0 else python_logging.INFO
    python_logging.getLogger("diffkd_jax").setLevel(level)
    code = 0
    try:
        keep_programs(FLAGS.compilation_cache)
        run(FLAGS.config, _workdir(), signals=True, given=given)
    except Stopped as stopped:
        print_line(str(stopped))
        code = stopped.exit_code
    except SystemExit as error:  # of a user's model, data or task, which may say 0
        frame = traceback.extract_tb(error.__traceback__)[-1]
        console.say(
            f"error: found SystemExit({error.code!r}) in {frame.filename}, line "
            f"{frame.lineno}, before the run was finished",
            error=True,
        )
        code = 1
    except Exception as error:
        expected = isinstance(error, ValueError | OSError)
        text = describe_fault(error, FLAGS.config.data) or (
            str(error) if expected else ""
        )
        if not text:
            if processes.count() > 1:  # an exit in order would wait for the others
                sys.excepthook(type(error), error, error.__traceback__)
                processes.leave(1)
            raise
        logging.debug("the error in full", exc_info=True)
        console.say(f"error: {text}", error=True)
        code = 1
    finally:
        give_back_memory()
    if code == 1 or is_stuck():
        processes.leave(code)
    return code


def _workdir() -> str:
    """Returns ``--workdir``, or that of the run whose student is used by its record."""
    parser = FLAGS["config"].parser
    assert isinstance(parser, ConfigParser)
    uses_student = FLAGS.config.mode in USES_STUDENT
    return FLAGS.workdir or (parser.workdir if uses_student else "")


def _silence_orbax() -> None:
    """Leaves out what Orbax says of an error that it also raises, with its traceback.

    Where a save fails, some ten of its threads do; each would say it in thirty lines.
    """
    written = lambda record: "/orbax/" not in record.pathname.replace(os.sep, "/")
    logging.get_absl_logger().addFilter(written)
    # Of its tasks that failed beside the one whose error is raised.
    unseen = "exception was never retrieved"
    asyncio = python_logging.getLogger("asyncio")
    asyncio.addFilter(lambda record: unseen not in record.getMessage())
    hook = sys.unraisablehook

    def without_closed_loops(error: Any) -> None:
        # TensorStore's threads, which find that such a thread of Orbax is gone.
        if str(error.exc_value) != "Event loop is closed":
            hook(error)

    sys.unraisablehook = without_closed_loops


def parse_flags(
    argv: list[str], values: flags.FlagValues = FLAGS, given: set[str] | None = None
) -> list[str]:
    """Parses flags and options; an error is reported and ends the program.

    Args:
      argv: the program and its arguments.
      values: the flags to set.
      given: receives the paths of the config's fields that the arguments set.
    """
    fields = set() if given is None else given
    return command_line.parse_command_line(argv, values, fields, _drop_options)


def _drop_options(config: Any, given: Collection[str]) -> None:
    """Drops options of a recipe that the model or data set given instead lacks."""
    for section, name in (("data", "name"), ("student", "model"), ("teacher", "model")):
        if f"{section}.{name}" not in given:
            continue
        if section == "data":  # slow to import, both
            from .data.sources.registry import options_taken
        else:
            from .models.registry import options_taken

        options, chosen = config[section].options, config[section][name]
        taken = options_taken(chosen)
        unused = [] if taken is None else sorted(set(options) - taken)
        unused = [n for n in unused if f"{section}.options.{n}" not in given]
        with options.unlocked():
            for option in unused:
                del options[option]
        if unused:
            console.say(f"{section}.options: left out {unused}, which {chosen!r} lacks")


def entry() -> None:
    """Parses flags and runs."""
    os.environ["MPLBACKEND"] = "agg"  # for figures of users' tasks: no window is asked
    define_flags(FLAGS)
    for name in ("config", "workdir", "compilation_cache"):
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
    given: set[str] = set()
    try:
        app.run(
            functools.partial(main, given=given),
            flags_parser=functools.partial(parse_flags, given=given),
        )
    except KeyboardInterrupt:  # the second one, or one before anything was trained
        console.say("interrupted; what was saved stays", error=True)
        code = 128 + signal.SIGINT
        # An exit in order would wait for other processes, or for data that hang.
        if processes := sys.modules.get(f"{__package__}.train.cluster.processes"):
            processes.leave(code)
        sys.exit(code)


def command() -> None:
    """Runs the command line in a process of its own, as the script ``diffkd-jax`` does.

    ``--help`` of absl shows what belongs to ``__main__``, which may be that script.
    """
    sys.modules["__main__"].__doc__ = __doc__
    console.guard_streams()
    huge_pages.restart()
    entry()


if __name__ == "__main__":
    command()
