"""The width of text in terminal columns, and cutting text to a width (pure)."""

from __future__ import annotations

from functools import lru_cache


def columns(text: str) -> int:
    """Return how many terminal columns a text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


@lru_cache(maxsize=4096)
def _columns(character: str) -> int:
    from unicodedata import combining, east_asian_width  # most text is ASCII and needs neither

    if combining(character):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def fit(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return `text` in at most `width` columns, with an ellipsis at its end if it was cut."""
    if columns(text) <= width:
        return text
    mark = "..." if ascii_only else "…"
    room = width - len(mark)
    if room < 0:
        return ""
    kept = ""
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept += character
    return kept + mark


def fit_ends(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, with `...` where its middle was cut out.

    Two thirds of what is kept are its end, where commands of one kind differ.
    """
    if columns(text) <= width:
        return text
    tail = fit_end(text, max(0, (width - 3) * 2 // 3))
    return fit(text, width - columns(tail), ascii_only=True) + tail


def fit_end(text: str, width: int) -> str:
    """Return as much of the end of `text` as fits in `width` columns."""
    begin = len(text)
    while begin > 0 and (width := width - columns(text[begin - 1])) >= 0:
        begin -= 1
    return text[begin:]


def pad(text: str, width: int) -> str:
    """Return `text` cut or filled up with blanks to exactly `width` columns."""
    cut = fit(text, width)
    return cut + " " * (width - columns(cut))
