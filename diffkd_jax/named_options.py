"""Options of the methods, tasks, models and data sets that a config names.

Their modules are slow to import, so the command line imports them only when asked.
"""

import inspect
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from .bounds import expected
from .config.help import WIDTH
from .config.training import Mix, Train
from .io import console

Function = Callable[..., Any]
# The options of one name: for each, its default and the values that it takes.
Options = Mapping[str, tuple[str, str]]
PLAIN = (bool, int, float, str, Any)  # types that the default shows


def describe_options() -> str:
    """Returns the options of each registered name, with defaults and values.

    Names with the same options stand together. A line for each name whose defaults
    differ from those of the first one gives its own.

    >>> print(describe_options().partition("  diffkd_logits, diffkd_map:")[2][:20])
    <BLANKLINE>
          distance='kl'
    """
    from .data.sources.registry import DATASETS
    from .methods import METHODS
    from .models import MODELS
    from .models.options import option_names
    from .tasks import TASKS

    tables = {
        "methods: --config.methods.METHOD": _options(METHODS, _keyword_names),
        "tasks: --config.task.options": _options(TASKS, _task_options),
        "models: --config.student.options": _options(MODELS, option_names),
        "data sets: --config.data.options": _options(DATASETS, _keyword_names),
    }
    blocks = []
    for title, options in tables.items():
        lines = [f"Options of {title}.OPTION=VALUE", *_describe_groups(options)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _options(
    functions: Mapping[str, Function], names_of: Callable[[Function], Iterable[str]]
) -> dict[str, Options]:
    """Returns the options of each function, by its name."""
    options: dict[str, Options] = {}
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters
        options[name] = {n: _describe(parameters[n]) for n in names_of(function)}
    return options


def _describe(parameter: inspect.Parameter) -> tuple[str, str]:
    kind = parameter.annotation
    return repr(parameter.default), "" if kind in PLAIN else expected(kind)


def _keyword_names(function: Function) -> list[str]:
    """Returns the names of the arguments that can only be passed by name."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _task_options(function: Function) -> list[str]:
    """Returns the options of a task, without those that other sections set."""
    elsewhere = {*Mix.model_fields, *Train.model_fields}
    return [name for name in _keyword_names(function) if name not in elsewhere]


def _describe_groups(options: Mapping[str, Options]) -> Iterator[str]:
    """Yields the lines of a table, in which names with the same options are a group."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, of_name in options.items():
        groups.setdefault(tuple(of_name), []).append(name)
    for names in groups.values():
        first = options[names[0]]
        yield from _wrap(f"{', '.join(names)}:", 2)
        for option, (default, values) in first.items():
            text = f" ({values})" if values else ""
            yield from _wrap(f"{option}={default}{text}", 6)
        if not first:
            yield from _wrap("no options", 6)
        for name in names[1:]:
            differing = [
                f"{option}={default}"
                for option, (default, _) in options[name].items()
                if default != first[option][0]
            ]
            if differing:
                yield from _wrap(f"{name}: {', '.join(differing)}", 6)


def _wrap(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        break_on_hyphens=False,
    )


def drop_options(config: Any, fields_set: Collection[str]) -> None:
    """Drops a recipe's options that the model or data set of the flags lacks.

    Args:
      config: the config of the command line; it is changed.
      fields_set: paths of the fields that the command line sets. Options among them
        stay, so that a wrong one is reported.
    """
    for section, name in (("data", "name"), ("student", "model"), ("teacher", "model")):
        if f"{section}.{name}" not in fields_set:
            continue
        if section == "data":
            from .data.sources.registry import options_taken
        else:
            from .models.registry import options_taken

        options, choice = config[section].options, config[section][name]
        accepted = options_taken(choice)
        unused = [] if accepted is None else sorted(set(options) - accepted)
        unused = [n for n in unused if f"{section}.options.{n}" not in fields_set]
        with options.unlocked():
            for option in unused:
                del options[option]
        if unused:
            console.say(f"{section}.options: left out {unused}, which {choice!r} lacks")
