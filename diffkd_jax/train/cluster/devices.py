"""What JAX and its devices cannot do, in a line, and JAX's settings during a run."""

import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ...io import console

# What XLA and the libraries of GPUs say, as errors of one type.
NO_MEMORY = re.compile(
    "RESOURCE_EXHAUSTED|OUT_OF_MEMORY|out of memory|ALLOC_FAILED|bad_alloc",
    re.IGNORECASE,
)
NO_THREAD = "can't start new thread"  # of Python
LOG = logging.getLogger(__name__)
_settings: Any = jax.config  # the names of its settings are not declared
# Settings of the environment or the caller that would change what a config computes or
# forbid what a run does: it casts, broadcasts and moves arrays on purpose.
OWN_SETTINGS: dict[str, Any] = {
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
    "jax_transfer_guard": "allow",  # sets the three, so it is the first to be restored
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_enable_x64": False,
    "jax_no_tracing": False,
}
# Settings that ask for a device, as far as they are set.
PLATFORM_SETTINGS = ("jax_platforms", "jax_platform_name", "jax_default_device")


def check_devices() -> None:
    """Raises if JAX has no device of the requested platform.

    Raises:
      ValueError: names the platform, and what to do.
    """
    try:
        jax.devices()
        jax.device_put(0).block_until_ready()  # JAX_DEFAULT_DEVICE is looked at here
    except Exception as error:  # of several types, by platform and by what is missing
        asked = {
            name.upper(): getattr(_settings, name, None) or os.environ.get(name.upper())
            for name in PLATFORM_SETTINGS
        }
        named = {name: str(value) for name, value in asked.items() if value}
        found = ", ".join(f"{name}: found {value!r}" for name, value in named.items())
        reason = " ".join(str(error).split()) or "no plugin for it, or no driver"
        raise ValueError(
            f"{found or 'JAX'}, but no device to use ({reason:.300}), "
            "expected a platform of this machine; install its plugin and driver, as in "
            f"diffkd_jax[cuda], or unset {' and '.join(named) or 'JAX_PLATFORMS'} to "
            "run on what there is"
        ) from error


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Sets :data:`OWN_SETTINGS` in all threads, and restores what was set before."""
    before = {name: getattr(_settings, name) for name in OWN_SETTINGS}
    changed = {n: v for n, v in OWN_SETTINGS.items() if before[n] not in (v, None)}
    for name in changed:
        LOG.info("%s=%s is not used in a run", name.upper(), before[name])
    with contextlib.ExitStack() as stack:
        # Those of this thread go before those of the process.
        stack.enter_context(jax.transfer_guard("allow"))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.enable_x64(False))
        for name in changed:
            jax.config.update(name, OWN_SETTINGS[name])
            stack.callback(jax.config.update, name, before[name])
        yield


def run_tool(main: Callable[[], int]) -> int:
    """Runs a command with guarded streams, a run's JAX settings and a device.

    Args:
      main: the command; it returns its exit code.

    Returns:
      The exit code, 1 if there is no device.
    """
    console.guard_streams()
    with own_settings():
        try:
            check_devices()
        except ValueError as error:
            console.say(f"error: {error}", error=True)
            return 1
        return main()


def describe_fault(error: BaseException, data: Any) -> str:
    """Returns one line for too little memory or a debugging check of JAX, else "".

    Args:
      error: as raised; its causes are looked at too.
      data: the section ``data`` of the config, for its sizes.
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
        # An error from None is in words already.
        hidden = cause.__suppress_context__
        cause = cause.__cause__ or (None if hidden else cause.__context__)
    return ""


def _lacks_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, jax.errors.JaxRuntimeError):
        return bool(NO_MEMORY.search(text))
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    )


def _out_of_memory(text: str, data: Any) -> str:
    sizes = ("image_size", "train_size", "train_resize", "canvas", "resize")
    given = [f"data.{n}={size}" for n in sizes if (size := getattr(data, n))]
    images = ", ".join(given) or "data.image_size"
    return (
        f"memory: found too little ({text or 'MemoryError':.200}), expected room for "
        f"data.batch_size={data.batch_size} and "
        f"data.eval_batch_size={data.eval_batch_size}; lower them, or the size of "
        f"images ({images})"
    )
