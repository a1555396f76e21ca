"""Several processes train as one does, and end together."""

import os
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from diffkd_jax.config.machine import Distributed
from diffkd_jax.models.model import by_path
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster import joining
from diffkd_jax.train.outputs.metrics import read_rows
from diffkd_jax.train.workdir.checkpoint_manager import open_checkpoints
from diffkd_jax.weights.files import load_model
from diffkd_jax.weights.output_files import EMA_FILE, MODEL_FILE
from tests.helpers.configs import ROOT, tiny_command, tiny_config

LONG = {"method": "none", "train.epochs": 500.0, "eval_every_epochs": 100.0}


@pytest.fixture
def started(tmp_path):
    """Returns ``(count, devices, fields) -> processes``; kills them at the end."""
    running = []

    def start(count, devices, fields, workdir, *config):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        joined = {"num_devices": 0, "distributed.enabled": True}
        command = tiny_command(workdir, fields | joined, *config)
        for i in range(count):
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(i),
            }
            running.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return running

    yield start
    for process in running:
        process.kill()
        process.communicate()


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


def ended(running, timeout=300):
    return [process.communicate(timeout=timeout) for process in running]


RUNS = ("one", "many")
SPLIT = {"mesh.fsdp": 4, "mesh.fsdp_min_bytes": 64}  # over all processes


@pytest.mark.parametrize(
    ("count", "method", "mesh"),
    [
        (2, "kd", {}),
        pytest.param(2, "diffkd_logits", SPLIT, marks=pytest.mark.slow),
        pytest.param(4, "diffkd_logits", {}, marks=pytest.mark.slow),
    ],
)
def test_several_processes_give_the_numbers_of_one(
    count, method, mesh, finished, started, tmp_path
):
    """Also with augmentation, norm groups, a moving average and draws of DiffKD."""
    fields = {
        "method": method,
        "train.norm_group_size": 8,  # over processes too
        "train.ema_decay": 0.9,
        "data.augment": "crop_flip",
        "log_every_steps": 1,
        "teacher.init": str(finished / "teacher"),
    }
    # The one is a command as well: compiled as here it would be another program.
    (alone,) = started(1, 4, fields, tmp_path / "one")
    texts = ended([alone])
    assert alone.returncode == 0, texts
    running = started(count, 4 // count, fields | mesh, tmp_path / "many")[1:]
    texts = ended(running)
    assert [process.returncode for process in running] == [0] * count, texts
    # The first one speaks for all.
    assert "report in" in texts[0][0]
    assert not any("report in" in out for out, _ in texts[1:])
    rows = [read_rows(tmp_path / n / "metrics.jsonl") for n in RUNS]
    assert len(rows[0]) == len(rows[1]) == 10
    for one, many in zip(*rows, strict=True):
        assert one.keys() == many.keys()
        for name in one.keys() - {"images_per_second"}:
            # Sums over processes have another order; other draws give 1e-2. Losses near
            # 0.02 have lost a digit to their terms.
            np.testing.assert_allclose(
                one[name], many[name], rtol=1e-5, atol=1e-6, err_msg=name
            )
    files = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in RUNS]
    assert files[0] == files[1]
    for name in (MODEL_FILE, EMA_FILE):
        pair = [
            by_path(
                load_model(
                    tmp_path / n / name, "tests.helpers.own_model:make"
                ).variables
            )
            for n in RUNS
        ]
        for path, array in pair[0].items():
            np.testing.assert_allclose(array, pair[1][path], atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_exports_and_figures_hold_the_arrays_of_all_processes(started, tmp_path):
    """The state behind masks, trajectories and exports is split over two processes."""
    fields = {
        "mesh.fsdp": 2,
        "mesh.fsdp_min_bytes": 64,
        "teacher.model": "deeplabv3_resnet8",
        "methods.diffkd_map.num_steps": 1,
    }
    running = started(
        2, 1, fields, tmp_path, "configs/segmentation_quickstart.py:smoke"
    )
    texts = ended(running)
    assert [process.returncode for process in running] == [0, 0], texts
    drawn = {file.name for file in (tmp_path / "plots").iterdir()}
    assert drawn >= {"masks.png", "iou.png", "trajectory_logits.png"}
    assert load_model(tmp_path).meta["model"] == "deeplabv3_resnet8"


def test_a_signal_to_one_process_stops_all_and_another_number_resumes(
    started, tmp_path
):
    """One process gets SIGHUP, as from a lost connection; the other stops too."""
    running = started(2, 2, LONG, tmp_path)
    wait_for(running[0], "step 10/")
    running[1].send_signal(signal.SIGHUP)
    (out, _), (_, err) = ended(running)
    codes = [128 + signal.SIGTERM, 128 + signal.SIGHUP]
    assert [process.returncode for process in running] == codes, err
    step = int(out.split("stopped at step ")[1].split()[0])
    config = tiny_config(**LONG)
    with open_checkpoints(tmp_path, build(config).task) as checkpoints:
        assert checkpoints.latest_step() == step
    alone = started(1, 8, LONG, tmp_path)[-1]
    wait_for(alone, f"resuming at step {step}")
    alone.send_signal(signal.SIGINT)
    assert "the same command goes on" in alone.communicate(timeout=60)[0]
    assert alone.returncode == 128 + signal.SIGINT


def test_a_bug_of_the_first_process_ends_all_with_its_traceback(started, tmp_path):
    defaults = {"data.name": "tests.helpers.own_code:broken_on_the_first"}
    defaults |= {"data.num_classes": 0, "data.limit": 0, "distributed.lost_seconds": 15}
    (_, err), (_, other) = ended(
        running := started(2, 1, LONG | defaults, tmp_path), 100
    )
    assert [process.returncode for process in running] == [1, 1]
    assert "LookupError: a slip" in err
    assert "Traceback" in err
    assert "error: process 0 ended: a slip" in other


def test_a_second_ctrl_c_ends_the_first_process_at_once(started, tmp_path):
    running = started(2, 1, LONG | {"distributed.lost_seconds": 15}, tmp_path)
    wait_for(running[0], "step 10/")
    running[0].send_signal(signal.SIGINT)
    time.sleep(0.02)
    running[0].send_signal(signal.SIGINT)
    _, err = running[0].communicate(timeout=30)
    assert running[0].returncode == 128 + signal.SIGINT, err


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]
)
def test_a_process_that_dies_or_hangs_ends_the_others(number, started, tmp_path):
    running = started(2, 1, LONG | {"distributed.lost_seconds": 5}, tmp_path)
    wait_for(running[0], "step 10/")
    running[1].send_signal(number)
    _, err = running[0].communicate(timeout=30)
    assert running[0].returncode == 1
    assert "error: process 1 has given no sign of life for 5 s; start all" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_the_death_of_the_first_process_ends_the_others(started, tmp_path):
    """JAX ends them, with its own message."""
    running = started(2, 1, LONG | {"distributed.lost_seconds": 5}, tmp_path)
    wait_for(running[0], "step 10/")
    running[0].send_signal(signal.SIGKILL)
    running[1].communicate(timeout=30)
    assert running[1].returncode


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(started, tmp_path):
    """The first process fails, because it cannot write; the other would wait for it."""
    blocked = tmp_path / ".metrics.jsonl.partial"
    blocked.mkdir()
    running = started(2, 1, LONG, tmp_path)
    texts = ended(running, 90)
    assert [process.returncode for process in running] == [1, 1], texts
    assert "error: process 0 ended: " in texts[1][1]
    assert all(str(blocked) in err for _, err in texts)


