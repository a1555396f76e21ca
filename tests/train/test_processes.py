"""Several processes train as one does."""

import os
import socket
import subprocess
import sys

import numpy as np

from diffkd_jax import main
from diffkd_jax.train.metrics import read_rows
from tests.train.conftest import ROOT, tiny_config

FLAGS = {"method": "none", "data.augment": "none", "train.epochs": 1.0}


def test_two_processes_give_the_losses_of_one(tmp_path):
    main.run(tiny_config(**FLAGS), str(tmp_path / "one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ROOT / "tests/train/tiny.py"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, "-m", "diffkd_jax.main", f"--config={config}"]
    command += [f"--config.{name}={value}" for name, value in FLAGS.items()]
    command += ["--config.num_devices=0", f"--workdir={tmp_path / 'two'}"]
    command += ["--config.distributed.enabled=true"]
    command += [f"--config.distributed.coordinator=127.0.0.1:{port}"]
    command += ["--config.distributed.num_processes=2"]
    processes = [
        subprocess.Popen(
            [*command, f"--config.distributed.process_id={i}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    # The first one speaks for both.
    assert "report in" in texts[0]
    assert "report in" not in texts[1]
    rows = [read_rows(tmp_path / n / "metrics.jsonl") for n in ("one", "two")]
    assert len(rows[0]) == len(rows[1])
    for one, two in zip(*rows, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"images_per_second"}:
            np.testing.assert_allclose(one[name], two[name], rtol=1e-3, err_msg=name)
    files = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in ("one", "two")]
    assert files[0] == files[1]


def test_no_cluster_is_named(tmp_path):
    config = ROOT / "tests/train/tiny.py"
    command = [sys.executable, "-m", "diffkd_jax.main", f"--config={config}"]
    command += ["--config.distributed.enabled=true", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: distributed: found no cluster to join")
