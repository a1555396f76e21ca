"""Taps: which outputs of student and teacher are matched, and by which block."""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float, PyTree

from .conv_layers import conv_layer
from .distances import mse
from .shapes import Feature, as_map, check_ranks, match_spatial, spatial_rule


class Refined(NamedTuple):
    """The result of a block for one pair of outputs.

    Attributes:
      student: the feature that is compared.
      teacher: the feature it is compared with; no gradient reaches the teacher.
      losses: further losses by name, scalars.
      info: arrays to report by name, such as ``gamma/mean``.

    >>> refined = Refined(jax.numpy.ones((4, 8)), jax.numpy.ones((4, 8)))
    >>> refined.student.shape, refined.losses
    ((4, 8), {})
    """

    student: Feature
    teacher: Feature
    losses: Mapping[str, Float[Array, ""]] = {}
    info: Mapping[str, jax.Array] = {}


class Projection(nn.Module):
    """A block for direct comparison, which brings the student to the teacher's shape.

    Maps of different size are matched by :func:`diffkd_jax.core.shapes.spatial_rule`.
    If the numbers of channels differ, the student goes through a trained 1x1
    convolution.

    Attributes:
      token_shape: (h, w) of rank-3 features, or None for a square.

    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.ones((4, 8)), jnp.ones((4, 12))
    >>> out, variables = Projection().init_with_output(
    ...     jax.random.key(0), student, teacher)
    >>> out.student.shape, sorted(variables["params"])
    ((4, 12), ['bias', 'kernel'])
    """

    token_shape: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, student: Feature, teacher: Feature) -> Refined:
        """Brings both features to one shape.

        Args:
          student: ``[b, c]``, ``[b, n, c]`` or ``[b, h, w, c]``.
          teacher: the same rank; channels and map size may differ.

        Returns:
          Both features, without further losses.

        Raises:
          ValueError: ranks or batch sizes differ, or maps cannot be matched.
        """
        check_ranks(student, teacher)
        if student.ndim > 2:
            student, teacher = match_spatial(
                as_map(student, self.token_shape), as_map(teacher, self.token_shape)
            )
        channels = teacher.shape[-1]
        if student.shape[-1] != channels:
            shape = (*student.shape[:-1], channels)
            # The parameters lie in the block itself, not in a layer inside it.
            layer = conv_layer(student, channels)
            nn.share_scope(self, layer)
            student = layer(as_map(student)).reshape(shape)
        return Refined(student, teacher)


@dataclasses.dataclass(frozen=True)
class Tap:
    """A pair of outputs to match, and how to match them.

    Outputs are ``[b, c]``, tokens ``[b, n, c]``, or maps ``[b, h, w, c]``. Channels are
    last (NHWC); transpose arrays with channels first.

    Attributes:
      student: name in the student's outputs; "/" separates nested names.
      teacher: name in the teacher's outputs.
      distance: ``(student, teacher, target) -> scalar``, where ``target`` is that of
        the batch, or None.
      block: Flax module ``(student, teacher) -> Refined``, or None to compare the two
        as they are. :class:`Projection` compares directly (KD, DIST, DKD, feature MSE);
        :class:`diffkd_jax.DiffKD` denoises the student first. A block draws random
        numbers from the stream ``diffusion``.
      share: taps with the same non-empty name share one block.

    Raises:
      ValueError: the block is not a Flax module, or the distance is not a function.

    >>> from diffkd_jax import DiffKD
    >>> Tap("features", "features", block=DiffKD(latent_channels=64)).distance.__name__
    'mse'
    """

    student: str
    teacher: str
    distance: Callable[..., jax.Array] = mse
    block: nn.Module | None = dataclasses.field(default_factory=Projection)
    share: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.block, nn.Module | None):
            raise ValueError(
                f"Tap.block: found {self.block!r}, expected a Flax module such as "
                "DiffKD(num_steps=5), or None"
            )
        if not callable(self.distance):
            raise ValueError(
                f"Tap.distance: found {self.distance!r}, expected a function "
                "(student, teacher, target) -> scalar, such as those of DISTANCES"
            )


