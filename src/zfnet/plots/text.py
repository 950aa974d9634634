"""People's own names in figures: drawn letter by letter as they are."""

import functools
import warnings

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

# draws every letter as a box that names its script
LAST_RESORT = "Last Resort"


def literal(name: str) -> str:
    """A name as Matplotlib draws it unchanged: no dollar begins mathematics, no underscore in front
    hides it from a legend.

    Letters that the figures' font lacks are taken from an installed font that has them; a warning
    says where there is none.
    """
    # bytes of a file's name that are no text
    name = name.encode("utf-8", "replace").decode("utf-8")
    if lacking := frozenset(letter for letter in name if _lacks(letter)):
        _find_font(lacking)
    # a space without width, which the figures' font has
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def _lacks(letter: str) -> bool:
    return letter.isprintable() and not letter.isspace() and ord(letter) not in _own_letters()


@functools.cache
def _own_letters() -> frozenset[int]:
    return _letters(font_manager.findfont("DejaVu Sans"))


@functools.lru_cache(maxsize=512)
def _letters(file: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # listed, but gone or of no use
        return frozenset()


@functools.cache
def _find_font(letters: frozenset[str]) -> None:
    """Add the installed font that has most of these letters to those of figures."""
    codes = {ord(letter) for letter in letters}
    fonts = sorted(
        (font.name, font.fname)
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and not font.name.startswith(LAST_RESORT)
    )
    name, file = max(fonts, key=lambda font: len(codes & _letters(font[1])))
    if not codes <= _letters(file):
        missing = "".join(sorted(chr(code) for code in codes - _letters(file)))
        warnings.warn(
            f"no installed font has {missing[:20]}: boxes are drawn instead. Install one that has,"
            " such as Noto Sans CJK, and delete Matplotlib's font cache"
            f" ({mpl.get_cachedir()})",
            stacklevel=3,
        )
    if name not in mpl.rcParams["font.family"] and codes & _letters(file):
        mpl.rcParams["font.family"] = [*mpl.rcParams["font.family"], name]
