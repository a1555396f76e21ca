"""The base class of a config's sections, and functions on their fields."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple, Self

import pydantic
from pydantic import Strict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ..bounds import Words

Count = Annotated[int, pydantic.Field(ge=0)]
AtLeastOne = Annotated[int, pydantic.Field(ge=1)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]
Epochs = Annotated[float, pydantic.Field(ge=0, le=1e6)]
# Lists are taken too, in this and in other tuples: JSON has no tuples.
Texts = Annotated[tuple[str, ...], Strict(False), Words("a tuple of texts")]


class Free:
    """The mark of a field that may differ between two commands on one workdir."""


class OfMachine(Free):
    """The mark of a free field whose value depends on the machine, such as threads."""


class Section(pydantic.BaseModel):
    """A group of config fields: a frozen pydantic model.

    The text below a field in the source gives its meaning.

    >>> class Mesh(Section):
    ...     fsdp: AtLeastOne = 1
    >>> Mesh(fsdp=2).replace(fsdp=4)
    Mesh(fsdp=4)
    """

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def replace(self, **fields: Any) -> Self:
        """Returns a copy with the given fields changed; values are not checked."""
        return self.model_copy(update=fields)


class FieldOf(NamedTuple):
    """A field of a section: its path, its type with all marks, default and meaning."""

    path: str
    kind: Any
    default: Any
    meaning: str

    def has(self, mark: type[Free]) -> bool:
        """Returns whether the field has a mark of this class or of a subclass."""
        marks = getattr(self.kind, "__metadata__", ())
        return any(isinstance(m, type) and issubclass(m, mark) for m in marks)


def fields_of(model: type[Section], at: str = "") -> Iterator[FieldOf]:
    """Yields the fields of a section, and those of the sections inside it.

    Args:
      model: class of the section.
      at: prefix of each path, such as ``data.``.

    >>> class Mesh(Section):
    ...     fsdp: Annotated[AtLeastOne, Free] = 1
    >>> [(field.path, field.has(Free)) for field in fields_of(Mesh, "mesh.")]
    [('mesh.fsdp', True)]
    """
    for name, info in model.model_fields.items():
        inner = section_in(info)
        if inner is not None:
            yield from fields_of(inner, f"{at}{name}.")
        else:
            yield FieldOf(
                f"{at}{name}",
                type_of(info),
                info.get_default(call_default_factory=True),
                info.description or "",
            )


def section_in(info: FieldInfo) -> type[Section] | None:
    """Returns the class of a field that is a section, or None for other fields."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def type_of(info: FieldInfo) -> Any:
    """Returns the type of a field with all its marks."""
    marks = tuple(info.metadata)
    return Annotated[(info.annotation, *marks)] if marks else info.annotation


def optional(model: type[Section], *names: str, without: str = "") -> type[Section]:
    """Returns a copy of a section's class whose fields are optional, with default None.

    Rules about combinations of fields are not copied.

    Args:
      model: class of a section that has no sections inside it.
      *names: names of the fields to copy; all of them if there are none.
      without: name of a field to leave out, or "".
    """
    fields: dict[str, Any] = {
        name: (type_of(info) | None, pydantic.Field(None, description=info.description))
        for name, info in model.model_fields.items()
        if name in (names or model.model_fields) and name != without
    }
    return pydantic.create_model(f"Own{model.__name__}", __base__=Section, **fields)


def suggest_fields(path: str, fields: Iterable[str]) -> str:
    """Returns the part of an error message that names fields like an unknown one.

    Args:
      path: path of the unknown field.
      fields: paths of all fields. Fields with the same last name are the nearest, then
        those with a similar path.

    >>> suggest_fields("data.btach_size", ["data.batch_size", "seed"])
    'no such field; nearest: data.batch_size'
    """
    fields, last = list(fields), path.rpartition(".")[2]
    near = [name for name in fields if name.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(path, fields, 3)
    return "no such field" + (f"; nearest: {', '.join(near)}" if near else "")


def raise_for_faults(faults: Iterable[str]) -> None:
    """Raises an error if there are error lines.

    Args:
      faults: error lines about combinations of fields, each ``<path of a field>: found
        VALUE, expected WHAT``.

    Raises:
      PydanticCustomError: there is a line. The type is ``rules``, the message the
        lines.
    """
    if lines := "\n".join(faults):
        raise PydanticCustomError("rules", "{lines}", {"lines": lines})
