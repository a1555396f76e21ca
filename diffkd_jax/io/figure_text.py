"""Texts of figures: names that may hold any letters, and the fonts that have them."""

import contextlib
import functools
import logging
from collections.abc import Sequence

from .best_effort import add_note
from .matplotlib_import import import_matplotlib, quietly

LOG = logging.getLogger(__name__)
FONT = "DejaVu Sans"  # comes with matplotlib
# Fonts for other letters, in the order in which they are tried if installed.
OTHER_FONTS = (
    *(f"Noto Sans CJK {region}" for region in ("JP", "SC", "TC", "KR", "HK")),
    *(f"Source Han Sans{region}" for region in ("", " SC", " TC", " K")),
    *(f"Noto Sans {region}" for region in ("JP", "SC", "TC", "KR", "Thai")),
    *("Noto Sans Devanagari", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Droid Sans Fallback", "IPAexGothic", "IPAGothic", "TakaoGothic", "NanumGothic"),
    *("Hiragino Sans", "PingFang SC", "PingFang HK", "Apple SD Gothic Neo"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
    *("Arial Unicode MS", "FreeSans", "Unifont"),
)


def literal(text: str, length: int = 40) -> str:
    r"""Returns a text that matplotlib shows literally.

    Formulas are escaped, long texts are cut, and letters that no installed font has
    become "?".

    Args:
      text: any text, such as a name.
      length: number of letters after which it is cut.

    >>> literal("$_^$")
    '\\$_^\\$'
    """
    text = text.encode("utf-8", "replace").decode()
    if missing := _missing_letters(text):
        text = "".join("?" if c in missing else c for c in text)
    text = text if len(text) <= length else f"{text[: length - 3]}..."
    text = f" {text}" if text.startswith("_") else text  # legends leave such names out
    return text.replace("$", r"\$")


def labels(names: Sequence[str], length: int = 40) -> list[str]:
    """Returns the names of classes for a figure, or their numbers.

    Numbers take the place of all names if one of the letters is in no installed font.
    Then the report lists the names, see :func:`diffkd_jax.io.best_effort.noting`.

    Args:
      names: names of all classes, in order.
      length: number of letters after which a name is cut.

    >>> labels(["cat", "a_very_long_name"], 10)
    ['cat', 'a_very_...']
    """
    plain = [name.encode("utf-8", "replace").decode() for name in names]
    missing = {c for c in _missing_letters("".join(plain)) if c.isprintable()}
    if not missing:
        return [literal(name, length) for name in names]
    _tell_of_letters()
    listed = ", ".join(f"{k}: {name}" for k, name in enumerate(plain))
    add_note(f"Classes by their numbers in the figures: {listed}")
    return [str(k) for k in range(len(names))]


@functools.cache
def _tell_of_letters() -> None:
    """Logs once that the figures do not show the names of classes."""
    LOG.warning(
        "figures: found names of classes with letters that no installed font has; the "
        "figures number the classes, and the report lists their names; install a font "
        "such as Noto Sans CJK to have them in the figures"
    )


@functools.cache
def letters_by_font() -> dict[str, frozenset[str]]:
    """Returns the letters of each installed font, by the name of the font.

    Only :data:`FONT` and :data:`OTHER_FONTS` are looked up, in their order.

    >>> "a" in letters_by_font()[FONT]
    True
    """
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    installed = {font.name for font in fontManager.ttflist}
    letters = {}
    for family in (FONT, *OTHER_FONTS):
        if family in installed:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # damaged
                file = fontManager.findfont(
                    FontProperties(family=[family]), fallback_to_default=False
                )
                letters[family] = frozenset(map(chr, get_font(file).get_charmap()))
    return letters


def _missing_letters(text: str) -> set[str]:
    r"""Returns the characters of a text that no font can show.

    >>> sorted(_missing_letters("a\x07\n"))
    ['\x07']
    """
    if text.isascii() and text.isprintable():
        return set()
    with quietly():
        import_matplotlib()
        drawable = frozenset("\n").union(*letters_by_font().values())
    return set(text) - drawable
