"""Lines for people on stdout and stderr. No output ever ends a run.

A stream can be absent or closed from the start, go away (a pipe or a terminal), be
full, or lack letters. Files hold all results, so a line that is refused is dropped.
"""

import contextlib
import functools
import io
import os
import sys
import threading
from typing import Any

USUAL_COLUMNS = 80  # where the terminal does not say
NAME_COLUMNS = 24  # of a name before progress, so that progress is in sight
# What a caller's stream raises when it cannot take a line can be of any type: those of
# notebooks have errors of their own.
REFUSALS = (Exception,)
_drawn: list[Any] = []  # the progress line that is on the screen, at most one


class Stream(io.TextIOWrapper):
    """Text on a file descriptor. What the descriptor refuses is dropped.

    Letters that the encoding lacks are written as escapes. Nothing is buffered, so
    nothing is left that the interpreter could fail to write when it ends.
    """

    def __init__(self, descriptor: int, encoding: str):
        raw = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115
        super().__init__(
            raw,
            encoding=encoding,
            errors="backslashreplace",
            write_through=True,
        )

    def write(self, text: str) -> int:
        """Writes what the descriptor takes; returns the length of the text."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Writes nothing more, for nothing is buffered; does not raise."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            super().flush()


def guard_streams() -> None:
    """Makes stdout and stderr of a command streams that never raise.

    It changes the process, so a command calls it, before anything else. Descriptors 0
    to 2 that are closed are opened on the null device; otherwise the next file that is
    opened would get one of these numbers, and with it the messages of libraries.
    """
    from absl import logging

    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if not isinstance(stream, Stream):
            encoding = getattr(stream, "encoding", None) or "utf-8"
            setattr(sys, name, Stream(descriptor, encoding))
    handler = logging.get_absl_handler()
    handler.python_handler.setStream(sys.stderr)  # it holds the one that was there
    handler.addFilter(_clear_for_log)


def say(text: str, *, error: bool = False) -> None:
    """Writes a line to stdout, or to stderr, in place of the progress line."""
    stream = sys.stderr if error else sys.stdout
    if stream is None:
        return
    clear()
    with contextlib.suppress(*REFUSALS):
        stream.write(_encodable(text, stream) + "\n")
        stream.flush()


def draw_progress(name: str, text: str, done: int, total: int) -> None:
    """Shows progress as one line, which the next one overwrites; that of the end stays.

    On a terminal the line is cut to its width. In a notebook it stands beside a bar.
    Elsewhere it is an ordinary line.

    Args:
      name: name of the run; on a terminal it is cut to :data:`NAME_COLUMNS`.
      text: to show after it.
      done: steps, of ``total``.
      total: steps.
    """
    notebook = "ipykernel" in sys.modules and _has_widgets()
    if not (notebook or is_terminal(sys.stdout)):
        say(f"{name}  {text}")
        return
    if len(name) > NAME_COLUMNS:
        name = f"{name[: NAME_COLUMNS - 3]}..."
    with contextlib.suppress(*REFUSALS):
        text = "".join(c if c.isprintable() else "?" for c in f"{name}  {text}")
        text = _encodable(text, sys.stdout)
        columns = None if notebook else _columns()
        if not _drawn:
            bar = _bar()(
                desc=text,
                initial=done,
                total=total,
                file=sys.stdout,
                ncols=columns,
                nrows=20,  # a terminal may say that it has none
                bar_format="{desc} |{bar}|",
                leave=False,
                mininterval=0,
            )
            _drawn.append(bar)
        else:
            bar = _drawn[0]
            bar.n, bar.ncols = done, columns
            bar.set_description_str(text, refresh=False)
            bar.refresh()
        if done >= total:
            bar.leave = True
            clear()


def clear() -> None:
    """Erases the progress line, if there is one that is not finished."""
    while _drawn:
        with contextlib.suppress(*REFUSALS):
            _drawn.pop().close()


def flush() -> None:
    """Flushes stdout and stderr, if they are there."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(*REFUSALS):
                stream.flush()


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; one that is absent or closed is not."""
    try:
        return stream is not None and stream.isatty()
    except REFUSALS:
        return False


def _encodable(text: str, stream: Any) -> str:
    """Returns a text whose letters the stream's encoding has, others escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding, "replace")


def _columns() -> int:
    """Returns the width of a line: one less than the terminal's, some would wrap."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except REFUSALS:
        columns = 0
    return (columns or USUAL_COLUMNS) - 1


@functools.cache
def _bar() -> Any:
    """Returns tqdm's class for this place, a terminal or a notebook.

    Without its thread, and without its lock for several processes.
    """
    from tqdm.auto import tqdm

    own = {"monitor_interval": 0, "_lock": threading.RLock()}
    return type("Bar", (tqdm,), own)


def _has_widgets() -> bool:
    return any(base.__name__ == "tqdm_notebook" for base in _bar().__mro__)


def _clear_for_log(record: Any) -> bool:
    del record
    clear()
    return True
