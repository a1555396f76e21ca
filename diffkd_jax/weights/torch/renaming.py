"""Rename tables, which turn paths of our variables into names of other definitions.

A table is a tuple of regular expressions and their replacements. They are applied in
order to the path of a module (``stage1/block0/conv0/norm``) and give the name of the
module in the reference (``layer1.0.bn1``). Names and layouts of the arrays themselves
follow one rule for all models, see :mod:`diffkd_jax.weights.torch.convert`.
"""

import re
from collections.abc import Callable, Sequence

Rename = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


def rename_path(path: str, table: Rename) -> str:
    """Returns the name that a table gives to the path of a module.

    Args:
      path: path of one of our modules, with "/" between the parts.
      table: the rename table.

    >>> rename_path("stage1/head", (("^stage", "layer"), ("head", "fc")))
    'layer1.fc'
    """
    for pattern, replacement in table:
        path = re.sub(pattern, replacement, path)
    return path.replace("/", ".")


def rename_part(part: str, name: str, table: Rename) -> Rename:
    """Returns a rename table for a part of a larger model.

    Args:
      part: path of the part in our model.
      name: name of the part in the reference.
      table: rename table of the part if it is a model of its own.

    >>> table = rename_part("backbone", "net", (("^head$", "fc"),))
    >>> rename_path("backbone/head", table)
    'net.fc'
    """
    return ((rf"^{part}/(.*)$", lambda m: f"{name}.{rename_path(m[1], table)}"),)


def add_one(text: str) -> Callable[[re.Match[str]], str]:
    """Returns a replacement for a number: a text, then the number plus one.

    Args:
      text: the text before the number.

    >>> rename_path("norm0", (("norm([0-9])$", add_one("bn")),))
    'bn1'
    """
    return lambda m: f"{text}{int(m[1]) + 1}"


def number_blocks(
    counts: Sequence[int], text: str, start: int = 0
) -> Callable[[re.Match[str]], str]:
    """Returns a replacement that numbers the blocks of all stages consecutively.

    The pattern has two groups: the number of the stage, from 1, and the number of the
    block in that stage, from 0.

    Args:
      counts: number of blocks in each stage.
      text: the replacement, with ``{}`` in place of the number.
      start: number of the first block.

    >>> table = (("^stage([0-9])_block([0-9])", number_blocks([3, 2], "blocks.{}")),)
    >>> rename_path("stage2_block1/head", table)
    'blocks.4.head'
    """
    return lambda m: text.format(start + sum(counts[: int(m[1]) - 1]) + int(m[2]))
