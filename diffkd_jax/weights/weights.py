"""A file of weights, opened once: its kind, its header and its arrays."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  numpy knows bfloat16 through it
import numpy as np
from safetensors import SafetensorError, safe_open

from .checks import expand
from .file_kinds import SAFETENSORS, Kind, check_kind
from .metadata import KEY, parse_input, parse_metadata
from .paths import describe_path

_DTYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
_DTYPES |= {"F16", "BF16", "F32", "F64", "C64"}


@dataclasses.dataclass(frozen=True)
class Weights:
    """An open file of weights, see :func:`open_weights`.

    Attributes:
      path: the file.
      kind: kind of the file, from its content.
      metadata: texts in the header of a ``.safetensors`` file, by name; empty for other
        kinds of files.
    """

    path: Path
    kind: Kind
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    _tensors: safe_open | None = None

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays of a ``.safetensors`` file by name.

        They are read when they are first asked for.

        Raises:
          ValueError: the file is of another kind or damaged, or has an array of a dtype
            that NumPy lacks.
        """
        tensors = self._require_tensors()
        try:
            names = list(tensors.keys())
            for name in names:
                dtype = tensors.get_slice(name).get_dtype()
                if dtype not in _DTYPES:
                    raise ValueError(
                        f"{self.path}: found {name!r} in {dtype}, expected one of "
                        f"{sorted(_DTYPES)}; convert it to F32"
                    )
            return {name: tensors.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise _damaged(self.path, error) from None

    def _require_tensors(self) -> safe_open:
        """Returns the handle of a ``.safetensors`` file; refuses other kinds."""
        if self._tensors is None:
            raise ValueError(
                f"{self.path}: found {self.kind.name}, expected a model exported by "
                "diffkd_jax; weights that torch.save wrote go to teacher.init, "
                "student.init or import_weights"
            )
        return self._tensors


def open_weights(source: str | Path | Weights) -> Weights:
    """Opens a file of weights and reads its header.

    Arrays are read when they are first asked for. Nothing in the file is executed.

    Args:
      source: path of a ``.safetensors`` or ``.pth`` file; or weights that are open
        already, which are returned as they are.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file holds no weights or is damaged, or the path is a URL.
      OSError: the file cannot be read.

    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "weights.safetensors")
    ...     save_file({"fc.bias": np.ones(2, np.float32)}, path, {"format": "pt"})
    ...     weights = open_weights(path)
    ...     dict(weights.metadata), weights.arrays["fc.bias"].tolist()
    ({'format': 'pt'}, [1.0, 1.0])
    """
    if isinstance(source, Weights):
        return source
    path = expand(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: found {describe_path(path)}, expected a file of weights"
        )
    kind = check_kind(path)
    if kind is not SAFETENSORS:
        return Weights(path, kind)
    try:
        tensors = safe_open(path, "numpy")
        return Weights(path, kind, tensors.metadata() or {}, tensors)
    except SafetensorError as error:
        raise _damaged(path, error) from None


def is_ours(weights: Weights) -> bool:
    """Returns whether :func:`diffkd_jax.weights.files.export_model` wrote a file.

    Args:
      weights: the open file.

    >>> is_ours(Weights(Path("resnet18.safetensors"), SAFETENSORS, {"format": "pt"}))
    False
    """
    return KEY in weights.metadata


def read_description(weights: Weights) -> dict[str, Any]:
    """Reads the description of the model in a file that we exported.

    Args:
      weights: the open file.

    Returns:
      See :func:`diffkd_jax.weights.metadata.parse_metadata`.

    Raises:
      ValueError: we did not export the file, or its description is malformed.

    >>> zip_file = Weights(Path("resnet18.pth"), Kind("a zip archive"))
    >>> read_description(zip_file)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: resnet18.pth: found a zip archive, expected a model exported by ...
    """
    weights._require_tensors()
    try:
        return parse_metadata(weights.metadata)
    except ValueError as error:
        raise ValueError(f"{weights.path}: {error}") from None


def read_input(weights: Weights) -> dict[str, Any]:
    """Reads from a file which images its model takes.

    Args:
      weights: the open file.

    Returns:
      ``input_shape``, ``mean``, ``std`` and ``channel_order``; or an empty dict, if
      the file does not say it.

    Raises:
      ValueError: the values are malformed.

    >>> read_input(Weights(Path("resnet18.safetensors"), SAFETENSORS))
    {}
    """
    try:
        return parse_input(weights.metadata)
    except ValueError as error:
        raise ValueError(f"{weights.path}: {error}") from None


def _damaged(path: Path, error: Exception) -> ValueError:
    """Returns the error for a damaged ``.safetensors`` file."""
    return ValueError(
        f"{path}: found {error} in a file of {path.stat().st_size:,} bytes, expected "
        "weights in .safetensors; it is damaged or truncated"
    )
