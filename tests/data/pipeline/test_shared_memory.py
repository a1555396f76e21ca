"""What a worker writes into its memory is what arrives, for as long as it is held."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.data.pipeline import shared_memory
from diffkd_jax.data.pipeline.shared_memory import make_receiver, make_sender

pytestmark = pytest.mark.skipif(not shared_memory.SUPPORTED, reason="no memfd")


def batch_of(value, size=100):
    """With each kind of field there is; pictures from ``value`` on."""
    image = (np.arange(6 * size).reshape(6, size) + value).astype(np.uint8)
    boxes = np.full((6, 3, 4), value, np.float32)[:, ::2]
    target = {"boxes": boxes, "none": np.zeros((6, 0), np.int32)}
    return {"image": image, "target": target, "mask": np.float32(1), "name": ["a"]}


def mapped():
    """How many buffers this process sees, those of both sides."""
    return pathlib.Path("/proc/self/maps").read_text().count("diffkd_jax batch")


def addresses(batches):
    return {batch["image"].ctypes.data for batch in batches}


def test_a_batch_arrives_as_it_was():
    send, receive = make_sender(), make_receiver()
    for value in (1, 2):
        sent = batch_of(value)
        got = receive(send(sent))
        assert got.keys() == sent.keys()
        jax.tree.map(np.testing.assert_array_equal, got, sent)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(sent), strict=True):
            assert type(x) is type(y)
            assert isinstance(x, str) or (x.shape, x.dtype) == (y.shape, y.dtype)
            assert not isinstance(x, np.ndarray) or x.ctypes.data % 64 == 0


def test_memory_is_used_again_when_no_array_is_left():
    send, receive = make_sender(), make_receiver()
    held = [receive(send(batch_of(value))) for value in range(3)]
    assert len(addresses(held)) == 3
    part = held[1]["target"]["boxes"][2:].T  # a view of a view
    at = addresses(held[1:2])
    del held[1]
    other = receive(send(batch_of(7)))
    assert not addresses([other]) & (at | addresses(held))
    np.testing.assert_array_equal(part, 1)
    del part
    again = receive(send(batch_of(8)))
    assert addresses([again]) == at
    for value, batch in zip((0, 2, 7, 8), (*held, other, again), strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, batch_of(value))


def test_what_a_device_holds_is_not_written_again():
    """On a CPU it computes with the memory itself."""
    send, receive = make_sender(), make_receiver()
    image = jax.device_put(receive(send(batch_of(1, 4096)))["image"])
    for value in (2, 3):
        receive(send(batch_of(value, 4096)))
    np.testing.assert_array_equal(image, batch_of(1, 4096)["image"])


@jax.jit
def slow(image):
    """The picture, read once more after a while."""
    x = jnp.full((300, 300), 1e-3) + image[0, 0]
    long = jax.lax.fori_loop(0, 200, lambda _, x: x @ x / 300, x)
    return image + jnp.minimum(jnp.abs(long.sum()), 0).astype(image.dtype)


def test_what_a_program_still_reads_is_not_written_again():
    """It is given the memory itself, and the call returns before it has run."""
    send, receive = make_sender(), make_receiver()
    jax.block_until_ready(slow(batch_of(0, 4096)["image"]))
    image = slow(receive(send(batch_of(1, 4096)))["image"])
    for value in (2, 3):
        receive(send(batch_of(value, 4096)))
    np.testing.assert_array_equal(image, batch_of(1, 4096)["image"])


def test_memory_that_has_become_too_small_is_dropped():
    send, receive = make_sender(), make_receiver()
    receive(send(batch_of(0)))
    files, before = len(os.listdir("/proc/self/fd")), mapped()
    held = [receive(send(batch_of(value))) for value in range(3)]
    assert mapped() > before
    del held
    for size in (3000, 9000, 200, 50_000):
        got = receive(send(batch_of(1, size)))
        jax.tree.map(np.testing.assert_array_equal, got, batch_of(1, size))
        del got
    assert len(os.listdir("/proc/self/fd")) == files
    # What the sender has dropped is mapped on neither side.
    assert mapped() == before


def test_a_worker_that_is_gone_is_named():
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    handed = make_sender()(batch_of(1))
    gone = dataclasses.replace(handed, process=ended.pid)
    with pytest.raises(ChildProcessError, match=f"found worker process {ended.pid} go"):
        make_receiver()(gone)
