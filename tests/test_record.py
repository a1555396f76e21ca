"""Draws, names and order are those of the record."""

import json

import pytest

from tests.record import FILE, measure


def test_the_record_holds(tmp_path):
    expected, measured = json.loads(FILE.read_text()), measure(tmp_path)
    for name in ("state", "export", "right"):
        assert measured[name] == expected[name], name
    pairs = zip(measured["rows"], expected["rows"], strict=True)
    for step, (row, wanted) in enumerate(pairs):
        assert row == pytest.approx(wanted, rel=1e-4), f"step {step + 1}"
