"""State dicts in checkpoints: the entry that holds the weights, and their names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .pickled_tensors import Tensor

LOG = logging.getLogger(__name__)

# Keys under which checkpoints hold the state dict of the model, best first.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
# Keys under which they hold its moving average.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
# Prefixes that wrappers of a module add to its names: DataParallel, torch.compile, and
# trainers that hold the module as an attribute.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "student.")


def choose_weights(path: Path, content: Any, weights: str = "") -> dict[str, Any]:
    """Returns the tensors of one set of weights in a checkpoint, by name.

    If the set is an entry of the file, such as "state_dict", its name is logged.

    Args:
      path: the file, for messages.
      content: the content of the file: a mapping of tensors, or of such mappings.
      weights: "ema" for the moving average; "" for the weights themselves, or for the
        moving average if the file holds nothing else.

    Raises:
      ValueError: the file holds no such set, or ``weights`` is neither "" nor "ema".

    >>> content = {"epoch": 3, "state_dict": {"fc.bias": np.ones(2)}}
    >>> list(choose_weights(Path("file.pth"), content))
    ['fc.bias']
    """
    if weights not in ("", "ema"):
        raise ValueError(f"weights: found {weights!r}, expected '' or 'ema'")
    sets = {"": content} if isinstance(content, Mapping) else {}
    sets |= {
        name: sets[""][name]
        for name in (*_WRAPPERS, *_AVERAGES)
        if name in sets.get("", ())
    }
    candidates = {name: _tensors(sets[name], 2 if name else 1) for name in sets}
    named = {name: tensors for name, tensors in candidates.items() if tensors}
    if not named and not weights:  # an unknown key, if only one entry holds tensors
        entries = {str(k): _tensors(v, 1) for k, v in sets.get("", {}).items()}
        entries = {key: tensors for key, tensors in entries.items() if tensors}
        named = entries if len(entries) == 1 else {}
    order = _AVERAGES if weights else (*_WRAPPERS, "", *_AVERAGES, *named)
    name = next((name for name in order if name in named), None)
    if name is None:
        keys = sorted(key[:40] for key in sets[""])[:8] if sets else "one value"
        if weights:
            raise ValueError(
                f"weights: found 'ema' for a file without an average (but {keys}), "
                f"expected '', or one under {list(_AVERAGES)}"
            )
        raise ValueError(
            f"found no arrays by name (but {keys}), expected a state dict, alone or "
            f"under one of {[*_WRAPPERS, *_AVERAGES]}"
        )
    if name:
        LOG.info("%s: took the weights under %r of %s", path, name, list(named))
    return named[name]


def strip_prefixes(path: Path, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Removes prefixes that all names share, and entries that are not weights.

    Args:
      path: the file, for the log.
      state_dict: name to value.

    >>> strip_prefixes(Path("file"), {"module._orig_mod.fc.bias": 1, "n_averaged": 2})
    {'fc.bias': 1}
    """
    removed = ""
    while True:
        state_dict = {
            name: value
            for name, value in state_dict.items()
            # DiffKD blocks of the official code, and the counter of moving averages.
            if not name.startswith("_diff.") and name != "n_averaged"
        }
        shared = _shared_prefix(list(state_dict))
        if not shared:
            break
        removed += shared
        state_dict = {n.removeprefix(shared): v for n, v in state_dict.items()}
    if removed:
        LOG.info("%s: took the prefix %r off all names", path, removed)
    return dict(state_dict)


def _shared_prefix(names: list[str]) -> str:
    """Returns the first part of all names if it cannot be a part of the model, or "".

    No model consists of one part alone, but a file may hold one part alone. So an
    unknown prefix is taken off only if each name still has a module in front of the
    parameter.

    >>> _shared_prefix(["net.fc.bias", "net.conv.weight"]), _shared_prefix(["fc.bias"])
    ('net.', '')
    """
    prefixes = {name.partition(".")[0] + "." for name in names}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    has_module_names = all(name.count(".") > 1 for name in names)
    return prefix if has_module_names or prefix in PREFIXES else ""


def _tensors(entry: Any, depth: int) -> dict[str, Any]:
    """Returns the tensors in an entry, or else in a state dict inside it.

    ``depth`` is the largest number of mappings to go into.
    """
    if not isinstance(entry, Mapping) or not depth:
        return {}
    tensors = {k: v for k, v in entry.items() if isinstance(v, Tensor | np.ndarray)}
    inner = (entry.get(name) for name in (*_WRAPPERS, "module", "shadow"))
    return tensors or next((t for e in inner if (t := _tensors(e, depth - 1))), {})
