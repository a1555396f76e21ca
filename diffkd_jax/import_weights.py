r"""Weights of a PyTorch definition to a file that runs take as teacher.

    python -m diffkd_jax.import_weights --model=resnet50 \
      --from=resnet50-0676ba61.pth --to=resnet50

The file may be ``.safetensors`` or ``.pth``, of torchvision, timm or an official
repository; PyTorch is not needed. The result is ``<to>/model.safetensors``.
"""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging

from .models.files import MODEL_FILE, export_model, load_torch

MODEL = flags.DEFINE_string(
    "model", None, "name of the model, as in the model table", required=True
)
FROM = flags.DEFINE_string(
    "from", None, "file of weights, .safetensors or .pth", required=True
)
TO = flags.DEFINE_string("to", None, "directory to write to", required=True)
SIZE = flags.DEFINE_integer("image_size", 224, "side of the pictures, pixels; a note")
CHANNELS = flags.DEFINE_integer("channels", 3, "channels of the pictures")


def convert(model: str, source: str, target: str, shape: tuple[int, int, int]) -> str:
    """Imports ``source`` into ``model`` and writes it to the directory ``target``.

    Args:
      model: a key of :data:`diffkd_jax.models.MODELS`.
      source: file of weights.
      target: directory, created if needed.
      shape: of one picture, ``(h, w, c)``; only the channels bind.

    Returns:
      A line that says what was written.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that cannot be read, or does not fit the model.
    """
    loaded, reference = load_torch(source, model, {}, shape)
    file = Path(target).expanduser() / MODEL_FILE
    export_model(file, loaded)
    count = sum(x.size for x in jax.tree.leaves(loaded.variables["params"]))
    return (
        f"{file}: {model}, {count:,} parameters, {loaded.meta['num_classes']} "
        f"classes, named as by {reference}"
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"found {argv[1:]}, expected flags only")
    logging.set_verbosity(logging.WARNING)
    shape = (SIZE.value, SIZE.value, CHANNELS.value)
    try:
        print(convert(MODEL.value, FROM.value, TO.value, shape))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
