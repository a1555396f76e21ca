"""Shared by all tests: devices, run-time shape checks of ``core``, golden files."""

import os
import pathlib
import tempfile

# Eight simulated devices, so that sharded runs are tested everywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jaxtyping

jaxtyping.install_import_hook(
    ["diffkd_jax.core.diffusion", "diffkd_jax.core.distances"], "beartype.beartype"
)
# Tests compile the same programs again and again.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="jax-cache-"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

GOLDEN = pathlib.Path(__file__).parent / "golden"
