"""Each public name of the package means one thing."""

import ast
import collections
import pathlib

import pytest

import diffkd_jax
from diffkd_jax import config

PACKAGE = pathlib.Path(__file__).parents[1] / "diffkd_jax"
OF_TASKS = "what a Task is made of, one for each task"
# Names that several modules share, each with the reason.
SHARED = {
    **dict.fromkeys(("chance", "evidence", "predict", "score"), OF_TASKS),
    **dict.fromkeys(("draw", "show", "write"), OF_TASKS),
    "detect": "detection by networks of one stage and of two",
    "options_taken": "options of a name in a registry, asked of either in one place",
    "main": "the entry of a command",
    **dict.fromkeys(
        ("cwd", "dist", "dkd", "fgd", "mse"),
        "a method and the distance that it consists of, by the name in the paper",
    ),
}


def homes():
    """Modules of each public function and class at the top of a module, by name."""
    modules = collections.defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            if isinstance(node, kinds) and not node.name.startswith("_"):
                modules[node.name].append(str(file.relative_to(PACKAGE)))
    return modules


def test_no_two_public_functions_or_classes_share_a_name():
    several = {name: files for name, files in homes().items() if len(files) > 1}
    assert {n: f for n, f in several.items() if n not in SHARED} == {}
    assert SHARED.keys() - several.keys() == set(), "shared by nothing any more"


@pytest.mark.parametrize("package", [diffkd_jax, config], ids=lambda p: p.__name__)
def test_each_name_of_a_package_can_be_imported(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
