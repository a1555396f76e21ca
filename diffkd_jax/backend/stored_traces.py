"""Traced programs that are kept from run to run, beside the compiled ones.

Python builds the program of a training step by tracing it, and then the compiler's
cache is asked for the compiled one. Here the traced program is kept too, as the
StableHLO of ``jax.export``, under a key of all that the trace depends on. A cold start
compiles the program that it has written, so it runs exactly what a warm start runs.

Costs: 0.4 MB on disk for the quickstart, and the dependency flatbuffers. In a profile
the operations of a step lie below ``call_exported``; their lines in Python are kept.

Gains: a warm start of the quickstart's student takes 4.1 s and not 5.4 s, by
``PYTHONPATH=. python experiments/bench/first_step.py``.

Delete when: JAX keeps traces in its own cache, or a step is traced in 0.2 s.
"""

import hashlib
import json
import logging
import os
import pathlib
import platform
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax
from jax import export
from jaxtyping import PyTree

from .compilation_cache import traces_folder
from .compiler import has_onednn

LOG = logging.getLogger(__name__)
PACKAGE = pathlib.Path(__file__).parents[1]
# Settings of JAX with which a step has to run line by line in Python.
DEBUG_SETTINGS = ("jax_debug_nans", "jax_debug_infs", "jax_disable_jit")


def find_store(facts: Mapping[str, Any]) -> pathlib.Path | None:
    """Returns the path at which the traced programs of a run are kept.

    Each program adds its own ending to the path. Besides the facts, the path depends on
    the source of this package, the versions of JAX, Flax, optax, NumPy and Python, on
    the number of devices, on whether the compiler has oneDNN, and on JAX's settings.
    Code of anyone else is not part of it, so do not ask for a path if a run uses such
    code.

    Args:
      facts: all that the trace depends on besides its arguments, as JSON values: the
        config of the run and a description of its data.

    Returns:
      The path. None if no traced programs are kept: without the folder of
      :func:`diffkd_jax.backend.compilation_cache.keep_programs`, on other platforms
      than CPU, with several processes, with settings for debugging, or if the facts
      hold other values than those of JSON.

    >>> find_store({"seed": min}) is None
    True
    """
    settings: Any = jax.config
    folder = traces_folder()
    if folder is None or jax.default_backend() != "cpu" or jax.process_count() > 1:
        return None
    if any(getattr(settings, name) for name in DEBUG_SETTINGS):
        return None
    try:
        described = json.dumps(facts, sort_keys=True)
    except TypeError as error:  # such as a weight that is a function
        LOG.debug("traced programs are not kept: %s", error)
        return None
    versions = [m.__version__ for m in (jax, jaxlib, flax, optax, np)]
    digest = hashlib.sha256(_sources())
    # Some convolutions are written in another way for several devices and for oneDNN.
    machine = (platform.python_version(), jax.device_count(), has_onednn())
    for fact in (*versions, *machine, described, _settings()):
        digest.update(f"{fact}\n".encode())
    return folder / digest.hexdigest()[:32]


def _sources() -> bytes:
    """Returns a digest of all Python files of this package."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE)} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.digest()


def _settings() -> str:
    """Returns JAX's settings as text, without those of its cache and its log."""
    values: Mapping[str, Any] = jax.config.values
    names = sorted(n for n in values if "cache" not in n and "log" not in n)
    return "\n".join(f"{name} {values[name]!r}" for name in names)


def keep_step_traces(
    step: Callable[..., Any], store: pathlib.Path | None
) -> Callable[..., Any]:
    """Returns a training step that reads its program from a file instead of tracing it.

    Use it within ``jax.jit``. A step that is not in the store yet is traced and written
    to it.

    Args:
      step: ``(state, teacher, batch, *, distill) -> (state, metrics)``. The new state
        has the structure of the old one. Metrics are a dict of arrays.
      store: from :func:`find_store`; None to return the step itself.

    Returns:
      A function with the same arguments and results.
    """
    if store is None:
        return step

    def stored(
        state: PyTree, teacher: PyTree, batch: PyTree, *, distill: bool
    ) -> tuple[PyTree, PyTree]:
        # Only lists and dicts are written to a file, none of the classes of a state.
        def on_leaves(*leaves: jax.Array) -> tuple[list[jax.Array], PyTree]:
            new, metrics = step(*jax.tree.unflatten(structure, leaves), distill=distill)
            return jax.tree.leaves(new), metrics

        leaves, structure = jax.tree.flatten((state, teacher, batch))
        program = _load_or_trace(on_leaves, leaves, store, f"{distill} {structure}")
        new_leaves, metrics = program(*leaves)
        return jax.tree.unflatten(jax.tree.structure(state), new_leaves), metrics

    return stored


def keep_init_trace(
    init: Callable[..., PyTree], shapes: PyTree, store: pathlib.Path | None
) -> Callable[..., PyTree]:
    """Returns an initialisation that reads its program from a file.

    Args:
      init: ``seed -> state``.
      shapes: shapes of the state.
      store: as for :func:`keep_step_traces`.

    Returns:
      A function with the same argument and result.
    """
    if store is None:
        return init
    structure = jax.tree.structure(shapes)

    def stored(seed: jax.Array) -> PyTree:
        on_leaves = lambda seed: jax.tree.leaves(init(seed))
        program = _load_or_trace(on_leaves, [seed], store, f"init {shapes}")
        return jax.tree.unflatten(structure, program(seed))

    return stored


def _load_or_trace(
    function: Callable[..., PyTree],
    leaves: list[Any],
    store: pathlib.Path,
    description: str,
) -> Callable[..., PyTree]:
    """Returns the program of a function for arrays of given shapes.

    It is the function itself if its program cannot be written to a file.
    """
    shapes = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=jax.typeof(x).weak_type)
        for x in leaves
    ]
    digest = hashlib.sha256(f"{description} {shapes}".encode()).hexdigest()[:16]
    file = store.with_name(f"{store.name}-{digest}-cache")
    content = _read(file)
    if content:
        return export.deserialize(bytearray(content)).call
    try:
        program = export.export(jax.jit(function))(*shapes)
        content = bytes(program.serialize())
    except Exception as error:  # of the function, which raises it again; or of JAX
        LOG.debug("a traced program is not kept: %s", error)
        return function
    try:
        _write(file, content)
    except OSError as error:
        LOG.debug("a traced program is not kept: %s", error)
    return program.call


def _read(file: pathlib.Path) -> bytes:
    """Returns the program in a file, or b"" if there is none or it is damaged."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        LOG.debug("a traced program is traced again: %s", error)
        return b""
    checksum, program = content[:32], content[32:]
    if hashlib.sha256(program).digest() != checksum:
        LOG.debug("a traced program is traced again: %s is damaged", file)
        return b""
    return program


def _write(file: pathlib.Path, program: bytes) -> None:
    """Writes a program with its checksum, whole or not at all."""
    # By the ending, what a killed process leaves is deleted with the oldest programs.
    with tempfile.NamedTemporaryFile(
        dir=file.parent, suffix="-cache", delete=False
    ) as temporary:
        try:
            temporary.write(hashlib.sha256(program).digest() + program)
            temporary.close()
            os.replace(temporary.name, file)
        except OSError:
            os.unlink(temporary.name)
            raise
