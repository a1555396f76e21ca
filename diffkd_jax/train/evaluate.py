"""Scores of a model on a split: evidence of its batches, added up and gathered."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ..data import pipeline
from ..data.split import Split
from ..tasks import Evidence
from . import sharding


def compile_evidence(
    evidence: Callable, apply: Callable, normalise: Callable, mesh
) -> Callable:
    """``(variables, batch) -> (sums, rows)``, the same on every device.

    Args:
      evidence: ``(outputs, batch) -> Evidence``.
      apply: ``(variables, batch) -> outputs``.
      normalise: of a batch, on the device.
      mesh: of the devices.

    ``sums`` hold ``mask`` too, the examples that count; ``rows`` hold ``index`` and
    ``mask`` of the batch, if the task has any.
    """

    def forward(variables, batch):
        batch = normalise(batch)
        seen = evidence(apply(variables, batch), batch)
        rows = dict(seen.rows)
        if rows:
            rows |= {"index": batch["index"], "mask": batch["mask"]}
        return {**seen.sums, "mask": batch["mask"].sum()}, rows

    return sharding.jit_forward(forward, mesh)


def gather(
    forward: Callable, variables: Any, batches: Iterable[Mapping], mesh
) -> Evidence | None:
    """The evidence of all batches, rows in the order of ``index``.

    Args:
      forward: from :func:`compile_evidence`.
      variables: what it is applied to.
      batches: of this process, see :func:`diffkd_jax.data.pipeline.eval_batches`.
      mesh: of the devices.

    Returns:
      Sums as float64 or int64, or None where no example counts.
    """
    parts: list[Any] = []
    for batch in batches:
        parts.append(forward(variables, sharding.put_batch(batch, mesh)))
        jax.block_until_ready(parts[-2:-1])  # else batches pile up on the device
    sums, rows = zip(*jax.device_get(parts), strict=True)
    total = jax.tree.map(_sum, *sums)
    if not total.pop("mask"):
        return None
    joined = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    if joined:
        counted = np.flatnonzero(joined.pop("mask"))
        order = counted[np.argsort(joined.pop("index")[counted], kind="stable")]
        joined = jax.tree.map(lambda x: x[order], joined)
    return Evidence(total, joined)


def _sum(*values: np.ndarray) -> np.ndarray:
    whole = np.issubdtype(values[0].dtype, np.integer)
    return np.sum(np.asarray(values, np.int64 if whole else np.float64), 0)


def batch_size(asked: int, examples: int, devices: int) -> int:
    """Examples a batch: as asked, no more than there are, a multiple of the devices.

    >>> batch_size(100, 2000, 8), batch_size(256, 5, 8)
    (104, 8)
    """
    return -(-min(asked, examples) // devices) * devices


def counted_batches(
    split: Split, transform: Callable, mesh, unreadable: set[int], options: Mapping
) -> Iterator[Mapping]:
    """Batches of this process that hold every example once.

    Args:
      split: to evaluate on.
      transform: of a batch, on the host.
      mesh: of the devices.
      unreadable: rows that did not decode, named once; changed in place.
      options: the section ``data`` of a config.
    """
    batches = pipeline.eval_batches(
        split,
        transform,
        batch_size=batch_size(
            options["eval_batch_size"],
            split.size,
            len(mesh.local_devices) * jax.process_count(),
        ),
        num_threads=options["num_threads"],
        num_workers=options["num_workers"],
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch in batches:
        skipped = batch.pop("skipped")
        pipeline.note_skipped(skipped, unreadable, split, options["max_unreadable"])
        yield batch
