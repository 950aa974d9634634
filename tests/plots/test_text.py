"""People's names in figures: each letter as it is, whatever it means to Matplotlib."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from zfnet.plots import captioned, literal, text


def drawn(said: str, **how) -> np.ndarray:
    """The pixels of a line of text."""
    figure = plt.figure(figsize=(3, 0.5))
    figure.text(0.02, 0.3, said, **how)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba()).copy()
    plt.close(figure)
    return pixels


@pytest.mark.parametrize("name", ["$x_{", "a$b$c", "$", "{a}_b^c", r"\alpha $\beta$", "_a", "%s"])
def test_a_name_is_drawn_letter_by_letter(name):
    expected = drawn(name, parse_math=False)
    assert np.array_equal(drawn(literal(name)), expected)
    assert (expected < 128).any()


def test_a_name_that_begins_with_a_line_stands_in_a_legend():
    figure, axis = plt.subplots()
    legend = axis.legend([plt.Rectangle((0, 0), 1, 1)] * 2, [literal("_a"), literal("b")])
    figure.canvas.draw()
    assert [each.get_text().strip("\u200b") for each in legend.get_texts()] == ["_a", "b"]
    plt.close(figure)


def test_titles_are_names_and_captions_may_hold_mathematics():
    figure = captioned(plt.subplots()[0], "$x_{ and $", "$x^2$")
    assert [each.get_text() for each in figure.texts] == [r"\$x_{ and \$", "$x^2$"]
    plt.close(figure)


def test_letters_that_the_font_lacks_come_from_one_that_has_them(monkeypatch):
    """Matplotlib brings fonts with letters that DejaVu Sans does not have."""
    monkeypatch.setitem(mpl.rcParams, "font.family", ["sans-serif"])
    text._find_font.cache_clear()
    own, others = text._own_letters(), {}
    for font in text.font_manager.fontManager.ttflist:
        if not font.name.startswith(text.LAST_RESORT) and font.style == "normal":
            for code in text._letters(font.fname) - own:
                others.setdefault(code, set()).add(font.name)
    code = next(code for code in sorted(others) if chr(code).isprintable() and code > 0x1000)
    literal(f"a{chr(code)}")
    assert set(mpl.rcParams["font.family"][1:]) <= others[code]
    assert len(mpl.rcParams["font.family"]) == 2
    literal("plain")
    assert len(mpl.rcParams["font.family"]) == 2


def test_letters_that_no_font_has_are_said_once(monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "font.family", ["sans-serif"])
    monkeypatch.setattr(text, "_letters", lambda file: frozenset(map(ord, "abc")))
    text._own_letters.cache_clear()
    text._find_font.cache_clear()
    with pytest.warns(UserWarning, match="no installed font has \u732b: boxes are drawn") as caught:
        assert (literal("a\u732b"), literal("b\u732b")) == ("a\u732b", "b\u732b")
    assert len(caught) == 1
    text._own_letters.cache_clear()
    text._find_font.cache_clear()
