"""If the home folder is unknown, an error names it, or the command needs none."""

import jax
import pytest

from diffkd_jax.backend import compilation_cache
from diffkd_jax.config import recipes
from diffkd_jax.data.formats import single_files

UNKNOWN = "~nobody_of_this_name/x"


def test_an_unknown_home_is_named():
    with pytest.raises(ValueError, match=r"^data\.path: found '~nobody"):
        single_files.require_path(UNKNOWN)
    with pytest.raises(ValueError, match=r"^--config: found '~nobody"):
        recipes.recipe_file(UNKNOWN)


def test_no_programs_are_kept_in_an_unknown_home():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        compilation_cache.keep_programs(UNKNOWN)
        assert not jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
