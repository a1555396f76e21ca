"""Names in pickles of PyTorch: dtypes, functions that make tensors, harmless values."""

from typing import Any

import ml_dtypes
import numpy as np

# NumPy types of the storages.
DTYPES: dict[str, Any] = {
    "BFloat16Storage": ml_dtypes.bfloat16,
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "ShortStorage": np.int16,
}
PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2")
_BUILTINS = "bool bytearray bytes complex dict float frozenset int list object range"
_BUILTINS += " set slice str tuple"
_TORCH = "bfloat16 bool complex64 complex128 device dtype float16 float32 float64 int8"
_TORCH += " int16 int32 int64 uint8 uint16 uint32 uint64 float8_e4m3fn float8_e5m2"
_PATHS = "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath"
_NUMPY = "dtype ndarray bool bool_ float16 float32 float64 int8 int16 int32 int64"
_NUMPY += " uint8 uint16 uint32 uint64 str_"
# Names of values that checkpoints hold beside weights: settings, counters, times.
_HARMLESS = {
    "__builtin__": f"{_BUILTINS} long unicode xrange",
    "_codecs": "encode",
    "argparse": "Namespace",
    "builtins": _BUILTINS,
    "collections": "Counter OrderedDict defaultdict deque",
    "copy_reg": "_reconstructor",
    "copyreg": "_reconstructor",
    "datetime": "date datetime time timedelta timezone",
    "numpy": _NUMPY,
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "numpy.core.numeric": "_frombuffer",
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "torch": f"{_TORCH} Size {' '.join(DTYPES)}",
    "torch._utils": " ".join(PARAMETERS + _TENSORS),
    "torch.serialization": "_get_layout",
    "torch.storage": " ".join(DTYPES),
    "torch.torch_version": "TorchVersion",
    "types": "SimpleNamespace",
}
NAMES = {(module, n) for module, names in _HARMLESS.items() for n in names.split()}
