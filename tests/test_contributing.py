"""Tests what contributors and CI run: the same checks, with the versions allowed."""

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
RUN = (ROOT / ".ci/run").read_text()


def test_hooks_and_ci_run_the_same_checks():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    entries = re.findall(r"^ +entry: (.+)$", hooks, re.MULTILINE)
    checks = RUN[RUN.index("ruff format") : RUN.index("\npytest\n")]
    checks = checks.replace(" --check", "").replace(" .\n", "\n")
    checks = checks.replace('"$environment/pydoclint/bin/flake8"', "flake8")
    assert entries == checks.splitlines()
    (packages,) = re.findall(r"additional_dependencies: \[(.+)\]", hooks)
    assert f'pip" install -q {packages.replace(",", "")}\n' in RUN


def test_ci_runs_the_script_with_the_oldest_and_the_newest_versions():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.search(r"run: .*\.ci/run$", workflow, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    tested = re.findall(r'python: "(.+)"', workflow)
    versions = [c.rpartition(" ")[2] for c in project["classifiers"] if ":: 3." in c]
    assert tested == [versions[0], versions[-1]]
    assert tested[0] == oldest


def test_the_constraints_are_the_oldest_versions_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = [d.replace(">=", "==") for d in project["dependencies"]]
    lines = (ROOT / ".ci/oldest.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert {"jax", "jaxlib", "flax"} <= {pin.partition("==")[0] for pin in pins}
    assert not set(pins) - set(floors)
