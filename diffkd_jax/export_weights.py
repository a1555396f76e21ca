"""A trained student to the state dict that its PyTorch definition loads.

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
    """Parses the command line and exports; returns the exit code."""
    usage = "python -m diffkd_jax.export_weights"
    parser = argparse.ArgumentParser(usage, description="Exports PyTorch weights.")
    add = parser.add_argument
    add("--from", required=True, dest="source", help="workdir of a run, or its export")
    add("--to", required=True, help="new file to write, .safetensors")
    add("--force", action="store_true", help="replace a file that is there")
    add("--model", default="", help="of your own, package.module:name, as in --from")
    add("--reference", default="", help="whose names: torchvision, timm, ...")
    given = parser.parse_args(arguments)
    try:
        source, target = model_file(given.source), expand(given.to)
        check_output(target, source, force=given.force)
        model = load_model(source, given.model)
        check_finite(given.source, model.variables)
        reference = export_torch(target, model, given.reference)
    except (ValueError, OSError) as error:
        console.say(f"error: {error}", error=True)
        return 1
    console.say(f"{target}: {model.meta['model']}, named as by {reference}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
