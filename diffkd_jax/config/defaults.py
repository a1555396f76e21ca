"""The defaults of all fields as recipes get them, and what recipes share.

A recipe anywhere is a Python file with ``get_config(argument="")`` that starts from
:func:`base`; those in ``configs/`` are installed as ``diffkd_jax.configs``. Configs
hold names and numbers only. Every field is also a flag, such as
``--config.optimizer.learning_rate=0.1`` or ``--config.methods.diffkd.num_steps=3``, and
so is every argument of a model, a task or a data set, such as
``--config.student.options.width=0.5``.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from pydantic.fields import FieldInfo

from ..bounds import plain_type
from ..methods import METHODS
from ..named import argument_types, keywords
from .section import Section, section_in
from .sections import Config


def base() -> ConfigDict:
    """Returns the defaults of all fields; a recipe changes what it needs.

    >>> base().data.batch_size
    64
    """
    config = template(Config)
    config.methods = options_of(METHODS)
    return config


def template(model: type[Section]) -> ConfigDict:
    """Returns the fields of a section with their defaults.

    A value that is set later must have the type of the default.

    Args:
      model: class of the section. A field whose default is None gets a placeholder
        that has its type.

    >>> from .sections import Mesh
    >>> template(Mesh).fsdp
    1
    """
    return ConfigDict({n: _default_of(info) for n, info in model.model_fields.items()})


def _default_of(info: FieldInfo) -> Any:
    model, default = section_in(info), info.default
    if model is not None:
        return template(model)
    if isinstance(default, Mapping):
        return ConfigDict()
    return placeholder(plain_type(info.annotation)) if default is None else default


def options_of(functions: Mapping[str, Callable[..., Any]]) -> ConfigDict:
    """Returns the keyword arguments of functions, with their defaults.

    Args:
      functions: functions by name, such as the methods. The result has one group for
        each name. An argument with default None gets a placeholder of its type.

    >>> options_of({"kd": lambda *, tau=4.0: None}).kd.tau
    4.0
    """
    return ConfigDict(
        {
            name: {
                option: placeholder(plain_type(argument_types(function)[option]))
                if default is None
                else default
                for option, default in keywords(function).items()
            }
            for name, function in functions.items()
        }
    )


def cifar(pair: str, dataset: str) -> ConfigDict:
    """Returns the config of recipe A1 in the paper's appendix, for CIFAR.

    That is 240 epochs of SGD; epochs 150, 180 and 210 divide the learning rate by 10.

    Args:
      pair: ``<teacher>-<student>``, two names of models; or "smoke".
      dataset: "cifar10" or "cifar100".

    Raises:
      ValueError: The pair has no hyphen.

    >>> cifar("wrn_40_2-wrn_16_2", "cifar100").student.model
    'wrn_16_2'
    """
    pair = "wrn_16_2-wrn_16_1" if pair == "smoke" else pair
    teacher, separator, student = pair.partition("-")
    if not separator:
        raise ValueError(f"{dataset}: found {pair!r}, expected <teacher>-<student>")
    config = base()
    config.name = f"{dataset}-{pair}"
    config.teacher.model, config.student.model = teacher, student
    config.data.name = dataset
    config.data.num_classes = 100 if dataset == "cifar100" else 10
    config.data.batch_size = 64
    config.train.epochs = config.teacher.epochs = 240.0
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 5e-4
    config.schedule.boundaries = (150, 180, 210)
    config.log_every_steps = 100
    return config


def parse_argument(
    recipe: str, argument: str, *groups: Iterable[str]
) -> tuple[str, ...]:
    """Returns which word of each group an argument holds, or "" if it holds none.

    Args:
      recipe: name of the recipe, for messages.
      argument: words with commas between them, as after the colon of ``--config``.
      *groups: groups of words. The argument may hold one word of each. No word is in
        two groups.

    Raises:
      ValueError: A word is unknown, or two words are of one group.

    >>> parse_argument("mine", "smoke,big", ["small", "big"], ["smoke"])
    ('big', 'smoke')
    """
    words = [word for word in argument.split(",") if word]
    chosen = [[word for word in words if word in group] for group in groups]
    chosen_words = {word for group in chosen for word in group}
    wrong = [word for word in words if word not in chosen_words]
    wrong += [word for group in chosen for word in group[1:]]
    if wrong:
        expected = " and one of ".join(str(list(group)) for group in groups)
        raise ValueError(f"{recipe}: found {wrong[0]!r}, expected one of {expected}")
    return tuple(group[0] if group else "" for group in chosen)


def shrink(config: ConfigDict) -> ConfigDict:
    """Changes a config to a quick test: two steps on 64 embedded images.

    The argument ``:smoke`` of the packaged recipes uses it.

    Args:
      config: the config of a recipe; it is changed and returned.

    >>> shrink(base()).train.max_steps
    2
    """
    config.name += "-smoke"
    config.data.name, config.data.path = "fashion_mnist_embedded", ""
    config.data.num_classes, config.data.eval_split = 10, "test"
    config.data.mean, config.data.std = (0.2860,), (0.3530,)
    config.data.limit, config.data.batch_size = 64, 16
    config.data.eval_batch_size, config.data.num_workers = 32, 0
    config.train.max_steps, config.log_every_steps = 2, 1
    if not config.teacher.init:
        config.teacher.epochs = 1.0
        if config.schedule.warmup_epochs:
            config.teacher.schedule.warmup_epochs = 0.0
    if config.train.norm_group_size:
        config.train.norm_group_size = 8
    return config
