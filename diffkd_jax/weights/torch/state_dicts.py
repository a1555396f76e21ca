"""Which of the entries of a checkpoint are the weights, and under which names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .pickled_tensors import Tensor

LOG = logging.getLogger(__name__)

# Where checkpoints keep the state dict of the model, in the order of preference.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
# Where they keep its running average.
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
# What wrapping a module puts in front of its names: DataParallel, torch.compile,
# trainers that hold it as an attribute.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "student.")


def choose(path: Path, content: Any, weights: str = "") -> dict[str, Any]:
    """The tensors of the wanted set of weights; the log names it where it has a name.

    Args:
      path: for messages.
      content: of the file; a mapping of tensors, or of such mappings.
      weights: "ema" for the average; "" for the weights, else for the average alone.

    Raises:
      ValueError: there is none.
    """
    if weights not in ("", "ema"):
        raise ValueError(f"weights: found {weights!r}, expected '' or 'ema'")
    sets = {"": content} if isinstance(content, Mapping) else {}
    sets |= {
        name: sets[""][name]
        for name in (*WRAPPERS, *AVERAGES)
        if name in sets.get("", ())
    }
    found_in = {name: _tensors(sets[name], 2 if name else 1) for name in sets}
    named = {name: tensors for name, tensors in found_in.items() if tensors}
    if not named and not weights:  # under a name of their own, if that is the only one
        own = {str(k): _tensors(v, 1) for k, v in sets.get("", {}).items()}
        own = {key: tensors for key, tensors in own.items() if tensors}
        named = own if len(own) == 1 else {}
    order = AVERAGES if weights else (*WRAPPERS, "", *AVERAGES, *named)
    name = next((name for name in order if name in named), None)
    if name is None:
        found = sorted(key[:40] for key in sets[""])[:8] if sets else "one value"
        if weights:
            raise ValueError(
                f"weights: found 'ema' for a file without an average (but {found}), "
                f"expected '', or one under {list(AVERAGES)}"
            )
        raise ValueError(
            f"found no arrays by name (but {found}), expected a state dict, alone or "
            f"under one of {[*WRAPPERS, *AVERAGES]}"
        )
    if name:
        LOG.info("%s: took the weights under %r of %s", path, name, list(named))
    return named[name]


def strip(path: Path, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Takes off prefixes that all names have, and what are no weights of the model.

    >>> strip(Path("file"), {"module._orig_mod.fc.bias": 1, "n_averaged": 2})
    {'fc.bias': 1}
    """
    taken = ""
    while True:
        state_dict = {
            name: value
            for name, value in state_dict.items()
            # The official code's DiffKD blocks; the counter of averaged models.
            if not name.startswith("_diff.") and name != "n_averaged"
        }
        shared = _shared_prefix(list(state_dict))
        if not shared:
            break
        taken += shared
        state_dict = {n.removeprefix(shared): v for n, v in state_dict.items()}
    if taken:
        LOG.info("%s: took the prefix %r off all names", path, taken)
    return dict(state_dict)


def _shared_prefix(names: list[str]) -> str:
    """What stands before all names and cannot be a part of the model, or nothing.

    No model is all in one part, but a part may be all that a file holds: of unknown
    prefixes those are taken that leave a module's name before the parameter's.

    >>> _shared_prefix(["net.fc.bias", "net.conv.weight"]), _shared_prefix(["fc.bias"])
    ('net.', '')
    """
    first = {name.partition(".")[0] + "." for name in names}
    prefix = first.pop() if len(first) == 1 else ""
    is_plain = all(name.count(".") > 1 for name in names)
    return prefix if is_plain or prefix in PREFIXES else ""


def _tensors(entry: Any, depth: int) -> dict[str, Any]:
    """The tensors in an entry, or in the state dict that it wraps once more."""
    if not isinstance(entry, Mapping) or not depth:
        return {}
    found = {n: v for n, v in entry.items() if isinstance(v, Tensor | np.ndarray)}
    inner = (entry.get(name) for name in (*WRAPPERS, "module", "shadow"))
    return found or next((t for e in inner if (t := _tensors(e, depth - 1))), {})
