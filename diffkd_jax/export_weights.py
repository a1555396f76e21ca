"""The command that exports a trained student to its PyTorch definition.

python -m diffkd_jax.export_weights --from=runs/quickstart --to=student.safetensors
"""

import argparse
import sys
from collections.abc import Sequence

from .io import console
from .train.cluster.devices import run_tool
from .weights.checks import check_finite, expand
from .weights.files import export_torch, load_model
from .weights.output_files import check_output
from .weights.paths import model_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, exports the weights and returns the exit code.

    Args:
      arguments: the command line, or None for that of the process.
    """
    usage = "python -m diffkd_jax.export_weights"
    parser = argparse.ArgumentParser(usage, description="Exports PyTorch weights.")
    add = parser.add_argument
    add(
        "--from",
        required=True,
        dest="source",
        help="workdir of a run, or its exported file",
    )
    add("--to", required=True, help=".safetensors file to write")
    add("--force", action="store_true", help="replace an existing file")
    add("--model", default="", help="your own, package.module:name, if --from has it")
    add("--reference", default="", help="definition to follow: torchvision, timm, ...")
    flags = parser.parse_args(arguments)
    try:
        source, target = model_file(flags.source), expand(flags.to)
        check_output(target, source, force=flags.force)
        model = load_model(source, flags.model)
        check_finite(flags.source, model.variables)
        reference = export_torch(target, model, flags.reference)
    except (ValueError, OSError) as error:
        console.say(f"error: {error}", error=True)
        return 1
    console.say(f"{target}: {model.meta['model']}, named as by {reference}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
