"""The table of augmentations, and that nothing else tells them apart by name."""

import ast
import pathlib
import typing

import diffkd_jax
from diffkd_jax.config.augmentations import AUGMENTATIONS, AugmentationName

PACKAGE = pathlib.Path(diffkd_jax.__file__).parent


def test_each_name_of_the_config_has_its_facts():
    assert [*AUGMENTATIONS] == [*typing.get_args(AugmentationName)]
    facts = list(AUGMENTATIONS.values())
    assert len({*facts}) == len(facts)


def test_no_code_compares_the_name_of_an_augmentation():
    names = {*AUGMENTATIONS} - {"none"}
    compared = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                values = {
                    part.value
                    for part in ast.walk(node)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
                if values & names:
                    compared.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    assert compared == []
