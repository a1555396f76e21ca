"""What a section of a config is: a frozen model whose fields say what they may be."""

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
    """The mark of a field that may change between two calls on one workdir."""


class OfMachine(Free):
    """The mark of a free field that belongs to the machine a command runs on."""


class Section(pydantic.BaseModel):
    """A group of fields. The line below a field says what it means.

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
        """Returns a copy with other values, which are not checked."""
        return self.model_copy(update=fields)


class FieldOf(NamedTuple):
    """A field of a model: its path, its type with all marks, default and meaning."""

    path: str
    kind: Any
    default: Any
    meaning: str

    def has(self, mark: type[Free]) -> bool:
        """Returns whether the field has a mark, or one derived from it."""
        marks = getattr(self.kind, "__metadata__", ())
        return any(isinstance(m, type) and issubclass(m, mark) for m in marks)


def fields_of(model: type[Section], at: str = "") -> Iterator[FieldOf]:
    """Yields the fields of a model, and those of the sections in it.

    Args:
      model: a section.
      at: what stands in front of each path.

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
    """Returns the model of a field that is a section, None for other fields."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def type_of(info: FieldInfo) -> Any:
    """Returns the type of a field with all its marks."""
    marks = tuple(info.metadata)
    return Annotated[(info.annotation, *marks)] if marks else info.annotation


def optional(model: type[Section], *names: str, without: str = "") -> type[Section]:
    """Returns a model of the same fields, each of which may be None and is so at first.

    Args:
      model: a section that holds no others. Its rules between fields do not count.
      *names: the fields to take, all by default.
      without: a field to leave out.
    """
    fields: dict[str, Any] = {
        name: (type_of(info) | None, pydantic.Field(None, description=info.description))
        for name, info in model.model_fields.items()
        if name in (names or model.model_fields) and name != without
    }
    return pydantic.create_model(f"Own{model.__name__}", __base__=Section, **fields)


def nearest_names(path: str, known: Iterable[str]) -> str:
    """Says what to write in place of the path of a field that is not there.

    Args:
      path: of the unknown field.
      known: paths of all fields; those with the same last name are nearest.

    >>> nearest_names("data.btach_size", ["data.batch_size", "seed"])
    'no such field; nearest: data.batch_size'
    """
    known, last = list(known), path.rpartition(".")[2]
    near = [name for name in known if name.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(path, known, 3)
    return "no such field" + (f"; nearest: {', '.join(near)}" if near else "")


def raise_problems(faults: Iterable[str]) -> None:
    """Raises if rules between fields are broken.

    Args:
      faults: lines, each ``<path of a field>: found VALUE, expected WHAT``.

    Raises:
      PydanticCustomError: of the type ``rules``, with the lines.
    """
    if lines := "\n".join(faults):
        raise PydanticCustomError("rules", "{lines}", {"lines": lines})
