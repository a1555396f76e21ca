"""Several processes: how they find each other, and end together."""

import contextlib
import dataclasses
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
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
# What XLA says where an exchange between processes fails, as several types.
BROKEN_OFF = re.compile(
    "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_)"
    ".*(Gloo|NCCL|RCCL|collective|peer|connection|coordination|heartbeat)",
    re.IGNORECASE,
)
EVERY = 1.0  # seconds between two signs of life
GO_ON = "start all processes again in the same way: they go on from the last checkpoint"


def start_processes(
    options: Distributed, environment: Mapping[str, str] = os.environ
) -> None:
    """Joins the processes of ``config.distributed``; before any device is used.

    Args:
      options: the section ``distributed`` of a config.
      environment: what the section leaves open, and what a cluster says.

    Raises:
      ValueError: no coordinator is named and none is found, or not all processes are
        there in time.
    """
    if not options.enabled:
        return
    given = named(options, environment)
    seconds = round(options.start_seconds)
    # JAX would abort, with a trace of its own.
    late = threading.Timer(seconds, _end, [_late(given, seconds)])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=seconds + 60,
            # Ours is found out first, and says what to do.
            heartbeat_timeout_seconds=round(2 * options.lost_seconds) + 60,
        )
        if "local_device_ids" not in given and one_a_host(environment):
            # JAX takes one device a process under Slurm and Open MPI.
            jax.config.update("jax_cuda_visible_devices", "all")
            jax.config.update("jax_rocm_visible_devices", "all")
        client = distributed.global_state.client
        if client is not None and distributed.global_state.num_processes > 1:
            # The first exchange waits for 30 s, whatever is set; the others wait.
            client.wait_at_barrier("diffkd_jax/started", 1000 * (seconds + 60))
            multihost_utils.sync_global_devices("diffkd_jax/started")
    except (ValueError, TypeError, RuntimeError, OSError, KeyError) as error:
        raise ValueError(_problem(error, given, environment)) from None
    finally:
        late.cancel()


