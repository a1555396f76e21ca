"""Taps: which outputs of student and teacher are matched, and by which block."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from .distances import mse
from .modules import conv_layer
from .shapes import as_map, check_ranks, match_spatial, spatial_rule


class Refined(NamedTuple):
    """What a block makes of a pair of outputs.

    Attributes:
      student: what is compared.
      teacher: with what; no gradient reaches the teacher.
      losses: further losses by name, scalars.
      info: to be looked at alone, arrays by name, such as ``gamma/mean``.
    """

    student: jax.Array
    teacher: jax.Array
    losses: Mapping[str, jax.Array] = {}
    info: Mapping[str, jax.Array] = {}


class Projection(nn.Module):
    """A direct comparison: the student on the teacher's map, and its channels.

    Maps of different size are matched by :func:`diffkd_jax.core.shapes.spatial_rule`;
    different channels by a trained 1x1 convolution of the student.

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
    def __call__(self, student: jax.Array, teacher: jax.Array) -> Refined:
        """Both outputs, of one shape.

        Raises:
          ValueError: ranks or batches differ, or maps that cannot be matched.
        """
        check_ranks(student, teacher)
        if student.ndim > 2:
            student, teacher = match_spatial(
                as_map(student, self.token_shape), as_map(teacher, self.token_shape)
            )
        channels = teacher.shape[-1]
        if student.shape[-1] != channels:
            shape = (*student.shape[:-1], channels)
            # Parameters are the block's own, not those of a layer inside it.
            layer = conv_layer(student, channels)
            nn.share_scope(self, layer)
            student = layer(as_map(student)).reshape(shape)
        return Refined(student, teacher)


@dataclasses.dataclass(frozen=True)
class Tap:
    """One matched pair of outputs and how to match it.

    Outputs are ``[b, c]``, tokens ``[b, n, c]``, or maps ``[b, h, w, c]``: channels are
    last (NHWC), channels first must be transposed.

    Attributes:
      student: name in the student's outputs, nested with "/".
      teacher: name in the teacher's outputs.
      distance: ``(student, teacher, target) -> scalar``, ``target`` being that of the
        batch, or None.
      block: Flax module ``(student, teacher) -> Refined``, or None to compare the two
        as they are. :class:`Projection` compares directly (KD, DIST, DKD, feature
        MSE), :class:`diffkd_jax.DiffKD` denoises the student before. A block draws
        from the stream ``diffusion``.
      share: taps of one such name have one block together.

    Raises:
      ValueError: The block is not a Flax module, or the distance not a function.

    >>> from diffkd_jax import DiffKD
    >>> Tap("features", "features", block=DiffKD(latent_channels=64)).distance.__name__
    'mse'
    """

    student: str
    teacher: str
    distance: Callable[..., jax.Array] = mse
    block: nn.Module | None = dataclasses.field(default_factory=Projection)
    share: str = ""

    def __post_init__(self):
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


def select(name: str, tap: Tap, student_out: Any, teacher_out: Any) -> tuple:
    """The two outputs that the tap of this name matches.

    Raises:
      ValueError: no dict of named arrays, or nothing there.
    """
    return (
        lookup(student_out, tap.student, f"tap {name!r}: student output"),
        lookup(teacher_out, tap.teacher, f"tap {name!r}: teacher output"),
    )


def lookup(outputs: Any, path: str, what: str = "output"):
    """The array at ``path`` of a dict of named outputs, nested with "/".

    Raises:
      ValueError: no dict, nothing there, or a group; the message starts with ``what``
        and lists the names there are.

    >>> lookup({"deep": {"x": 1}}, "deep/x")
    1
    """
    if not isinstance(outputs, Mapping):
        raise ValueError(
            f"{what}: found {type(outputs).__name__}, expected a dict of named arrays "
            f"with {path!r} among them"
        )
    value: Any = outputs
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


def _names(outputs: Mapping, prefix: str = "") -> list[str]:
    names = []
    for key, value in outputs.items():
        nested = isinstance(value, Mapping)
        names += _names(value, f"{prefix}{key}/") if nested else [f"{prefix}{key}"]
    return names


def resizing(name: str, tap: Tap, student_out: Mapping, teacher_out: Mapping) -> str:
    """Says in words how the maps of a tap will be resized; "" if they need not be.

    Blocks with a field ``token_shape`` resize by the rule, others say nothing.

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
    """Puts the name of the tap in front of a ValueError."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, ValueError) and not str(error).startswith("tap "):
            raise ValueError(f"tap {self.name!r}: {error}") from error