def select(
    name: str, tap: Tap, student_out: PyTree, teacher_out: PyTree
) -> tuple[PyTree, PyTree]:
    """Returns the two outputs that a tap matches.

    Args:
      name: name of the tap, for messages.
      tap: the tap.
      student_out: outputs of the student.
      teacher_out: outputs of the teacher.

    Raises:
      ValueError: the outputs are not a dict, or the output is missing.

    >>> select("t", Tap("x", "deep/y"), {"x": 1}, {"deep": {"y": 2}})
    (1, 2)
    """
    return (
        lookup(student_out, tap.student, f"tap {name!r}: student output"),
        lookup(teacher_out, tap.teacher, f"tap {name!r}: teacher output"),
    )


def lookup(outputs: PyTree, path: str, what: str = "output") -> PyTree:
    """Returns the array at a path in a dict of named outputs.

    Args:
      outputs: arrays by name, possibly nested.
      path: name; "/" separates nested names.
      what: what is looked up; error messages begin with it.

    Raises:
      ValueError: the outputs are not a dict, or the path is missing or names a group.
        The message lists all names.

    >>> lookup({"deep": {"x": 1}}, "deep/x")
    1
    """
    if not isinstance(outputs, Mapping):
        raise ValueError(
            f"{what}: found {type(outputs).__name__}, expected a dict of named arrays "
            f"with {path!r} among them"
        )
    value: PyTree = outputs
    for part in path.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(
                f"{what}: found no {path!r}, expected one of {_names(outputs)}"
            )
        value = value[part]
    if isinstance(value, Mapping):
        raise ValueError(
            f"{what}: found a group at {path!r}, expected one of {_names(outputs)}"
        )
    return value


def _names(outputs: Mapping[str, PyTree], prefix: str = "") -> list[str]:
    """Returns the paths of all arrays."""
    names = []
    for key, value in outputs.items():
        nested = isinstance(value, Mapping)
        names += _names(value, f"{prefix}{key}/") if nested else [f"{prefix}{key}"]
    return names


def resizing(
    name: str,
    tap: Tap,
    student_out: Mapping[str, PyTree],
    teacher_out: Mapping[str, PyTree],
) -> str:
    """Describes how the maps of a tap will be resized; "" if not at all.

    Blocks with a field ``token_shape`` resize by
    :func:`diffkd_jax.core.shapes.spatial_rule`. For vectors and for all other blocks,
    the result is "".

    Args:
      name: name of the tap, for messages.
      tap: the tap.
      student_out: outputs of the student, arrays or ``jax.ShapeDtypeStruct``.
      teacher_out: outputs of the teacher.

    >>> out = lambda side: {"x": jax.ShapeDtypeStruct((2, side, side, 3), "float32")}
    >>> resizing("t", Tap("x", "x"), out(4), out(8))
    'teacher 8x8 -> 4x4 by average pooling'
    """
    pair = select(name, tap, student_out, teacher_out)
    ranks = {x.ndim for x in pair}
    if ranks not in ({3}, {4}) or not hasattr(tap.block, "token_shape"):
        return ""
    view = functools.partial(
        as_map, token_shape=getattr(tap.block, "token_shape", None)
    )
    with naming(name):
        return spatial_rule(*(jax.eval_shape(view, x).shape for x in pair))


class naming:
    """A context that puts the name of a tap in front of the message of a ValueError.

    Args:
      name: name of the tap.

    >>> with naming("logits"):
    ...     raise ValueError("found shape (3,)")
    Traceback (most recent call last):
    ValueError: tap 'logits': found shape (3,)
    """

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> "naming":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if isinstance(error, ValueError) and not str(error).startswith("tap "):
            raise ValueError(f"tap {self.name!r}: {error}") from error
