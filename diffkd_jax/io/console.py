"""Lines for people on stdout and stderr. Output never ends a run.

A stream can be absent or closed, go away (a pipe or a terminal), be full, or lack
letters. The results of a run are in files, so a line that a stream refuses is dropped.
"""

import contextlib
import functools
import os
import sys
import threading
from typing import Any

USUAL_COLUMNS = 80  # if the terminal does not tell its width
NAME_COLUMNS = 24  # largest length of a name, so that progress stays visible
# A caller's stream may raise any type of error when it cannot take a line: those of
# notebooks have their own types.
REFUSALS = (Exception,)
_drawn: list[Any] = []  # the progress line on the screen, at most one


def say(text: str, *, error: bool = False) -> None:
    """Writes a line to stdout or stderr, in place of the progress line.

    Args:
      text: the line, without its end.
      error: whether to write to stderr.

    >>> say("3 of 10 epochs")
    3 of 10 epochs
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:
        return
    clear()
    with contextlib.suppress(*REFUSALS):
        stream.write(_encodable(text, stream) + "\n")
        stream.flush()


def draw_progress(name: str, text: str, done: int, total: int) -> None:
    """Shows progress as one line, which the next call overwrites.

    The last line, with ``done`` equal to ``total``, stays. On a terminal lines are cut
    to its width. In a notebook the text stands beside a bar. Elsewhere each call writes
    an ordinary line.

    Args:
      name: name of the run; on a terminal it is cut to :data:`NAME_COLUMNS`.
      text: text after the name.
      done: number of steps that are done.
      total: number of all steps.

    >>> draw_progress("student", "epoch 3", 3, 10)
    student  epoch 3
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
                nrows=20,  # a terminal may report 0 rows
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
    """Erases the progress line unless it is finished.

    >>> clear()
    """
    while _drawn:
        with contextlib.suppress(*REFUSALS):
            _drawn.pop().close()


def flush() -> None:
    """Flushes stdout and stderr if they exist.

    >>> flush()
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(*REFUSALS):
                stream.flush()


def is_terminal(stream: Any) -> bool:
    """Returns whether a stream is a terminal; an absent or closed one is not.

    Args:
      stream: a stream, or None.

    >>> is_terminal(None)
    False
    """
    try:
        return stream is not None and stream.isatty()
    except REFUSALS:
        return False


def _encodable(text: str, stream: Any) -> str:
    """Escapes the letters of a text that the encoding of a stream lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding, "replace")


def _columns() -> int:
    """Returns one column less than the terminal has, because some terminals wrap."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except REFUSALS:
        columns = 0
    return (columns or USUAL_COLUMNS) - 1


@functools.cache
def _bar() -> Any:
    """Returns tqdm's class for a terminal or a notebook.

    It has neither tqdm's thread nor its lock for several processes.
    """
    from tqdm.auto import tqdm

    changes = {"monitor_interval": 0, "_lock": threading.RLock()}
    return type("Bar", (tqdm,), changes)


def _has_widgets() -> bool:
    """Returns whether progress is shown by widgets of a notebook."""
    return any(base.__name__ == "tqdm_notebook" for base in _bar().__mro__)
