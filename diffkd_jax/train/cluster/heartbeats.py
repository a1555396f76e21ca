"""Ends all processes of a run if one of them died, hangs or failed.

Each process writes a heartbeat, a number that grows, into the key-value store of
``jax.distributed``, which lives in process 0, and reads the heartbeats of the others.
"""

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed  # no public way to the store that all processes share

from .processes import exit_now
from .signals import Stopped

ALIVE, ENDED, FAILED = "diffkd_jax/alive/", "ended", "failed: "
# XLA's texts if an exchange between processes fails; it raises several types of errors.
BROKEN_OFF = re.compile(
    "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_)"
    ".*(Gloo|NCCL|RCCL|collective|peer|connection|coordination|heartbeat)",
    re.IGNORECASE,
)
EVERY = 1.0  # seconds between two heartbeats of a process
GO_ON = "start all processes again in the same way: they go on from the last checkpoint"


# JAX also ends the other processes, within ``heartbeat_timeout_seconds``, but without a
# usable message. Measured with jax 0.10.2 and 0.12.0.1, two processes on a CPU, a
# timeout of 5 s, and either process killed or stopped: the other one ended after 0.1 to
# 4.6 s, in six of eight cases by an abort with 42 to 67 lines of stack traces, else
# with "Gloo all-reduce failed". The traces of two cases named the lost process; no case
# said what to do. jax 0.12.0.1 also ended a job whose processes all slept for 9 s.
@contextlib.contextmanager
def end_together(seconds: float) -> Iterator[None]:
    """Ends this process, with one line, if another process died, hangs or failed.

    Args:
      seconds: time without a heartbeat, in seconds, after which a process counts as
        lost.

    Yields:
      Nothing; the run trains in the context.

    Raises:
      Exception: an error in the context, unchanged.
    """
    client = distributed.global_state.client
    num_processes = distributed.global_state.num_processes
    process_id = distributed.global_state.process_id
    if client is None or num_processes == 1:
        yield
        return
    done, answer = threading.Event(), _StoreAnswer({}, 0)
    send = lambda text: client.key_value_set(
        f"{ALIVE}{process_id}", text, allow_overwrite=True
    )
    # Two threads, because a call never returns if the store does not answer.
    exchange = threading.Thread(
        target=_exchange, args=(client, send, answer, done), daemon=True
    )
    watch = threading.Thread(
        target=_watch, args=(answer, num_processes, seconds, done), daemon=True
    )
    exchange.start()
    watch.start()
    last_text = FAILED + "see its output"
    try:
        yield
        last_text = ENDED
    except Stopped:
        last_text = ENDED
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if BROKEN_OFF.match(text):  # the watch will name the process that is lost
            watch.join(seconds + 10 * EVERY)
        last_text = f"{FAILED}{text:.300}"
        raise
    finally:
        done.set()
        exchange.join(10 * EVERY)
        if not exchange.is_alive():
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the store is gone
                send(last_text)
        # The store ends with process 0, so the others need time to read the text.
        if process_id == 0 and last_text != ENDED:
            time.sleep(3 * EVERY)


@dataclasses.dataclass
class _StoreAnswer:
    """The store's last answer: heartbeats by key, and the number of answers so far."""

    heartbeats: dict[str, str]
    count: int


def _exchange(
    client: Any,
    send: Callable[[str], Any],
    answer: _StoreAnswer,
    done: threading.Event,
) -> None:
    """Sends this process's heartbeats and fetches those of all, until ``done``."""
    beat = 0
    while not done.wait(EVERY):
        beat += 1
        # The watch notices an error by the missing answer.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            send(str(beat))
            answer.heartbeats = dict(client.key_value_dir_get(ALIVE))
            answer.count += 1


def _watch(
    answer: _StoreAnswer, num_processes: int, seconds: float, done: threading.Event
) -> None:
    """Ends this process if another one failed or if heartbeats or the store stop.

    Time is counted in turns of this loop, so that no process counts as lost after the
    whole job was suspended.
    """
    last_beats: dict[int, tuple[str, int]] = {}
    turn, answer_turn, answers = 0, 0, 0
    while not done.wait(EVERY):
        turn += 1
        if answer.count != answers:
            answers, answer_turn = answer.count, turn
        elif (turn - answer_turn) * EVERY > seconds:
            exit_now(f"process 0 has not answered for {seconds:g} s; {GO_ON}")
        for process in range(num_processes):
            text = answer.heartbeats.get(f"{ALIVE}{process}", "")
            if text.startswith(FAILED):
                exit_now(f"process {process} ended: {text.removeprefix(FAILED)}")
            if process not in last_beats or last_beats[process][0] != text:
                last_beats[process] = (text, turn)
            elif answer_turn < turn:  # this turn brought no answer
                continue
            elif text != ENDED and (turn - last_beats[process][1]) * EVERY > seconds:
                exit_now(
                    f"process {process} has given no sign of life for {seconds:g} s; "
                    f"{GO_ON}"
                )
