"""The streams of a command, which drop what stdout and stderr refuse.

A command whose result is only printed calls :func:`check_printed` at its end.
"""

import contextlib
import errno
import io
import os
import sys
from typing import Any

from . import console


class _Descriptor(io.FileIO):
    """A file descriptor that takes all bytes of a call, or raises an error."""

    def write(self, data: Any) -> int:
        """Writes bytes; a disk with little room left takes the first ones alone."""
        left = memoryview(data)
        while left:
            count = super().write(left)
            if count is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            left = left[count:]
        return len(data)


class Stream(io.TextIOWrapper):
    """A text stream on a file descriptor, which drops what the descriptor refuses.

    Letters that the encoding lacks are written as escapes. Nothing is buffered, so the
    interpreter has nothing left to write when it ends.

    Args:
      descriptor: number of the file descriptor; closing the stream leaves it open.
      encoding: name of the encoding, such as utf-8.

    Attributes:
      refusal: reason why the first text was dropped, or "" if none was.

    >>> Stream(1, "ascii").errors
    'backslashreplace'
    """

    def __init__(self, descriptor: int, encoding: str):
        self.refusal = ""
        super().__init__(
            _Descriptor(descriptor, "wb", closefd=False),
            encoding=encoding,
            errors="backslashreplace",
            write_through=True,
        )

    def write(self, text: str) -> int:
        """Writes a text, or drops it if the descriptor refuses it.

        Args:
          text: the text.

        Returns:
          The length of the text in either case.
        """
        try:
            super().write(text)
        except (OSError, ValueError) as error:  # ValueError: closed
            reason = error.strerror if isinstance(error, OSError) else None
            self.refusal = self.refusal or reason or str(error)
        return len(text)

    def flush(self) -> None:
        """Flushes without raising; as nothing is buffered, nothing is written."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            super().flush()


def guard_streams() -> None:
    """Replaces stdout and stderr of a command by streams that never raise.

    It changes the process, so a command calls it before anything else. Descriptors 0 to
    2 that are closed are opened on the null device. Otherwise the next file that is
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
    handler.python_handler.setStream(sys.stderr)  # it still holds the former stream
    handler.addFilter(_clear_for_log)


def check_printed() -> None:
    """Raises an error if a line for stdout was dropped, since the result is lost then.

    Only streams of :func:`guard_streams` know which lines they dropped. A stdout
    that was closed from the start is the null device, which takes all lines.

    Raises:
      OSError: stdout refused a line. The message gives the system's reason.

    >>> check_printed()
    """
    if isinstance(sys.stdout, Stream) and sys.stdout.refusal:
        raise OSError(
            f"stdout: found lines that could not be written ({sys.stdout.refusal}), "
            "expected room for the result; run the command again with another output"
        )


def _clear_for_log(record: Any) -> bool:
    """Erases the progress line before a line of the log is written."""
    del record
    console.clear()
    return True
