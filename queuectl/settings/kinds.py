"""The kinds of settings: how each is read, and which values it takes.

spool-layout.md, section "config.json".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from queuectl.system.files import is_program
from queuectl.units import (
    are_codes,
    duration_text,
    parse_codes,
    parse_duration,
    parse_number,
    parse_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(NamedTuple):
    """A kind of setting: its range in words, how it is read from text, and what it accepts."""

    range: str
    read: Callable[[str], Any]
    accepts: Callable[[Any], bool]
    in_words: bool = False  # config.json may also give it as text, such as "2h", "10M" or "0,3"

    def value_of(self, text: str) -> Any:
        """Return the value that a text stands for.

        Raises:
            ValueError: the text stands for no value that the setting takes.
        """
        value = self.read(text)
        if not self.accepts(value):
            raise ValueError(text)
        return value


def integer(low: int, high: int) -> Kind:
    """Return the kind that takes integers from `low` to `high`."""
    return Kind(
        f"an integer from {low} to {high}",
        lambda given: parse_number(given, int),
        lambda value: _is_integer(value) and low <= value <= high,
    )


def real(low: float, high: float) -> Kind:
    """Return the kind that takes numbers from `low` to `high`."""
    text = f"a number from {low:g} to {high:g}"
    return Kind(text, lambda given: _tidy(parse_number(given, float)), _between(low, high))


def seconds(low: float, high: float) -> Kind:
    """Return the kind that takes durations from `low` to `high`, in seconds."""
    span = f"{_short(low)} to {_short(high)}"
    text = f"a duration from {span}, such as 90, 90s, 15m, 2h"
    numbers = _between(low, high)
    return Kind(text, lambda given: _tidy(parse_duration(given)), numbers, in_words=True)


def choice(*words: str) -> Kind:
    """Return the kind that takes these words."""
    return Kind(f"one of {', '.join(words)}", str, lambda value: value in words)


def optional(kind: Kind) -> Kind:
    """Return the kind that takes what `kind` takes, and also None, written `none`."""
    return Kind(
        f"{kind.range}, or none",
        lambda text: None if text.lower() == "none" else kind.read(text),
        lambda value: value is None or kind.accepts(value),
        kind.in_words,
    )


def _short(seconds: float) -> str:
    """Return a round duration without its zeros: `1h`, not `1h00m`."""
    text = duration_text(seconds) if seconds else "0"
    return text.replace(".0s", "s").removesuffix("00h").removesuffix("00m")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _between(low: float, high: float) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        number = _is_integer(value) or isinstance(value, float)
        return number and low <= value <= high  # false for inf and nan

    return accepts


def _tidy(value: float) -> float | int:
    return int(value) if math.isfinite(value) and value == int(value) else value


def _read_switch(text: str) -> bool:
    if text.lower() in ("true", "yes", "on"):
        return True
    if text.lower() in ("false", "no", "off"):
        return False
    raise ValueError(text)


SWITCH = Kind("true or false", _read_switch, lambda value: isinstance(value, bool))


PROGRAM = Kind(
    "the absolute path of a program that exists",
    str,
    lambda value: isinstance(value, str) and value.startswith("/") and is_program(value),
)

SIZE = Kind(
    "a size in bytes, such as 65536, 64k, 10M, from 4096",
    parse_size,
    _between(4096, 1 << 50),
    in_words=True,
)
_SOME_CODES = "exit codes from 0 to 255, such as 0,3 or 64-78"
CODES = Kind(f"{_SOME_CODES}, or none", parse_codes, are_codes, in_words=True)


def _read_success_codes(text: str) -> list[int]:
    """Read exit codes, at least one: with none, no job could complete (config.json may say so)."""
    codes = parse_codes(text)
    if not codes:
        raise ValueError(text)
    return codes


SUCCESS_CODES = Kind(f"{_SOME_CODES}, at least one", _read_success_codes, are_codes, in_words=True)


def _read_retention(text: str) -> int | str:
    return int(text) if text.isdecimal() else text.strip()


def _is_retention(value: Any) -> bool:
    if isinstance(value, str):
        try:
            parse_duration(value)
        except ValueError:
            return False
        return value[-1:].isalpha()  # with its unit: a bare number is a count
    return _is_integer(value) and 0 <= value < 1 << 53


RETENTION = Kind(
    "an age such as 12h or 7d, or a count such as 1000",
    _read_retention,
    _is_retention,
    in_words=True,
)
