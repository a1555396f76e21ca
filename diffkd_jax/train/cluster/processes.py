"""Starts several processes as one run, and ends them together."""

import contextlib
import dataclasses
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed  # no public way to the store that all processes share
from jax.experimental import multihost_utils

from ...config.machine import Distributed
from ...data.pipeline.read_ahead import is_stuck
from ...io import console
from .signals import Stopped

ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
    "local_devices": "JAX_LOCAL_DEVICE_IDS",
}
ALIVE, ENDED, FAILED = "diffkd_jax/alive/", "ended", "failed: "
# XLA's texts if an exchange between processes fails; it raises several types of errors.
BROKEN_OFF = re.compile(
    "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_)"
    ".*(Gloo|NCCL|RCCL|collective|peer|connection|coordination|heartbeat)",
    re.IGNORECASE,
)
EVERY = 1.0  # seconds between two heartbeats of a process
GO_ON = "start all processes again in the same way: they go on from the last checkpoint"


def start_processes(
    options: Distributed, environment: Mapping[str, str] = os.environ
) -> None:
    """Joins the processes of ``config.distributed``; call it before any device is used.

    Args:
      options: the section ``distributed`` of a config.
      environment: environment variables. They fill fields that the section leaves open,
        and those of a cluster say where its processes are.

    Raises:
      ValueError: no coordinator is named or detected, or not all processes start in
        time.
    """
    if not options.enabled:
        return
    arguments = read_arguments(options, environment)
    seconds = round(options.start_seconds)
    # This timer ends first, with one line. JAX would abort with a stack trace.
    timer = threading.Timer(seconds, _end, [_late(arguments, seconds)])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=seconds + 60,
            # Longer than our own timeout, whose message says what to do.
            heartbeat_timeout_seconds=round(2 * options.lost_seconds) + 60,
        )
        if "local_device_ids" not in arguments and _is_one_per_host(environment):
            # Under Slurm and Open MPI, JAX takes only one device for each process.
            jax.config.update("jax_cuda_visible_devices", "all")
            jax.config.update("jax_rocm_visible_devices", "all")
        client = distributed.global_state.client
        if client is not None and distributed.global_state.num_processes > 1:
            # A barrier first: the first exchange waits only 30 s, whatever is set.
            client.wait_at_barrier("diffkd_jax/started", 1000 * (seconds + 60))
            multihost_utils.sync_global_devices("diffkd_jax/started")
    except (ValueError, TypeError, RuntimeError, OSError, KeyError) as error:
        raise ValueError(_problem(error, arguments, environment)) from None
    finally:
        timer.cancel()


