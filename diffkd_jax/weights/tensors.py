"""Arrays in ``.safetensors`` files, read with bounds and written whole."""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  numpy knows bfloat16 through it
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .file_kinds import SAFETENSORS, check_weights
from .output_files import appearing

DTYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
DTYPES |= {"F16", "BF16", "F32", "F64", "C64"}


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a file, without reading its arrays.

    Raises:
      ValueError: not a ``.safetensors`` file.
    """
    try:
        with safe_open(path, "numpy") as tensors:
            return tensors.metadata() or {}
    except SafetensorError as error:
        raise _refusal(path, error) from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name.

    Raises:
      ValueError: not a ``.safetensors`` file, or of a dtype that numpy lacks.
    """
    try:
        with safe_open(path, "numpy") as tensors:
            names = list(tensors.keys())
            for name in names:
                dtype = tensors.get_slice(name).get_dtype()
                if dtype not in DTYPES:
                    raise ValueError(
                        f"{path}: found {name!r} in {dtype}, expected one of "
                        f"{sorted(DTYPES)}; convert it to F32"
                    )
            return {name: tensors.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise _refusal(path, error) from None


def _refusal(path: Path, error: Exception) -> ValueError:
    """What a file is that the library does not read."""
    kind = check_weights(path)
    if kind is not SAFETENSORS:
        return ValueError(
            f"{path}: found {kind.name}, expected a model exported by diffkd_jax; "
            "weights that torch.save wrote go to teacher.init, student.init or "
            "import_weights"
        )
    return ValueError(
        f"{path}: found {error} in a file of {path.stat().st_size:,} bytes, expected "
        "weights in .safetensors; it is damaged or truncated"
    )


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes a file that is never seen half-written, with the umask's permissions."""
    # save_file writes the memory of an array as it lies, whatever its strides.
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as partial:
        partial.write_bytes(b"")
        # save_file replaces it by a file for its owner alone.
        mode = partial.stat().st_mode
        save_file(whole, partial, metadata=metadata)
        partial.chmod(mode)
