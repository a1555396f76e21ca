"""The table of all fields, which stands near the end of ``--helpfull``."""

import textwrap
from collections.abc import Mapping

from ..bounds import expected
from .section import FieldOf, Free
from .sections import FIELDS

WIDTH = 80
INTRODUCTION = """\
Fields of a config. Each is a flag, such as --config.seed=1, and is set in a recipe as
config.seed = 1. Fields marked "free" may change between two calls on one workdir.
Arguments of a model, a task, a data set or a method are flags too, such as
--config.student.options.width=0.5 and --config.methods.kd.tau=2. They are listed
below the fields."""


def describe_fields() -> str:
    """Returns the path, the meaning, the default and the values of each field.

    >>> print(describe_fields().partition("--config.mix.erase: ")[2][:48])
    Probability of random erasing.
        (default: 0.0
    """
    return "\n".join([INTRODUCTION, "", *map(_describe, FIELDS.values())])


def _describe(field: FieldOf) -> str:
    facts = [f"default: {_shown(field)}", expected(field.kind)]
    if field.has(Free):
        facts.append("free")
    lines = textwrap.wrap(f"--config.{field.path}: {field.meaning}", WIDTH - 4)
    lines += textwrap.wrap(f"({'; '.join(filter(None, facts))})", WIDTH - 4)
    return "  " + "\n    ".join(lines)


def _shown(field: FieldOf) -> str:
    if isinstance(field.default, Mapping):
        return "none"
    if field.default is None:
        return "that of the student" if field.path.count(".") == 2 else "none"
    return repr(field.default)