def read_arguments(
    options: Distributed, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the arguments of ``jax.distributed.initialize``.

    Args:
      options: the section ``distributed`` of a config.
      environment: environment variables, for what the section leaves open.

    Returns:
      The arguments by name; without an address, JAX detects the cluster.

    Raises:
      ValueError: an address has no port, or a number is wrong or missing.

    >>> options = Distributed(coordinator="host:1234", num_processes=2, process_id=1)
    >>> read_arguments(options, {})["process_id"]
    1
    """
    numbers: dict[str, list[int]] = {}
    for field in ("num_processes", "process_id", "local_devices"):
        text = environment.get(ENVIRONMENT[field], "")
        if text and not re.fullmatch(r"\d+(,\d+)*", text):
            raise ValueError(
                f"distributed.{field}: found {ENVIRONMENT[field]}={text!r}, expected "
                "numbers"
            )
        numbers[field] = [int(number) for number in text.split(",") if number]
    devices = list(options.local_devices) or numbers["local_devices"]
    arguments: dict[str, Any] = {"local_device_ids": devices} if devices else {}
    address = options.coordinator or environment.get(ENVIRONMENT["coordinator"], "")
    if not address:
        if options.num_processes or options.process_id >= 0:
            raise ValueError(
                "distributed.coordinator: found '' beside num_processes or process_id, "
                "expected 'address:port'"
            )
        return arguments
    if not re.fullmatch(r".+:\d+", address):
        raise ValueError(
            f"distributed.coordinator: found {address!r}, expected 'address:port'"
        )
    count = options.num_processes or (numbers["num_processes"] or [0])[0]
    index = options.process_id
    if index < 0 and numbers["process_id"]:
        index = numbers["process_id"][0]
    if not 0 <= index < count:
        raise ValueError(
            f"distributed.process_id: found {index} of distributed.num_processes "
            f"{count}, expected 0 to the number less one, there or in "
            f"{ENVIRONMENT['process_id']} and {ENVIRONMENT['num_processes']}"
        )
    return arguments | {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
    }


def _is_one_per_host(environment: Mapping[str, str]) -> bool:
    """Returns whether Slurm or Open MPI started one process on each host.

    >>> _is_one_per_host({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_NODES": "4"})
    True
    >>> _is_one_per_host({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"})
    False
    """
    nodes = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES")
    if nodes and environment.get("SLURM_NTASKS") == nodes:
        return True
    return environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def _late(arguments: Mapping, seconds: int) -> str:
    """Returns the message about processes that did not start in time."""
    return (
        f"distributed.start_seconds: found processes that were not there within "
        f"{seconds} s, expected {arguments.get('num_processes', 'all')} at "
        f"{arguments.get('coordinator_address', 'the coordinator')}"
    )


def _problem(error: Exception, arguments: Mapping, environment: Mapping) -> str:
    """Returns one line about an error at the start, which says what to do."""
    text = " ".join(str(error).split())
    if "coordinator_address" in arguments or isinstance(error, RuntimeError):
        return f"distributed: {text}"
    hint = ""
    if "KUBERNETES_SERVICE_HOST" in environment:
        hint = "; on Kubernetes install diffkd_jax[k8s]"
    return (
        "distributed: found no cluster to join, expected one that JAX knows (Cloud "
        "TPU, Slurm, Open MPI, Kubernetes) or distributed.coordinator, num_processes "
        f"and process_id, there or in {', '.join(list(ENVIRONMENT.values())[:3])}"
        f"{hint}: {text}"
    )


# JAX also ends the other processes, within ``heartbeat_timeout_seconds``, but without a
# usable message. Measured with jax 0.10.2 and 0.12.0.1, two processes on a CPU, a
# timeout of 5 s, and either process killed or stopped: the other one ended after 0.1 to
# 4.6 s, in six of eight cases by an abort with 42 to 67 lines of stack traces, else
# with "Gloo all-reduce failed". The traces of two cases named the lost process; no case
# said what to do. jax 0.12.0.1 also ended a job whose processes all slept for 9 s.
@contextlib.contextmanager
def ending_together(seconds: float) -> Iterator[None]:
    """Ends this process, with one line, if another process died, stopped or failed.

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
    """The last answer of the store: heartbeats by key, and the number of answers."""

    heartbeats: dict[str, str]
    count: int


def _exchange(
    client: Any,
    send: Callable[[str], Any],
    answer: _StoreAnswer,
    done: threading.Event,
) -> None:
    """Sends heartbeats of this process, and fetches those of the others."""
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
    """Ends this process if another one failed or sends no heartbeat.

    Time is counted in turns of this loop, so that no process counts as lost if the
    whole job slept.
    """
    last_beats: dict[int, tuple[str, int]] = {}
    turn, answer_turn, answers = 0, 0, 0
    while not done.wait(EVERY):
        turn += 1
        if answer.count != answers:
            answers, answer_turn = answer.count, turn
        elif (turn - answer_turn) * EVERY > seconds:
            _end(f"process 0 has not answered for {seconds:g} s; {GO_ON}")
        for process in range(num_processes):
            text = answer.heartbeats.get(f"{ALIVE}{process}", "")
            if text.startswith(FAILED):
                _end(f"process {process} ended: {text.removeprefix(FAILED)}")
            if process not in last_beats or last_beats[process][0] != text:
                last_beats[process] = (text, turn)
            elif answer_turn < turn:  # this turn brought no answer
                continue
            elif text != ENDED and (turn - last_beats[process][1]) * EVERY > seconds:
                _end(
                    f"process {process} has given no sign of life for {seconds:g} s; "
                    f"{GO_ON}"
                )


def _end(message: str) -> None:
    """Prints an error and exits at once; an exit in order would need all processes."""
    console.say(f"error: {message}", error=True)
    os._exit(1)


def leave(code: int) -> NoReturn:
    """Exits the process; at once if an exit in order would wait for something else.

    That is the case for one of several processes, and if a thread waits for data in
    vain.

    Args:
      code: the exit code.
    """
    if is_stuck():
        for worker in multiprocessing.active_children():
            worker.kill()
    elif distributed.global_state.num_processes == 1:
        sys.exit(code)
    console.flush()
    os._exit(code)


def count() -> int:
    """Returns the number of processes of this run; uses no device.

    >>> count()
    1
    """
    return distributed.global_state.num_processes or 1


def is_primary() -> bool:
    """Returns whether this process writes files and progress for all.

    >>> is_primary()
    True
    """
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process has reached the point of this name.

    Args:
      name: name of the point, the same on every process.

    >>> wait_for_all("an example")
    """
    multihost_utils.sync_global_devices(name)


def everywhere(value: bool) -> bool:
    """Returns whether a value is true on every process; all of them have to call it.

    Args:
      value: the value of this process.

    >>> everywhere(True)
    True
    """
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).all())


def as_first(value: int) -> int:
    """Returns the value of the first process; all of them have to call it.

    Args:
      value: the value of this process, a bool or an integer.

    >>> as_first(3)
    3
    """
    if jax.process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.array(value)))
