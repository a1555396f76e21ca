"""Public docstrings say what a function does, or what an instance of a class is."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "diffkd_jax"
VERBS = """
Adds Appends Applies Asks Assigns Augments Averages Binds Brings Builds Calls Casts
Catches Centres Changes Checks Claims Clears Clips Closes Collects Compares Compiles
Composes Computes Concatenates Connects Continues Converts Convolves Copies Counts
Creates Crops Cuts Decides Decodes Defines Denoises Describes Divides Draws Drops
Encodes Ends Erases Evaluates Exits Exports Fills Finds Flushes Folds Gathers Gives
Groups Guards Holds Imports Initialises Interleaves Joins Keeps Leaves Lets Lists Loads
Locks Logs Looks Makes Maps Marks Matches Merges Mixes Moves Multiplies Names Normalises
Notes Opens Pads Parses Places Plans Pools Predicts Prepares Prints Projects Puts Raises
Reads Records Refuses Removes Renames Replaces Reports Reshapes Resizes Restores Returns
Rounds Runs Saves Says Scales Selects Sends Sets Shifts Shows Sorts Splits Starts Stops
Strips Sums Suppresses Swaps Takes Tells Tests Trains Turns Updates Waits Warns Weighs
Wraps Writes Yields
"""
OPENINGS = {"How", "In", "Of", "What", "Where", "Whether", "Which", "Whose"}


def public_docstrings(tree, prefix=""):
    """Kind, name and docstring of each public function and class in a module."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        yield kind, prefix + node.name, ast.get_docstring(node)
        if kind == "class":
            yield from public_docstrings(node, f"{node.name}.")


def faults(text):
    """Names whose docstring is missing or begins with another kind of word."""
    wrong = []
    for kind, name, docstring in public_docstrings(ast.parse(text)):
        first = (docstring or "").split(" ", 1)[0]
        is_verb = first in VERBS.split()
        is_noun = first[:1].isupper() and first not in OPENINGS and not is_verb
        if not (is_noun if kind == "class" else is_verb):
            wrong.append(f"{kind} {name}: {first!r}")
    return wrong


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_docstrings_begin_with_a_verb_or_a_noun(file):
    assert not faults(file.read_text())


def test_other_beginnings_are_found():
    assert faults('def read():\n    """The bytes of a file."""')
    assert faults('def read():\n    """Whether a file is read."""')
    assert faults("def read():\n    return 1")
    assert faults('class Box:\n    """What a box is."""')
    assert faults('class Box:\n    """Returns a box."""')
    assert not faults('class Box:\n    """A box."""')
    assert not faults('def read():\n    """Reads a file."""')
