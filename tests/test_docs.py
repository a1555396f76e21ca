"""Tests README and docs/: every command parses, every link leads somewhere."""

import itertools
import json
import pathlib
import re
import shlex

import pytest
from absl import flags

import diffkd_jax
from diffkd_jax import export_weights, import_weights, main
from diffkd_jax.config import base
from diffkd_jax.config.command_line import define_flags

ROOT = pathlib.Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# Ends one command in a line of a shell.
ENDS = {"&", "&&", "|", "||", ";"}
TOOLS = {
    "diffkd_jax.export_weights": export_weights.main,
    "diffkd_jax.import_weights": import_weights.main,
}


def commands(text):
    """Returns the commands of all bash blocks, each as a list of words."""
    lists = []
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            for ends, group in itertools.groupby(words, key=ENDS.__contains__):
                if not ends:
                    lists.append(list(group))
    return lists


def test_commands_are_read_as_a_shell_reads_them():
    text = '```bash\na --b="c, d" \\\n  e && f & # g\n\nh\n```\n'
    assert commands(text) == [["a", "--b=c, d", "e"], ["f"], ["h"]]


def calls(module):
    """Returns every ``python -m MODULE`` command, with its page, as parameters."""
    return [
        pytest.param(words[3:], id=f"{page.stem}-{i}")
        for page in PAGES
        for i, words in enumerate(commands(page.read_text()))
        if words[:3] == ["python", "-m", module]
    ]


def parsed(arguments, monkeypatch):
    """Returns the config of a command line, or raises SystemExit with its error."""
    values = flags.FlagValues()
    define_flags(values)
    monkeypatch.setattr("sys.argv", [])
    main.parse_flags(["main", *arguments], values)
    return values.config


@pytest.fixture
def finished_run(tmp_path, monkeypatch):
    """The root of the project in a folder where ``runs/example`` is a run's record."""
    for name in ("configs", "experiments", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    workdir = tmp_path / "runs/example"
    workdir.mkdir(parents=True)
    config = parsed(["--config=quickstart:smoke"], monkeypatch)
    record = json.loads(config.to_json_best_effort())
    record["version"] = diffkd_jax.__version__
    (workdir / "config.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.usefixtures("finished_run")
@pytest.mark.parametrize("arguments", calls("diffkd_jax.main"))
def test_every_command_line_is_accepted(arguments, monkeypatch):
    assert parsed(arguments, monkeypatch).name


@pytest.mark.parametrize("module", TOOLS)
def test_every_tool_knows_its_flags(module, capsys):
    """Every file is absent, so a command whose flags are right says so in one line."""
    lines = calls(module)
    assert lines
    for (arguments,) in (line.values for line in lines):
        absent = [re.sub("^--from=.*", "--from=absent", a) for a in arguments]
        assert TOOLS[module](absent) == 1
        assert "absent" in capsys.readouterr().err


def first_command(page):
    return commands(page.read_text())[0][3:]


TRAINS = [
    page
    for page in DOCS
    if BLOCK.search(page.read_text())
    and "diffkd_jax.main" in commands(page.read_text())[0]
]


@pytest.mark.parametrize("page", [pytest.param(p, id=p.stem) for p in TRAINS])
def test_the_first_command_of_a_page_runs_as_it_stands(page, monkeypatch, capsys):
    """A dry run builds all that the run needs."""
    monkeypatch.chdir(ROOT)
    config = parsed(first_command(page), monkeypatch)
    config.dry_run, config.distributed.enabled = True, False
    config.compare = ()  # one method is enough here
    config.comparison = base().comparison
    main.run(config)
    assert "parameters" in capsys.readouterr().out


# Pages whose first command is not one of training, and what runs it.
ELSEWHERE = {
    "design": "lint-imports in .ci/run",
    "deviations": "the file of tests that it names",
    "training-loop": "the page itself, whose examples are tests",
    "weights": "the next test",
}


def test_the_first_command_of_every_page_is_run():
    others = {page.stem for page in DOCS} - {page.stem for page in TRAINS}
    assert others == {"README", *ELSEWHERE}


@pytest.mark.usefixtures("finished_run")
def test_the_first_command_on_weights_writes_a_file(capsys):
    (to,) = (a for a in first_command(ROOT / "docs/weights.md") if "--to=" in a)
    assert export_weights.main(first_command(ROOT / "docs/weights.md")) == 0
    assert pathlib.Path(to.removeprefix("--to=")).stat().st_size
    assert "named as by" in capsys.readouterr().out


def test_a_page_starts_with_a_command():
    for page in DOCS:
        if page.name != "README.md":
            assert re.match(r"# [^\n]+\n\n```bash\n", page.read_text()), page
            for word in first_command(page):
                if word.startswith(("tests/", "docs/")):
                    assert (ROOT / word).exists(), word


def anchor(heading):
    """Returns the anchor that GitHub gives to a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name):
    page = ROOT / name
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"https?://", link):
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if fragment:
            headings = HEADING.findall(FENCED.sub("", target.read_text()))
            assert fragment in map(anchor, headings), link


def test_the_index_names_every_page():
    index = LINK.findall((ROOT / "docs/README.md").read_text())
    for page in DOCS:
        assert page.name == "README.md" or page.name in index, page


def test_the_design_names_every_folder_of_the_package():
    design = (ROOT / "docs/design.md").read_text()
    for folder in (ROOT / "diffkd_jax").iterdir():
        if (folder / "__init__.py").exists():
            assert f"| `{folder.name}/` |" in design


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
