"""Command line: ``python -m diffkd_jax.main --config=quickstart``.

``--helpfull`` ends with a table of all fields of a config, and of the options of all
methods, tasks, models and data sets.
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
from .io import console, streams

USES_STUDENT = ("evaluate", "predict")  # modes
FLAGS = flags.FLAGS


def run(
    config: Any,
    workdir: str = "",
    *,
    signals: bool = False,
    fields_set: Collection[str] | None = None,
) -> None:
    """Runs the command that ``config.mode`` names.

    The fields of a config are described in ``diffkd_jax/config``.

    Args:
      config: a config as recipes make it.
      workdir: directory of the run; ``runs/<name>`` by default.
      signals: whether to save and stop on SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and
        SIGXCPU. Otherwise the caller handles them.
      fields_set: paths of the fields that the user set, such as ``data.limit``. To
        evaluate or predict, all other fields are those of the run in ``workdir``. None
        for all fields that are not at their default.

    Raises:
      Stopped: a signal came, which the exception names; the same call resumes the run.
      ValueError: the config, the data or files are wrong.
      OSError: files are missing or cannot be written.
    """
    # Imported after the flags are parsed, so that --help is quick.
    from .config.machine import Distributed
    from .config.resolve import check_section, resolve
    from .train.cluster.devices import check_devices, run_settings
    from .train.cluster.joining import start_processes

    if "://" in workdir:
        # pathlib would make a local directory of that name.
        raise ValueError(
            f"workdir: found {workdir!r}, expected a directory; mount the bucket, with "
            "gcsfuse or the like"
        )
    if config.dry_run or config.mode not in USES_STUDENT:
        # Otherwise the record of the run says its data and student.
        config = resolve(config)
    distributed = check_section(Distributed, config.distributed, "distributed.")
    with run_settings():
        start_processes(distributed)
        check_devices()
        _run(config, workdir, signals, fields_set)


def _run(
    config: Any, workdir: str, signals: bool, fields_set: Collection[str] | None
) -> None:
    """Runs the command on devices that are there, in all processes."""
    from .train.cluster.heartbeats import end_together
    from .train.cluster.signals import catch_signals, never
    from .train.commands.compare import compare
    from .train.commands.dry_run import dry_run
    from .train.commands.probe import probe
    from .train.commands.train import train
    from .train.commands.use_student import use_student
    from .weights.checks import expand

    directory = expand(workdir or pathlib.Path("runs") / config.name)
    catch = signals and not config.dry_run
    with (
        end_together(config.distributed.lost_seconds),
        catch_signals() if catch else contextlib.nullcontext(never) as should_stop,
    ):
        if config.dry_run:
            dry_run(config)
        elif config.mode == "probe":
            probe(config, directory, should_stop)
        elif config.mode != "train":
            use_student(config, directory, should_stop, fields_set=fields_set)
        elif config.compare:
            compare(config, directory, should_stop)
        else:
            train(config, directory, should_stop)


def main(argv: list[str], *, fields_set: Collection[str] | None = None) -> int:
    """Runs the command of the parsed flags and returns the exit code.

    Args:
      argv: the program; all flags are parsed already.
      fields_set: see :func:`run`.

    Returns:
      0 for a finished run, 128 plus the signal's number for a run that was stopped and
      saved its state, and 1 for an expected error, which is reported in one line.

    Raises:
      Exception: an unexpected error, with its traceback.
    """
    # Tracing makes millions of objects, which stay alive. Collecting them again and
    # again would delay the first step.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    from .backend.compilation_cache import keep_programs  # after the flags, as above
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
        run(FLAGS.config, _workdir(), signals=True, fields_set=fields_set)
        if FLAGS.config.dry_run or FLAGS.config.mode == "evaluate":
            streams.check_printed()  # no file holds their result
    except Stopped as stopped:
        print_line(str(stopped))
        code = stopped.exit_code
    except SystemExit as error:  # raised by a user's model, data or task, maybe with 0
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
            if processes.count_processes() > 1:
                # A normal exit would wait for the others.
                sys.excepthook(type(error), error, error.__traceback__)
                processes.exit_process(1)
            raise
        logging.debug("the error in full", exc_info=True)
        console.say(f"error: {text}", error=True)
        code = 1
    finally:
        give_back_memory()
    if code == 1 or is_stuck():
        processes.exit_process(code)
    return code


def _workdir() -> str:
    """Returns ``--workdir``, or "" for ``runs/NAME``.

    To use a student, a config that is the record of a run names its directory.
    """
    from .config.files import ConfigParser

    parser = FLAGS["config"].parser
    assert isinstance(parser, ConfigParser)
    uses_student = FLAGS.config.mode in USES_STUDENT
    return FLAGS.workdir or (parser.workdir if uses_student else "")


def _silence_orbax() -> None:
    """Hides Orbax's log of an error that it also raises.

    If a save fails, about ten of its threads fail, and each would log thirty lines.
    """
    written = lambda record: "/orbax/" not in record.pathname.replace(os.sep, "/")
    logging.get_absl_logger().addFilter(written)
    # Messages about further tasks that failed beside the one whose error is raised.
    unretrieved = "exception was never retrieved"
    asyncio = python_logging.getLogger("asyncio")
    asyncio.addFilter(lambda record: unretrieved not in record.getMessage())
    hook = sys.unraisablehook

    def without_closed_loops(error: Any) -> None:
        # Raised in TensorStore's threads after such a thread of Orbax has ended.
        if str(error.exc_value) != "Event loop is closed":
            hook(error)

    sys.unraisablehook = without_closed_loops


def parse_flags(
    argv: list[str],
    values: flags.FlagValues = FLAGS,
    fields_set: set[str] | None = None,
) -> list[str]:
    """Parses flags and options; reports an error and ends the program.

    Args:
      argv: the program and its arguments.
      values: the flags to set.
      fields_set: receives the paths of the config's fields that the arguments set.

    Returns:
      The arguments that are left.
    """
    from .config.command_line import parse_command_line
    from .named_options import describe_options, drop_options

    fields = set() if fields_set is None else fields_set
    return parse_command_line(argv, values, fields, drop_options, describe_options)


def entry() -> None:
    """Parses the flags and runs the command."""
    from .config.command_line import define_flags

    os.environ["MPLBACKEND"] = "agg"  # figures of users' tasks open no window
    define_flags(FLAGS)
    for name in ("config", "workdir", "compilation_cache"):
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
    fields_set: set[str] = set()
    try:
        app.run(
            functools.partial(main, fields_set=fields_set),
            flags_parser=functools.partial(parse_flags, fields_set=fields_set),
        )
    except KeyboardInterrupt:  # the second one, or one before the training started
        console.say("interrupted; what was saved stays", error=True)
        code = 128 + signal.SIGINT
        # A normal exit would wait for other processes, or for data that hang.
        if processes := sys.modules.get(f"{__package__}.train.cluster.processes"):
            processes.exit_process(code)
        sys.exit(code)


def command() -> None:
    """Runs the command line as a whole process, as the script ``diffkd-jax`` does.

    absl's ``--help`` shows the docstring of ``__main__``, which may be that script.
    """
    sys.modules["__main__"].__doc__ = __doc__
    streams.guard_streams()
    # Before the config and its libraries are imported, which takes 0.15 s.
    huge_pages.restart()
    entry()


if __name__ == "__main__":
    command()
