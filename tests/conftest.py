"""Shared by all tests: run-time shape checks of ``core``, golden files."""

import os
import pathlib

# Eight simulated devices, so that sharded runs are tested everywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jaxtyping

jaxtyping.install_import_hook(
    ["diffkd_jax.core.diffusion", "diffkd_jax.core.distances"], "beartype.beartype"
)

GOLDEN = pathlib.Path(__file__).parent / "golden"
