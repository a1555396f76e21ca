"""The directory of a run: whose it is, and files that appear whole."""

import itertools
import json
import pathlib
from typing import Any

from .sharding import is_primary

# Fields that may change between two calls on the same workdir.
FREE_FIELDS = (
    "mode",
    "dry_run",
    "log_every_steps",
    "compare",
    "num_devices",
    "distributed.enabled",
    "distributed.coordinator",
    "distributed.num_processes",
    "distributed.process_id",
    "data.num_threads",
    "data.num_workers",
    "data.max_unreadable",
    "teacher.workdir",
)


def claim_workdir(config, workdir: pathlib.Path) -> None:
    """Records the config in a new workdir, or checks that an old one is the same.

    A workdir without a checkpoint or a summary has nothing to lose and counts as new.

    Raises:
      ValueError: the workdir holds a run of another config; nothing is changed.
    """
    record = workdir / "config.json"
    wanted = json.loads(json.dumps(config.to_dict(), default=str))
    has_run = (workdir / "summary.json").exists() or any(
        path.name.isdigit() for path in (workdir / "checkpoints").glob("*")
    )
    if not (record.exists() and has_run):
        if is_primary():
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(record, wanted)
        return
    found = _flat(json.loads(record.read_text()))
    expected = _flat(wanted)
    different = [
        f"  {name}: found {found.get(name, 'nothing')!r}, expected "
        f"{expected.get(name, 'nothing')!r}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name) and name not in FREE_FIELDS
    ]
    if different:
        shown = "\n".join(itertools.islice(different, 10))
        raise ValueError(
            f"workdir: {workdir} holds a run of another config; choose another "
            f"--workdir or remove it\n{shown}"
        )


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a file that is never seen half-written."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
