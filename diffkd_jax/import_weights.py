r"""The command that imports weights of a PyTorch definition.

    python -m diffkd_jax.import_weights --model=resnet50 \
      --from=resnet50-0676ba61.pth --to=resnet50

A run takes the result as its teacher. The file may be ``.safetensors`` or ``.pth``,
from torchvision, timm or an official repository. PyTorch is not needed. The result is
``<to>/model.safetensors``, or ``<to>`` itself if that ends in ``.safetensors``. If the
file holds both the weights and their moving average, ``--weights=ema`` takes the moving
average. Networks for segmentation in torchvision's definition need
``--options='{"deep_stem": false, "align_corners": false, "head_dropout": 0.0}'``.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

import jax

from .io import console
from .models.inputs import describe_input
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
    """Imports weights of a PyTorch definition and writes them as a file of ours.

    Args:
      model: a key of :data:`diffkd_jax.models.MODELS`.
      source: path of the file of weights.
      target: path of the file to write, which ends in .safetensors; or of a directory,
        which is created if needed.
      shape: ``(h, w, c)`` of one image, in pixels. The size is only a note in the file,
        unless ``mean`` is given.
      weights: which set in the file, "" or "ema".
      options: keyword arguments of the model, or None for the defaults of its name.
      mean: mean of the images on which the weights were trained, on the scale 0 to 1;
        one number, one for each channel, or () if it is not known.
      std: standard deviation of these images, in the same form.
      force: whether an existing file may be replaced.

    Returns:
      A line that says what was written.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the source cannot be read, does not fit the model or holds numbers
        that are not finite; or the target exists or cannot be written.
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
    """Returns the model with a normalisation that the user states."""
    stated = describe_input({"mean": mean, "std": std}, model.meta["input_shape"][-1])
    meta = {**model.meta, **stated}
    try:
        if not meta["mean"]:
            raise ValueError("found one of them, expected both")
        parse_input({INPUT_KEY: format_input(meta)})
    except ValueError as error:
        raise ValueError(f"--mean={mean}, --std={std}: {error}") from None
    return model._replace(meta=meta)


def _numbers(text: str) -> tuple[float, ...]:
    """Parses numbers with commas between."""
    try:
        return tuple(float(part) for part in text.strip("()").split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"found {text[:80]!r}, expected numbers as in 0.485,0.456,0.406"
        ) from None


def _options(text: str) -> dict[str, Any]:
    """Parses a JSON object."""
    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError(f"found {text[:80]!r}, expected JSON {{...}}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, imports the weights and returns the exit code.

    Args:
      arguments: the command line, or None for that of the process.
    """
    usage = "python -m diffkd_jax.import_weights"
    parser = argparse.ArgumentParser(usage, description="Imports PyTorch weights.")
    add = parser.add_argument
    add("--model", required=True, help="name of the model, as in the model table")
    add(
        "--from", required=True, dest="source", help=".safetensors or .pth file to read"
    )
    add("--to", required=True, help="directory, or .safetensors file, to write")
    add("--force", action="store_true", help="replace an existing file")
    add("--image_size", type=int, default=224, help="pixels; a note unless --mean is")
    add("--channels", type=int, default=3, help="channels of an image")
    add(
        "--mean",
        type=_numbers,
        default=(),
        help="mean of its images, as 0.485,0.456,0.406",
    )
    add(
        "--std", type=_numbers, default=(), help="their deviation, as 0.229,0.224,0.225"
    )
    add("--weights", default="", help="'ema' for the moving average")
    add(
        "--options",
        default="{}",
        type=_options,
        help='of the model, as {"deep_stem": false}',
    )
    flags = parser.parse_args(arguments)
    # The log says which set of weights was taken, and which prefix was taken off.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("diffkd_jax").setLevel(logging.INFO)
    shape = (flags.image_size, flags.image_size, flags.channels)
    try:
        line = convert(
            flags.model,
            flags.source,
            flags.to,
            shape,
            flags.weights,
            flags.options,
            mean=flags.mean,
            std=flags.std,
            force=flags.force,
        )
    except (ValueError, OSError) as error:
        console.say(f"error: {error}", error=True)
        return 1
    console.say(line)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
