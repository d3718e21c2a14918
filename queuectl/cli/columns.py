"""How many columns of a terminal text takes, and text that takes no more (pure)."""

from __future__ import annotations

from functools import lru_cache


def columns(text: str) -> int:
    """Return how many columns a terminal gives to text."""
    return len(text) if text.isascii() else sum(map(_columns, text))


@lru_cache(maxsize=4096)
def _columns(character: str) -> int:
    from unicodedata import combining, east_asian_width  # most text is ASCII, and needs neither

    if combining(character):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def fit(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return text of at most `width` columns, with a mark where it was cut."""
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
    """Return text of at most `width` columns, with `...` where its middle was cut out.

    What differs between commands of one kind is at their end.
    """
    if columns(text) <= width:
        return text
    tail = fit_end(text, max(0, (width - 3) * 2 // 3))
    return fit(text, width - columns(tail), ascii_only=True) + tail


def fit_end(text: str, width: int) -> str:
    """Return the end of text, of at most `width` columns."""
    begin = len(text)
    while begin > 0 and (width := width - columns(text[begin - 1])) >= 0:
        begin -= 1
    return text[begin:]


def pad(text: str, width: int) -> str:
    """Return text of exactly `width` columns."""
    cut = fit(text, width)
    return cut + " " * (width - columns(cut))
