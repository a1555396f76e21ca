"""Checks JAX's devices, sets JAX's settings, and describes faults of memory."""

import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ...io import console, streams

# Texts of XLA and the GPU libraries, which all raise the same type of error.
NO_MEMORY = re.compile(
    "RESOURCE_EXHAUSTED|OUT_OF_MEMORY|out of memory|ALLOC_FAILED|bad_alloc",
    re.IGNORECASE,
)
NO_THREAD = "can't start new thread"  # Python's text
LOG = logging.getLogger(__name__)
_settings: Any = jax.config  # its attributes are not declared
# A run's values of settings that the environment or the caller may have changed. Other
# values would change what a config computes, or forbid what a run does on purpose: it
# casts, broadcasts and moves arrays.
RUN_SETTINGS: dict[str, Any] = {
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
    "jax_transfer_guard": "allow",  # sets the three above, so it is restored first
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_enable_x64": False,
    "jax_no_tracing": False,
}
# Settings that request a device.
PLATFORM_SETTINGS = ("jax_platforms", "jax_platform_name", "jax_default_device")


def check_devices() -> None:
    """Checks whether JAX has a device of the requested platform.

    Raises:
      ValueError: there is none; the message names the platform, and what to do.

    >>> check_devices()
    """
    try:
        jax.devices()
        jax.device_put(0).block_until_ready()  # reads JAX_DEFAULT_DEVICE
    except Exception as error:  # its type depends on the platform and the fault
        values = {
            name.upper(): getattr(_settings, name, None) or os.environ.get(name.upper())
            for name in PLATFORM_SETTINGS
        }
        requested = {name: str(value) for name, value in values.items() if value}
        text = ", ".join(
            f"{name}: found {value!r}" for name, value in requested.items()
        )
        reason = " ".join(str(error).split()) or "no plugin for it, or no driver"
        raise ValueError(
            f"{text or 'JAX'}, but no device to use ({reason:.300}), "
            "expected a platform of this machine; install its plugin and driver, as in "
            f"diffkd_jax[cuda], or unset {' and '.join(requested) or 'JAX_PLATFORMS'} "
            "to run on what there is"
        ) from error


@contextlib.contextmanager
def run_settings() -> Iterator[None]:
    """Sets :data:`RUN_SETTINGS` in all threads; restores the old values at the end.

    Yields:
      Nothing; the run computes in the context.

    >>> with run_settings():
    ...     jax.config.jax_enable_x64
    False
    """
    before = {name: getattr(_settings, name) for name in RUN_SETTINGS}
    changed = {n: v for n, v in RUN_SETTINGS.items() if before[n] not in (v, None)}
    for name in changed:
        LOG.info("%s=%s is not used in a run", name.upper(), before[name])
    with contextlib.ExitStack() as stack:
        # Settings of this thread override those of the process.
        stack.enter_context(jax.transfer_guard("allow"))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.enable_x64(False))
        for name in changed:
            jax.config.update(name, RUN_SETTINGS[name])
            stack.callback(jax.config.update, name, before[name])
        yield


def run_tool(main: Callable[[], int]) -> int:
    """Runs a command of the package other than a run, such as an export of weights.

    The command gets what a run gets: streams that may be closed, the JAX settings
    :data:`RUN_SETTINGS`, and a check that there is a device.

    Args:
      main: the command; it returns its exit code.

    Returns:
      The exit code; 1 if there is no device.
    """
    streams.guard_streams()
    with run_settings():
        try:
            check_devices()
        except ValueError as error:
            console.say(f"error: {error}", error=True)
            return 1
        return main()


def describe_fault(error: BaseException, data: Any) -> str:
    """Describes in one line a lack of memory or a failed debugging check of JAX.

    Args:
      error: the error; its causes count too.
      data: the section ``data`` of the config, for the sizes in the message.

    Returns:
      The line, or "" if the error is of another kind.

    >>> describe_fault(KeyError("a"), data=None)
    ''
    """
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split())
        if _lacks_memory(cause, text):
            return _out_of_memory(text, data)
        if isinstance(cause, RuntimeError) and NO_THREAD in text:
            return (
                f"memory: found no room for another thread ({text:.100}); raise the "
                "limits on memory, processes and threads (ulimit -v, ulimit -u, or the "
                "container's), or lower data.num_workers"
            )
        if isinstance(cause, FloatingPointError):
            for name in ("jax_debug_nans", "jax_debug_infs"):
                if getattr(_settings, name):
                    return f"{name.upper()}: found {text:.300}; unset it to go on"
        # An error raised `from None` has a message for users already.
        hidden = cause.__suppress_context__
        cause = cause.__cause__ or (None if hidden else cause.__context__)
    return ""


def _lacks_memory(error: BaseException, text: str) -> bool:
    """Returns whether an error with this text means that memory is used up."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return bool(NO_MEMORY.search(text))
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    )


def _out_of_memory(text: str, data: Any) -> str:
    """Returns the message about a lack of memory, with the error's text."""
    fields = ("image_size", "train_size", "train_resize", "canvas", "resize")
    sizes = [f"data.{n}={size}" for n in fields if (size := getattr(data, n))]
    images = ", ".join(sizes) or "data.image_size"
    return (
        f"memory: found too little ({text or 'MemoryError':.200}), expected room for "
        f"data.batch_size={data.batch_size} and "
        f"data.eval_batch_size={data.eval_batch_size}; lower them, or the size of "
        f"images ({images})"
    )
