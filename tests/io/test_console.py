"""Lines for people: whatever becomes of a stream, nothing is raised."""

import errno
import fcntl
import io
import os
import pty
import re
import resource
import signal
import struct
import sys
import termios

import pytest

from diffkd_jax.io import console, streams


class Refusing(io.StringIO):
    """A stream of a caller that refuses everything."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    flush = isatty = lambda self: self.write("")


REFUSALS = [
    *(OSError(c, os.strerror(c)) for c in (errno.EPIPE, errno.EIO, errno.ENOSPC)),
    OSError(errno.EBADF, os.strerror(errno.EBADF)),
    OSError(errno.ENXIO, os.strerror(errno.ENXIO)),
    ValueError("I/O operation on closed file"),
    RuntimeError("of a notebook's own stream"),
]


@pytest.mark.parametrize("stream", [None, *map(Refusing, REFUSALS)])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_nothing_that_a_stream_does_is_raised(stream, name, monkeypatch):
    monkeypatch.setattr(sys, name, stream)
    console.say("a line", error=name == "stderr")
    console.draw_progress("run", "step 1/2", 1, 2)
    console.clear()
    console.flush()


def test_letters_that_a_stream_lacks_are_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.say("café \udcff")
    console.draw_progress("naïve", "step", 1, 2)
    assert raw.getvalue() == b"caf\\xe9 \\udcff\nna\\xefve  step\n"


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        try:
            os.close(end)
        except OSError:
            continue


def test_a_stream_of_a_command_escapes_and_drops(pipe):
    reading, writing = pipe
    stream = streams.Stream(writing, "ascii")
    print("café", "\udcff", file=stream)
    assert os.read(reading, 100) == b"caf\\xe9 \\udcff\n"
    os.close(reading)
    print("to nobody", file=stream, flush=True)
    os.close(writing)
    print("to a descriptor that is closed", file=stream, flush=True)
    assert not stream.isatty()
    stream.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="of Linux")
def test_a_full_disk_behind_a_stream_is_no_error():
    with open("/dev/full", "wb", buffering=0) as full:
        stream = streams.Stream(full.fileno(), "utf-8")
        for _ in range(3):  # more than any buffer holds
            print("x" * 20_000, file=stream, flush=True)
        stream.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="of Linux")
def test_a_result_that_is_lost_is_an_error(monkeypatch):
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", streams.Stream(full.fileno(), "utf-8"))
        streams.check_printed()
        console.say("score 0.5")
        with pytest.raises(OSError, match=r"stdout: found .*No space left on device"):
            streams.check_printed()
        sys.stdout.close()


def test_a_line_that_is_lost_in_part_is_lost(tmp_path, monkeypatch):
    """A disk that is nearly full takes the beginning of a line without an error."""
    file = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with file.open("wb") as out:
            stream = streams.Stream(out.fileno(), "utf-8")
            monkeypatch.setattr(sys, "stdout", stream)
            resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))
            console.say("score 0.5")
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_bytes() == b"score 0."
    assert stream.refusal


def available(descriptor):
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


@pytest.fixture
def terminal(monkeypatch):
    """``columns -> read``, what stands on a terminal of that width."""
    ends = []

    def opened(columns):
        master, slave = pty.openpty()
        ends.extend((master, slave))
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        monkeypatch.setattr(sys, "stdout", streams.Stream(slave, "utf-8"))
        os.set_blocking(master, False)
        return lambda: b"".join(iter(lambda: available(master), b"")).decode()

    yield opened
    console.clear()
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("columns", [40, 80, 200, 0])
def test_a_progress_line_never_wraps(columns, terminal):
    read = terminal(columns)
    losses = "  ".join(f"term{i} 0.123" for i in range(20))
    name = "a name of a run\nthat is long, 名前"
    for step in (1, 2, 3):
        console.draw_progress(name, f"step {step}/300  {losses}", step, 300)
    text = read()
    assert "\n" not in text
    shown = [row for row in text.split("\r") if row.strip()]
    assert [re.search(r"step (\d)", row)[1] for row in shown] == ["1", "2", "3"]
    wide = [len(row) + len(re.findall("[名前]", row)) for row in shown]
    assert max(wide) < (columns or 80)


def test_the_next_line_takes_the_place_of_progress(terminal):
    read = terminal(80)
    console.draw_progress("run", "step 1/2", 1, 2)
    console.say("a result")
    *_, wiped, shown, end = read().split("\r")
    assert (wiped.strip(), shown, end) == ("", "a result", "\n")
    assert len(wiped) > 70
    console.draw_progress("run", "step 2/2", 2, 2)
    console.say("another")
    *_, last, shown, end = read().split("\r")
    assert (last.split("|")[0], shown, end) == ("run  step 2/2 ", "\nanother", "\n")


def test_a_terminal_that_went_away_is_no_error(terminal, monkeypatch):
    terminal(80)
    console.draw_progress("run", "step 1/2", 1, 2)

    def gone(text):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys.stdout, "write", gone)
    console.draw_progress("run", "step 2/2", 2, 2)
    console.say("a result")
