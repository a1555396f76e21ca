"""Calls of functions that serve figures: an error costs figures, not the run."""

import contextlib
import contextvars
import errno
import logging
import pathlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

LOG = logging.getLogger(__name__)
DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_notes: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "notes", default=None
)


@contextlib.contextmanager
def noting() -> Iterator[list[str]]:
    """Collects notes about the figures that are drawn inside the context.

    Yields:
      A list of plain sentences. Nested contexts share the list of the outer one.

    >>> with noting() as notes:
    ...     add_note("one.png: left out")
    >>> notes
    ['one.png: left out']
    """
    notes = _notes.get()
    if notes is not None:
        yield notes
        return
    notes = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def add_note(text: str) -> None:
    """Adds a sentence to the notes of :func:`noting`, unless they already hold it.

    Outside of :func:`noting` it does nothing.

    Args:
      text: a plain sentence.

    >>> with noting() as notes:
    ...     add_note("one.png: left out")
    ...     add_note("one.png: left out")
    >>> len(notes)
    1
    """
    notes = _notes.get()
    if notes is not None and text not in notes:
        notes.append(text)


def attempt(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function that serves figures. An error costs only its figures.

    After an error, the log and the notes of :func:`noting` name the figures and the
    error.

    Args:
      name: name of the figures, for the report.
      function: the function.
      *arguments: its arguments.

    Returns:
      What the function returns, or None after an error.

    Raises:
      OSError: the disk is full or read-only, which concerns all files.

    >>> attempt("curves", max, 1, 2)
    2
    """
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # a user's function may call exit
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(f"{type(error).__name__}: {error}".split())
        note = (
            f"{name}: left out after {text:.300} "
            f"({pathlib.Path(frame.filename).name}, line {frame.lineno})"
        )
        LOG.warning("figures: %s", note)
        LOG.debug("the error in full", exc_info=True)
        add_note(note)
    return None
