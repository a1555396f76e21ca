"""The import of matplotlib, which the settings of a user cannot make fail."""

import contextlib
import importlib.util
import logging
import os
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Drops messages of matplotlib about the user's settings and cache.

    >>> with quietly():
    ...     import_matplotlib().__name__
    'matplotlib'
    """
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def import_matplotlib() -> ModuleType:
    """Imports matplotlib, without the user's settings if they make that fail.

    >>> import_matplotlib().__name__
    'matplotlib'
    """
    try:
        import matplotlib
    except ImportError:
        raise
    except Exception:  # an unknown backend, a file that cannot be read
        from unittest import mock

        for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]
        spec = importlib.util.find_spec("matplotlib")
        assert spec is not None
        assert spec.origin is not None
        packaged = pathlib.Path(spec.origin).parent / "mpl-data" / "matplotlibrc"
        environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
        environment["MATPLOTLIBRC"] = str(packaged)
        is_folder = os.path.isdir
        # A file in the working directory would come before that of the environment.
        is_skipped = lambda path: path == "matplotlibrc" or is_folder(path)
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch("os.path.isdir", is_skipped),
        ):
            import matplotlib
    return matplotlib
