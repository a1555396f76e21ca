"""The page of models is what the code says."""

import pathlib

import pytest

from diffkd_jax import model_table, models

PAGE = pathlib.Path(models.__file__).with_name("README.md")


@pytest.mark.slow
def test_the_page_is_up_to_date():
    message = "run: python -m diffkd_jax.model_table > diffkd_jax/models/README.md"
    assert PAGE.read_text() == model_table.table(), message


def test_every_known_file_is_of_a_model():
    assert set(model_table.WEIGHTS) <= set(models.MODELS)
