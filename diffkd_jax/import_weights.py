r"""Weights of a PyTorch definition to a file that runs take as teacher.

    python -m diffkd_jax.import_weights --model=resnet50 \
      --from=resnet50-0676ba61.pth --to=resnet50

The file may be ``.safetensors`` or ``.pth``, of torchvision, timm or an official
repository; PyTorch is not needed. The result is ``<to>/model.safetensors``, or ``<to>``
itself if that ends in ``.safetensors``. Of a file
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

from .io import console
from .models.inputs import input_of
from .models.model import Model
from .train.cluster.devices import run_tool
from .weights.checks import check_finite, expand
from .weights.files import export_model, load_torch
from .weights.metadata import INPUT_KEY, format_input, parse_input
from .weights.output_files import check_output, file_to_write


def convert(
    model: str,
    source: str,
    target: str,
    shape: tuple[int, int, int],
    weights: str = "",
    options: dict[str, Any] | None = None,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    force: bool = False,
) -> str:
    """Imports ``source`` into ``model`` and writes it to ``target``.

    Args:
      model: a key of :data:`diffkd_jax.models.MODELS`.
      source: file of weights.
      target: file that ends in .safetensors, or directory; created if needed.
      shape: of one image, ``(h, w, c)``; the size is a note unless ``mean`` is given.
      weights: which of several sets in the file, "" or "ema".
      options: of the model, those of its name by default.
      mean: of the images that the weights were trained on, on the scale 0 to 1, one
        number or one a channel; () if it is not known.
      std: likewise.
      force: whether a file that is there may be replaced.

    Returns:
      A line that says what was written.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that cannot be read, does not fit the model, or holds numbers
        that are not finite; a target that is there already or cannot be.
    """
    file = file_to_write(target)
    check_output(file, expand(source), force=force)
    loaded, reference = load_torch(source, model, options or {}, shape, weights=weights)
    check_finite(source, loaded.variables)
    if mean or std:
        loaded = _with_input(loaded, mean, std)
    export_model(file, loaded)
    count = sum(x.size for x in jax.tree.leaves(loaded.variables["params"]))
    return (
        f"{file}: {model}, {count:,} parameters, {loaded.meta['num_classes']} "
        f"classes, named as by {reference}"
    )


def _with_input(model: Model, mean: Sequence[float], std: Sequence[float]) -> Model:
    """The model with a normalisation that its user states."""
    given = input_of({"mean": mean, "std": std}, model.meta["input_shape"][-1])
    meta = {**model.meta, **given}
    try:
        if not meta["mean"]:
            raise ValueError("found one of them, expected both")
        parse_input({INPUT_KEY: format_input(meta)})
    except ValueError as error:
        raise ValueError(f"--mean={mean}, --std={std}: {error}") from None
    return model._replace(meta=meta)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.strip("()").split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"found {text[:80]!r}, expected numbers as in 0.485,0.456,0.406"
        ) from None


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
    add("--to", required=True, help="directory to write to, or file, .safetensors")
    add("--force", action="store_true", help="replace a file that is there")
    add("--image_size", type=int, default=224, help="pixels; a note unless --mean is")
    add("--channels", type=int, default=3, help="of the images")
    add("--mean", type=_numbers, default=(), help="of its images, as 0.485,0.456,0.406")
    add("--std", type=_numbers, default=(), help="likewise, as 0.229,0.224,0.225")
    add("--weights", default="", help="'ema' for the average, where a file has both")
    add("--options", default="{}", type=_options, help='as {"deep_stem": false}')
    given = parser.parse_args(arguments)
    # What was chosen in the file, and which prefix was taken off.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("diffkd_jax").setLevel(logging.INFO)
    shape = (given.image_size, given.image_size, given.channels)
    try:
        line = convert(
            given.model,
            given.source,
            given.to,
            shape,
            given.weights,
            given.options,
            mean=given.mean,
            std=given.std,
            force=given.force,
        )
    except (ValueError, OSError) as error:
        console.say(f"error: {error}", error=True)
        return 1
    console.say(line)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
