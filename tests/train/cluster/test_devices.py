"""Faults of JAX and its devices are one line; a run ignores strict settings."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.train.cluster import devices
from tests.helpers.configs import set_flags, tiny_config

STRICT = {
    "jax_transfer_guard": "disallow",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_enable_x64": True,
}


@pytest.fixture
def strict():
    """Makes the JAX settings of the process strict, as environment variables could."""
    names = [*STRICT, *(f"jax_transfer_guard_{way}" for way in WAYS)]
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in STRICT.items():
        jax.config.update(name, value)
    yield {name: getattr(jax.config, name) for name in names}
    for name in reversed(names):
        jax.config.update(name, before[name])
    jax.config.update("jax_transfer_guard", "allow")


WAYS = ("host_to_device", "device_to_device", "device_to_host")


def test_a_run_ignores_strict_settings_and_restores_them(strict):
    with devices.run_settings():
        x = jnp.ones((2, 3)) + np.ones(3, np.int32)
        assert x.dtype == jnp.float32
        assert float(x[0, 0]) == 2.0
    assert {name: getattr(jax.config, name) for name in strict} == strict
    with (
        jax.transfer_guard("disallow"),
        jax.numpy_rank_promotion("raise"),
        devices.run_settings(),
    ):
        jnp.ones((2, 3)) + np.ones(3, np.float32)


def test_a_run_trains_under_strict_settings(strict, tmp_path):
    config = tiny_config(**{"method": "none", "train.max_steps": 2})
    main.run(config, str(tmp_path))
    assert (tmp_path / "summary.json").exists()


FAULTS = [
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9"), "9"),
    (MemoryError("Unable to allocate 12. GiB for an array"), "12. GiB"),
    (MemoryError(), "MemoryError"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate"),
    (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: x"), "CUDA_"),
]


@pytest.mark.parametrize(("error", "found"), FAULTS)
def test_a_lack_of_memory_names_what_to_lower(error, found):
    data = tiny_config(**{"data.image_size": 96}).data
    wrapped = RuntimeError("of a library")
    wrapped.__cause__ = error
    for raised in (error, wrapped):
        line = devices.describe_fault(raised, data)
        assert line.startswith("memory: found too little (")
        assert found in line
        assert "data.batch_size=16" in line
        assert "data.eval_batch_size=32" in line
        assert "data.image_size=96" in line


def test_other_errors_are_not_reported_as_a_lack_of_memory():
    """TensorStore says RESOURCE_EXHAUSTED for a full disk too."""
    data = tiny_config().data
    in_words = OSError("workdir: found No space left on device")
    in_words.__context__ = FAULTS[0][0]
    in_words.__suppress_context__ = True
    for error in (
        RuntimeError("a bug"),
        ValueError("RESOURCE_EXHAUSTED: No space left"),
        FloatingPointError("of the user's own"),
        in_words,
    ):
        assert devices.describe_fault(error, data) == ""


def test_a_lack_of_threads_is_named():
    error = RuntimeError("can't start new thread")
    line = devices.describe_fault(error, tiny_config().data)
    assert line.startswith("memory: found no room for another thread (can't start")


def test_a_debugging_setting_that_ends_a_run_is_named():
    with jax.debug_nans(True):
        line = devices.describe_fault(FloatingPointError("nan in mul"), None)
    assert line.startswith("JAX_DEBUG_NANS: found nan in mul")


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no\ndriver")])
def test_a_platform_without_a_device_is_named(error, monkeypatch):
    def find():
        raise error

    monkeypatch.setattr(jax, "devices", find)
    with pytest.raises(ValueError, match=r"^JAX_PLATFORMS: found 'cpu', but no device"):
        devices.check_devices()


def test_a_default_device_that_does_not_exist_is_named(monkeypatch):
    before = jax.config.jax_default_device
    monkeypatch.setenv("JAX_PLATFORM_NAME", "gpu")
    try:
        jax.config.update("jax_default_device", "gpu")
        with pytest.raises(ValueError, match="JAX_DEFAULT_DEVICE: found 'gpu'") as info:
            devices.check_devices()
    finally:
        jax.config.update("jax_default_device", before)
    assert "unset JAX_PLATFORMS and JAX_PLATFORM_NAME and" in str(info.value)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("12 GiB"), "error: memory: found too little (12 GiB)"),
        (SystemExit(0), "error: found SystemExit(0) in "),
        (None, ""),
    ],
)
def test_an_expected_error_is_one_line_and_a_bug_is_raised(
    error, line, monkeypatch, capsys
):
    def run(*given, **options):
        raise error or AssertionError("a bug")

    set_flags(monkeypatch, tiny_config())
    monkeypatch.setattr(main, "run", run)
    with pytest.raises(SystemExit if line else AssertionError):
        main.main([])
    assert capsys.readouterr().err.startswith(line)
