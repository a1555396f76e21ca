"""Rename tables: from the paths of our variables to the names of other definitions.

A table is a tuple of ``(pattern, replacement)`` regular expressions, applied in order
to the module path of a variable (``stage1/block0/conv0/norm``) to give the module name
of the reference (``layer1.0.bn1``). Leaf names and layouts follow one rule, see
:mod:`diffkd_jax.weights.torch.convert`.
"""

import re
from collections.abc import Callable

Rename = tuple[tuple[str, str | Callable[[re.Match], str]], ...]


def renamed(module: str, rename: Rename) -> str:
    """The name that a table gives to a module's path.

    >>> renamed("stage1/head", ((r"^stage(\\d)", r"layer\\1"), ("head", "fc")))
    'layer1.fc'
    """
    for pattern, replacement in rename:
        module = re.sub(pattern, replacement, module)
    return module.replace("/", ".")


def within(part: str, name: str, rename: Rename) -> Rename:
    """A table for a part of a model, which the reference calls ``name``.

    >>> renamed("backbone/head", within("backbone", "net", (("^head$", "fc"),)))
    'net.fc'
    """
    return ((rf"^{part}/(.*)$", lambda m: f"{name}.{renamed(m[1], rename)}"),)
