r"""Weights of a PyTorch definition to a file that runs take as teacher.

    python -m diffkd_jax.import_weights --model=resnet50 \
      --from=resnet50-0676ba61.pth --to=resnet50

The file may be ``.safetensors`` or ``.pth``, of torchvision, timm or an official
repository; PyTorch is not needed. The result is ``<to>/model.safetensors``. Of a file
with weights and their average ``--weights=ema`` takes the average. Networks of
segmentation in torchvision's definition need ``--options='{"deep_stem": false,
"align_corners": false, "head_dropout": 0.0}'``.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

import jax

from . import console
from .models.checks import check_finite, expand
from .models.files import MODEL_FILE, export_model, load_torch
from .train.devices import run_tool


def convert(
    model: str,
    source: str,
    target: str,
    shape: tuple[int, int, int],
    weights: str = "",
    options: dict[str, Any] | None = None,
) -> str:
    """Imports ``source`` into ``model`` and writes it to the directory ``target``.

    Args:
      model: a key of :data:`diffkd_jax.models.MODELS`.
      source: file of weights.
      target: directory, created if needed.
      shape: of one picture, ``(h, w, c)``; only the channels bind.
      weights: which of several sets in the file, "" or "ema".
      options: of the model, those of its name by default.

    Returns:
      A line that says what was written.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that cannot be read, does not fit the model, or holds numbers
        that are not finite.
    """
    loaded, reference = load_torch(source, model, options or {}, shape, weights=weights)
    check_finite(source, loaded.variables)
    file = expand(target) / MODEL_FILE
    export_model(file, loaded)
    count = sum(x.size for x in jax.tree.leaves(loaded.variables["params"]))
    return (
        f"{file}: {model}, {count:,} parameters, {loaded.meta['num_classes']} "
        f"classes, named as by {reference}"
    )


def _options(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"found {text[:80]!r}, expected JSON {{...}}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and converts; returns the exit code."""
    usage = "python -m diffkd_jax.import_weights"
    parser = argparse.ArgumentParser(usage, description="Imports PyTorch weights.")
    add = parser.add_argument
    add("--model", required=True, help="name of the model, as in the model table")
    add("--from", required=True, dest="source", help="file, .safetensors or .pth")
    add("--to", required=True, help="directory to write to")
    add("--image_size", type=int, default=224, help="pixels; a note, does not bind")
    add("--channels", type=int, default=3, help="of the pictures")
    add("--weights", default="", help="'ema' for the average, where a file has both")
    add("--options", default="{}", type=_options, help='as {"deep_stem": false}')
    given = parser.parse_args(arguments)
    # What was chosen in the file, and which prefix was taken off.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("diffkd_jax").setLevel(logging.INFO)
    shape = (given.image_size, given.image_size, given.channels)
    try:
        made = (given.weights, given.options)
        console.say(convert(given.model, given.source, given.to, shape, *made))
    except (ValueError, OSError) as error:
        console.say(f"error: {error}", error=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
