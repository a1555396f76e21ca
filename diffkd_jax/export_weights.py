"""A trained student to the state dict that its PyTorch definition loads.

python -m diffkd_jax.export_weights --from=runs/quickstart --to=student.safetensors
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from .models.files import export_torch, load_model

FROM = flags.DEFINE_string(
    "from", None, "workdir of a run, or a file we exported", required=True
)
TO = flags.DEFINE_string("to", None, "file to write, .safetensors", required=True)
REFERENCE = flags.DEFINE_string(
    "reference", "", "whose names: torchvision, timm, ...; the usual ones by default"
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"found {argv[1:]}, expected flags only")
    logging.set_verbosity(logging.WARNING)
    try:
        model = load_model(FROM.value)
        reference = export_torch(Path(TO.value).expanduser(), model, REFERENCE.value)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{TO.value}: {model.meta['model']}, named as by {reference}")


if __name__ == "__main__":
    app.run(main)
