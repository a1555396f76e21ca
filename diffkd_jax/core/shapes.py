"""Rules by which features of different shapes are brought to one shape."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

# Vectors [b, c], tokens [b, n, c] or maps [b, h, w, c].
Feature = Num[Array, "b _"] | Num[Array, "b _ _"] | Num[Array, "b _ _ _"]


def as_map(
    x: Feature, token_shape: tuple[int, int] | None = None
) -> Num[Array, "b h w c"]:
    """Reshapes features of rank 2, 3 or 4 to maps ``[b, h, w, c]``.

    Args:
      x: ``[b, c]`` (which becomes a 1x1 map), ``[b, n, c]`` tokens in row-major order,
        or ``[b, h, w, c]``.
      token_shape: (h, w) of tokens; without it they must form a square.

    Returns:
      ``[b, h, w, c]``.

    Raises:
      ValueError: the rank is not 2, 3 or 4, or the number of tokens does not fit the
        shape.

    >>> as_map(jnp.zeros((2, 9, 5))).shape
    (2, 3, 3, 5)
    """
    if x.ndim == 4:
        return x
    if x.ndim == 2:
        return x[:, None, None, :]
    if x.ndim != 3:
        raise ValueError(
            f"found shape {x.shape} of rank {x.ndim}, expected rank 2 [b, c], "
            "3 [b, n, c] or 4 [b, h, w, c]"
        )
    b, n, c = x.shape
    side = math.isqrt(n)
    h, w = token_shape or (side, side)
    if h * w != n:
        expected = f"{h}x{w} = {h * w} tokens" if token_shape else "a square number"
        raise ValueError(
            f"found {n} tokens in shape {x.shape}, expected {expected}; set "
            "token_shape to (height, width) and drop class tokens beforehand"
        )
    return x.reshape(b, h, w, c)


def check_ranks(student: Feature, teacher: Feature) -> None:
    """Raises an error unless both features have the same rank.

    Args:
      student: feature of the student.
      teacher: feature of the teacher.

    Raises:
      ValueError: the ranks differ.

    >>> check_ranks(jnp.zeros((2, 3)), jnp.zeros((2, 5)))
    """
    if student.ndim != teacher.ndim:
        raise ValueError(
            f"found shapes {student.shape} (student) and {teacher.shape} "
            "(teacher), expected the same rank; pool or reshape one of them"
        )


def spatial_rule(student: tuple[int, ...], teacher: tuple[int, ...]) -> str:
    """Describes how maps of two shapes will be matched.

    The larger map is resized to the smaller one. If its height and width are multiples
    of those of the smaller map, it is average-pooled. Otherwise it is resized
    bilinearly, with antialiasing.

    Deviation: the paper gives no rule, and the official code fails on such maps.

    Args:
      student: shape ``(b, h, w, c)`` of the student's map.
      teacher: shape ``(b, h, w, c)`` of the teacher's map.

    Returns:
      One phrase, or "" if the maps have the same size.

    Raises:
      ValueError: the batch sizes differ, or neither map is the smaller one on both
        sides.

    >>> spatial_rule((8, 4, 4, 64), (8, 8, 8, 128))
    'teacher 8x8 -> 4x4 by average pooling'
    >>> spatial_rule((8, 4, 4, 64), (8, 4, 4, 128))
    ''
    """
    if student[0] != teacher[0]:
        raise ValueError(
            f"found batches of {student[0]} (student {student}) and {teacher[0]} "
            f"(teacher {teacher}), expected the same examples on both sides"
        )
    (sh, sw), (th, tw) = student[1:3], teacher[1:3]
    if (sh, sw) == (th, tw):
        return ""
    if sh <= th and sw <= tw:
        name, (h, w), (to_h, to_w) = "teacher", (th, tw), (sh, sw)
    elif sh >= th and sw >= tw:
        name, (h, w), (to_h, to_w) = "student", (sh, sw), (th, tw)
    else:
        raise ValueError(
            f"found maps of {sh}x{sw} (student) and {th}x{tw} (teacher), expected "
            "one to be at most as large as the other on both sides; tap other "
            "layers or resize one of them beforehand"
        )
    how = "average pooling" if h % to_h == 0 and w % to_w == 0 else "bilinear resizing"
    return f"{name} {h}x{w} -> {to_h}x{to_w} by {how}"


def match_spatial(
    student: Num[Array, "b h w c"], teacher: Num[Array, "b h2 w2 c2"]
) -> tuple[Num[Array, "b h3 w3 c"], Num[Array, "b h3 w3 c2"]]:
    """Resizes the larger of two maps to the smaller one, by :func:`spatial_rule`.

    Args:
      student: ``[b, h, w, c]``.
      teacher: ``[b, h', w', c']``.

    Returns:
      Both maps with the smaller height and width, in their own dtypes.

    >>> s, t = match_spatial(jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 4, 4, 5)))
    >>> s.shape, t.shape
    ((1, 2, 2, 3), (1, 2, 2, 5))
    """
    rule = spatial_rule(student.shape, teacher.shape)
    if rule.startswith("student"):
        student = _resize(student, teacher.shape[1:3])
    elif rule:
        teacher = _resize(teacher, student.shape[1:3])
    return student, teacher


def _resize(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Resizes a map ``[b, h, w, c]`` to a size that is at most its own."""
    b, h, w, c = x.shape
    if h % size[0] == 0 and w % size[1] == 0:
        blocks = x.reshape(b, size[0], h // size[0], size[1], w // size[1], c)
        return jnp.mean(blocks, (2, 4))
    return jnp.astype(jax.image.resize(x, (b, *size, c), "bilinear"), x.dtype)
