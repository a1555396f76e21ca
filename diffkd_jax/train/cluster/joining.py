"""Starts several processes as one run."""

import os
import re
import threading
from collections.abc import Mapping
from typing import Any

import jax
from jax._src import distributed  # no public way to the store that all processes share
from jax.experimental import multihost_utils

from ...config.machine import Distributed
from .processes import exit_now

ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
    "local_devices": "JAX_LOCAL_DEVICE_IDS",
}


def start_processes(
    options: Distributed, environment: Mapping[str, str] = os.environ
) -> None:
    """Joins the processes of ``config.distributed``; call it before any device is used.

    It does nothing unless ``distributed.enabled`` is set. If the other processes do not
    start in time, it ends this one.

    Args:
      options: the section ``distributed`` of a config.
      environment: environment variables. They fill fields that the section leaves open,
        and JAX reads from them where the processes of a cluster are.

    Raises:
      ValueError: no coordinator is named or detected, or it cannot be reached.
    """
    if not options.enabled:
        return
    arguments = read_arguments(options, environment)
    seconds = round(options.start_seconds)
    # This timer ends first, with one line. JAX would abort with a stack trace.
    timer = threading.Timer(seconds, exit_now, [_describe_timeout(arguments, seconds)])
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
        raise ValueError(_describe_error(error, arguments, environment)) from None
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


def _describe_timeout(arguments: Mapping[str, Any], seconds: int) -> str:
    """Returns the message about processes that did not start in time."""
    return (
        f"distributed.start_seconds: found processes that were not there within "
        f"{seconds} s, expected {arguments.get('num_processes', 'all')} at "
        f"{arguments.get('coordinator_address', 'the coordinator')}"
    )


def _describe_error(
    error: Exception, arguments: Mapping[str, Any], environment: Mapping[str, Any]
) -> str:
    """Returns one line about an error of ``jax.distributed``, which says what to do."""
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
