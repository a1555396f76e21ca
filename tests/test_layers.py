"""Libraries that layers may use, and the cost of a plain import.

Who may import whom within the package is said in pyproject.toml, for import-linter.
"""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "diffkd_jax"
CORE_MAY_USE = {"collections", "dataclasses", "flax", "functools", "jax", "jaxtyping"}
CORE_MAY_USE |= {"logging", "math", "numpy", "optax", "types", "typing"}


def imports(file):
    """Modules that a file imports, ours as dotted paths below the package."""
    package = file.relative_to(PACKAGE.parent).parent.parts
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            modules |= (
                {module}
                if node.module
                else {f"{module}.{alias.name}" for alias in node.names}
            )
    return modules


TRAIN = sorted((PACKAGE / "train").rglob("*.py"))
# Words that only tasks use, in texts and as attributes.
OF_TASKS = {"top1", "label", "class_names", "confusion"}
READS_A_CONFIG = {
    *("build.py", "check.py", "claim.py", "compare.py", "components.py", "train.py"),
    *("dry_run.py", "evaluate.py", "identity.py", "plan.py", "probe.py", "teacher.py"),
    *("planned_runs.py", "use_student.py"),
}


@pytest.mark.parametrize("file", TRAIN, ids=lambda f: f.name)
def test_the_trainer_knows_no_task(file):
    words = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= set(re.findall(r"\w+", node.value))
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
    assert not words & OF_TASKS


@pytest.mark.parametrize("file", TRAIN, ids=lambda f: f.name)
def test_few_files_read_a_config(file):
    names = {
        argument.arg
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        for argument in (*node.args.args, *node.args.kwonlyargs)
    }
    assert "config" not in names or file.name in READS_A_CONFIG


@pytest.mark.parametrize("file", sorted((PACKAGE / "core").rglob("*.py")), ids=str)
def test_core_needs_jax_and_flax_only(file):
    others = {n.partition(".")[0] for n in imports(file)} - {"diffkd_jax"}
    assert others <= CORE_MAY_USE


@pytest.mark.parametrize("file", sorted((PACKAGE / "ops").rglob("*.py")), ids=str)
def test_operations_need_jax_only(file):
    others = {n.partition(".")[0] for n in imports(file)} - {"diffkd_jax"}
    assert others <= {"collections", "jax", "jaxtyping", "numpy", "typing"}


def test_recipes_import_the_base_config_alone():
    files = [*(PACKAGE.parent / "configs").rglob("[!_]*.py")]
    assert files
    for file in files:
        assert imports(file) == {"diffkd_jax.config"}, file


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("diffkd_jax", ["grain", "matplotlib", "orbax", "tensorflow_datasets"]),
        ("diffkd_jax.main, diffkd_jax.config.sections", ["jax", "flax", "grain"]),
    ],
)
def test_import_is_light(modules, heavy):
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_project_speaks_of_itself_alone():
    root = PACKAGE.parent
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False
    ).stdout.decode()
    files = [root / name for name in tracked.split("\0") if name]
    words = ["/work" + "/", "pypi" + ".org", "python" + "hosted", ".library" + "/"]
    for file in files:
        if file.suffix in {".py", ".md", ".toml", ".txt", ".cff", ".json", ".jsonl"}:
            text = file.read_text()
            assert not [word for word in words if word in text], file


@pytest.mark.parametrize(
    "folder", sorted({f.parent for f in PACKAGE.rglob("*.py")}), ids=lambda f: f.name
)
def test_folders_can_be_read_at_a_glance(folder):
    files = [f for f in folder.glob("*.py") if f.name != "__init__.py"]
    assert len(files) <= 16
