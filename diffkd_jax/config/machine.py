"""The sections ``mesh`` and ``distributed``: devices and processes of a run."""

from typing import Annotated

from pydantic import Field, Strict

from ..bounds import Words
from .section import Free, Section

MOST_DEVICES = 2**20


class Mesh(Section):
    """The mesh of devices over which state and teacher are split."""

    fsdp: Annotated[int, Field(ge=1, le=MOST_DEVICES), Free] = 1
    """Devices that share one copy of state and teacher."""
    fsdp_min_bytes: Annotated[int, Field(ge=1), Free] = 2**20
    """Size in bytes from which an array is split over them."""


class Distributed(Section):
    """The processes of a run, and how they find each other.

    Values that are not set come from Cloud TPU, Slurm, Open MPI or Kubernetes, or from
    the environment variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID, JAX_LOCAL_DEVICE_IDS.
    """

    enabled: Annotated[bool, Free] = False
    """Run as one of several processes, each started in the same way."""
    coordinator: Annotated[str, Free] = ""
    """address:port of process 0."""
    num_processes: Annotated[int, Field(ge=0, le=MOST_DEVICES), Free] = 0
    """Number of processes."""
    process_id: Annotated[int, Field(ge=-1, le=MOST_DEVICES), Free] = -1
    """Number of this process, from 0."""
    local_devices: Annotated[
        tuple[Annotated[int, Field(ge=0, le=MOST_DEVICES)], ...],
        Strict(False),
        Words("a tuple of devices' numbers"),
        Free,
    ] = ()
    """Devices of this process; () for all."""
    start_seconds: Annotated[float, Field(ge=1, le=1e6), Free] = 300.0
    """Seconds to wait until all processes are there."""
    lost_seconds: Annotated[float, Field(ge=2, le=1e6), Free] = 60.0
    """Seconds without a sign of life after which a process counts as lost."""