def named(options: Distributed, environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of ``jax.distributed.initialize``: of the config, else of environment.

    Raises:
      ValueError: an address without a port, a number that is none or is missing.
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
    found: dict[str, Any] = {"local_device_ids": devices} if devices else {}
    address = options.coordinator or environment.get(ENVIRONMENT["coordinator"], "")
    if not address:
        if options.num_processes or options.process_id >= 0:
            raise ValueError(
                "distributed.coordinator: found '' beside num_processes or process_id, "
                "expected 'address:port'"
            )
        return found
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
    return found | {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
    }


def one_a_host(environment: Mapping[str, str]) -> bool:
    """Whether Slurm or Open MPI started one process on each host.

    >>> one_a_host({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_NODES": "4"})
    True
    >>> one_a_host({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"})
    False
    """
    nodes = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES")
    if nodes and environment.get("SLURM_NTASKS") == nodes:
        return True
    return environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def _late(given: Mapping, seconds: int) -> str:
    return (
        f"distributed.start_seconds: found processes that were not there within "
        f"{seconds} s, expected {given.get('num_processes', 'all')} at "
        f"{given.get('coordinator_address', 'the coordinator')}"
    )


def _problem(error, given: Mapping, environment: Mapping) -> str:
    """One line that says what to do."""
    text = " ".join(str(error).split())
    if "coordinator_address" in given or isinstance(error, RuntimeError):
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


# JAX ends the other processes too, within ``heartbeat_timeout_seconds``, but without a
# usable line. Measured with jax 0.10.2 and 0.12.0.1, two processes on a CPU, a timeout
# of 5 s, either of them killed or stopped: the other one ended after 0.1 to 4.6 s, in
# six of eight cases by an abort with 42 to 67 lines of stack traces, else with "Gloo
# all-reduce failed". The lost process was named among the traces of two cases, what
# to do in none. jax 0.12.0.1 also ended a job whose processes all slept for 9 s.
@contextlib.contextmanager
def ending_together(seconds: float) -> Iterator[None]:
    """Ends this process where another one died, stopped or failed, with one line.

    Args:
      seconds: without a sign of life, after which a process counts as lost.
    """
    client = distributed.global_state.client
    count, me = (
        distributed.global_state.num_processes,
        distributed.global_state.process_id,
    )
    if client is None or count == 1:
        yield
        return
    done, heard = threading.Event(), Heard({}, 0)
    say = lambda text: client.key_value_set(f"{ALIVE}{me}", text, allow_overwrite=True)
    # Two threads, for a call to a store that does not answer does not come back.
    talk = threading.Thread(
        target=_exchange, args=(client, say, heard, done), daemon=True
    )
    watch = threading.Thread(
        target=_watch, args=(heard, count, seconds, done), daemon=True
    )
    talk.start()
    watch.start()
    last = FAILED + "see its output"
    try:
        yield
        last = ENDED
    except Stopped:
        last = ENDED
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if BROKEN_OFF.match(text):  # the watch will know with whom
            watch.join(seconds + 10 * EVERY)
        last = f"{FAILED}{text:.300}"
        raise
    finally:
        done.set()
        talk.join(10 * EVERY)
        if not talk.is_alive():
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the store is gone
                say(last)
        if me == 0 and last != ENDED:  # the store ends with it
            time.sleep(3 * EVERY)


@dataclasses.dataclass
class Heard:
    """What the store held when it last answered.

    Attributes:
      signs: of life, by key.
      answers: how often it did.
    """

    signs: dict[str, str]
    answers: int


def _exchange(client, say, heard: Heard, done: threading.Event) -> None:
    """Gives signs of life, and fetches those of the others."""
    beat = 0
    while not done.wait(EVERY):
        beat += 1
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # counted by the watch
            say(str(beat))
            heard.signs = dict(client.key_value_dir_get(ALIVE))
            heard.answers += 1


def _watch(heard: Heard, count: int, seconds: float, done: threading.Event) -> None:
    """Ends this process where another one failed or gives no sign of life.

    Time is counted in turns of its own, so that nobody is lost to a job that slept.
    """
    seen: dict[int, tuple[str, int]] = {}
    turn, answered, answers = 0, 0, 0
    while not done.wait(EVERY):
        turn += 1
        if heard.answers != answers:
            answers, answered = heard.answers, turn
        elif (turn - answered) * EVERY > seconds:
            _end(f"process 0 has not answered for {seconds:g} s; {GO_ON}")
        for process in range(count):
            text = heard.signs.get(f"{ALIVE}{process}", "")
            if text.startswith(FAILED):
                _end(f"process {process} ended: {text.removeprefix(FAILED)}")
            if process not in seen or seen[process][0] != text:
                seen[process] = (text, turn)
            elif answered < turn:  # nothing new is known of anybody
                continue
            elif text != ENDED and (turn - seen[process][1]) * EVERY > seconds:
                _end(
                    f"process {process} has given no sign of life for {seconds:g} s; "
                    f"{GO_ON}"
                )


def _end(what: str) -> None:
    """At once: to leave in order, all processes would have to."""
    console.say(f"error: {what}", error=True)
    os._exit(1)


def leave(code: int) -> NoReturn:
    """Exits: at once where an exit in order would wait.

    Of several processes for all, and for a thread that waits for data in vain.
    """
    if is_stuck():
        for worker in multiprocessing.active_children():
            worker.kill()
    elif distributed.global_state.num_processes == 1:
        sys.exit(code)
    console.flush()
    os._exit(code)


def count() -> int:
    """Returns the number of processes of this run; asks no device."""
    return distributed.global_state.num_processes or 1


def is_primary() -> bool:
    """Whether this process writes files and progress for all."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come to the point of this name."""
    multihost_utils.sync_global_devices(name)


def everywhere(value: bool) -> bool:
    """Whether it holds on every process; all have to ask."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).all())


def as_first(value: int) -> int:
    """What the first process says, a truth or a number; all have to ask."""
    if jax.process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.array(value)))