def options(**fields):
    return Distributed(**fields)


def test_the_config_overrides_the_environment():
    environment = {
        "JAX_COORDINATOR_ADDRESS": "there:1",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "3",
        "JAX_LOCAL_DEVICE_IDS": "0,1",
    }
    expected = {
        "coordinator_address": "there:1",
        "num_processes": 4,
        "process_id": 3,
        "local_device_ids": [0, 1],
    }
    assert joining.read_arguments(options(), environment) == expected
    own = options(coordinator="here:2", process_id=0, local_devices=(5,))
    assert joining.read_arguments(own, environment) == expected | {
        "coordinator_address": "here:2",
        "process_id": 0,
        "local_device_ids": [5],
    }
    assert joining.read_arguments(options(), {}) == {}


@pytest.mark.parametrize(
    ("fields", "environment", "message"),
    [
        ({"coordinator": "here"}, {}, "coordinator: found 'here', expected 'address:"),
        ({"coordinator": "a:1"}, {}, "process_id: found -1 of .* 0, expected"),
        ({"coordinator": "a:1", "num_processes": 2}, {}, "process_id: found -1 of"),
        ({}, {"JAX_PROCESS_ID": "first"}, "found JAX_PROCESS_ID='first', expected"),
    ],
)
def test_missing_and_wrong_settings_of_processes_are_named(
    fields, environment, message
):
    with pytest.raises(ValueError, match=rf"^distributed\..*{message}"):
        joining.read_arguments(options(**fields), environment)


SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "2",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
}


@pytest.mark.parametrize("cluster", [SLURM, OPEN_MPI], ids=["slurm", "open_mpi"])
@pytest.mark.parametrize("alone", [True, False])
def test_one_process_per_host_gets_all_devices_of_its_host(cluster, alone, monkeypatch):
    """JAX finds the cluster by itself, and would show such a process one device."""
    from jax._src import distributed

    some = {"SLURM_NTASKS": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    environment = cluster | (
        {} if alone else {k: some[k] for k in some.keys() & cluster}
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    actual = {}

    def stop(self, coordinator_address=None, num_processes=None, process_id=None,
             local_device_ids=None, *rest, **options):  # fmt: skip
        clusters = distributed.clusters.ClusterEnv
        actual["joined"] = clusters.auto_detect_unset_distributed_params(
            coordinator_address, num_processes, process_id, local_device_ids, None, 1
        )

    monkeypatch.setattr(distributed.State, "initialize", stop)
    monkeypatch.setattr(
        distributed.xla_bridge, "backends_are_initialized", lambda: False
    )
    note = lambda name, value: actual.setdefault(name, value)
    monkeypatch.setattr(jax.config, "update", note)
    joining.start_processes(options(enabled=True), environment)
    address, count, index, _ = actual["joined"]
    assert address.startswith(("node001:", "10.96.0.1:"))
    assert (count, index) == (int(environment.get("SLURM_NTASKS", 2)), 1)
    assert actual.get("jax_cuda_visible_devices") == ("all" if alone else None)


def test_a_missing_cluster_is_named(tmp_path):
    command = tiny_command(tmp_path, {"distributed.enabled": True})
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: distributed: found no cluster to join")


@pytest.mark.slow
def test_processes_that_do_not_start_are_named(started, tmp_path):
    fields = LONG | {"distributed.start_seconds": 3, "distributed.num_processes": 3}
    running = started(2, 1, fields, tmp_path)
    texts = ended(running, 60)
    assert [process.returncode for process in running] == [1, 1]
    for _, err in texts:
        assert "error: distributed.start_seconds: found processes that" in err
