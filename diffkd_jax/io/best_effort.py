"""Runs what serves figures alone. An error costs the figures, and a note says so."""

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
    """Collects notes about the figures that are drawn inside.

    Yields:
      A list of plain sentences. Nested calls share the list of the outer one.
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
    """Adds a sentence to the notes of :func:`noting`, once; outside it does nothing."""
    notes = _notes.get()
    if notes is not None and text not in notes:
        notes.append(text)


def attempt(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function that serves figures. An error costs its figures alone.

    Args:
      name: of the figures, for the report.
      function: to call.
      arguments: of the function.

    Returns:
      What the function returns, None where it failed. Then the log and the notes of
      :func:`noting` say so.

    Raises:
      OSError: the disk is full or read-only, which concerns all files.
    """
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # a user's function may exit
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(f"{type(error).__name__}: {error}".split())
        what = (
            f"{name}: left out after {text:.300} "
            f"({pathlib.Path(frame.filename).name}, line {frame.lineno})"
        )
        LOG.warning("figures: %s", what)
        LOG.debug("the error in full", exc_info=True)
        add_note(what)
    return None
