"""Durations, sizes, times and exit codes as people write them; text for terminals (pure)."""

from __future__ import annotations

import json
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

N = TypeVar("N", int, float)

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*", re.ASCII)
_DURATION = re.compile(rf"\d+(?:\.\d+)?|(?:{_SPAN.pattern})+", re.ASCII)
YEAR_S = 366 * 86400  # the longest delay that a setting or a job may have
_LONGEST_S = 1000 * 365 * 86400  # datetime's calendar ends 7000 years from now
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])?(?:i?b)?", re.ASCII | re.IGNORECASE)
_CODES = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?", re.ASCII)
_BYTES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_number(text: str, kind: Callable[[str], N]) -> N:
    """Return the `int` or `float` in a text, but not in a form of Python's own, such as `1_0`.

    Raises:
        ValueError: it is not such a number.
    """
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return kind(text)


def parse_duration(text: str) -> float:
    """Return the seconds that `90`, `90s`, `15m`, `1h30m` or `7d` stand for.

    Raises:
        ValueError: it is not a duration, or longer than a thousand years.
    """
    text = text.strip()
    if _DURATION.fullmatch(text) is None:
        raise ValueError(f'"{text[:40]}" is not a duration: write seconds, or 90s, 15m, 1h30m, 7d')
    # searching for units where there are none takes quadratic time
    spans = _SPAN.findall(text) if text[-1].isalpha() else [(text, "s")]
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in spans)
    if seconds > _LONGEST_S:
        raise ValueError(f'"{text[:40]}" is longer than 1000 years')
    return seconds


def parse_size(text: str) -> int:
    """Return the bytes that `4096`, `64k` or `10M` stand for.

    Raises:
        ValueError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'"{text}" is not a size: write bytes, or 64k, 10M, 1G')
    try:
        return int(float(match[1]) * _BYTES.get((match[2] or "").lower(), 1))
    except OverflowError:
        raise ValueError(f'"{text}" is out of range') from None


def parse_codes(text: str) -> list[int]:
    """Return the exit codes, sorted, that `0,3` or `0 64-78` stand for; none for `none` or `""`.

    Raises:
        ValueError: a word is neither a number nor a range.
    """
    if text.strip() == "none":
        return []
    words = (word for word in text.replace(",", " ").split() if word != '""')
    return sorted({code for word in words for code in _code_range(word)})


def are_codes(value: Any) -> bool:
    """Tell whether a value is a list of exit codes."""
    return isinstance(value, list) and all(type(code) is int and 0 <= code <= 255 for code in value)


def codes_text(codes: Iterable[int]) -> str:
    """Return exit codes as `parse_codes` reads them: `0,3,64-78`, or `none`."""
    spans: list[list[int]] = []
    for code in sorted(set(codes)):
        if spans and code == spans[-1][-1] + 1:
            spans[-1].append(code)
        else:
            spans.append([code])
    words = (
        f"{span[0]}-{span[-1]}" if len(span) > 2 else ",".join(map(str, span)) for span in spans
    )
    return ",".join(words) or "none"


def _code_range(word: str) -> range:
    match = _CODES.fullmatch(word)
    codes = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
    if not codes:
        raise ValueError(f"{word} is no range of exit codes")
    return codes


@lru_cache(maxsize=8)
def second_text(epoch_s: int) -> str:
    """Return a whole second as ISO 8601 in UTC, without the `Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def utc_text(epoch_s: float) -> str:
    """Return an instant as records hold it: ISO 8601 in UTC, with microseconds and `Z`."""
    whole, micros = divmod(int(epoch_s * 1_000_000), 1_000_000)
    return f"{second_text(whole)}.{micros:06d}Z"


_DECIMALS = re.compile("[.,]([0-9]+)")


def parse_time(text: str, *, local: bool = False, example: str = "2030-01-31T08:00:00Z") -> float:
    """Return an ISO 8601 time in seconds since the epoch.

    A time without a zone is local time if `local` is true, else an error.

    Raises:
        ValueError: it is not such a time; if it is not ISO 8601, the message gives `example`.
    """
    from datetime import datetime  # takes 3 ms to import, and most commands do not need it

    try:
        # Python 3.10 accepts no "Z", and only 3 or 6 decimals; Go writes nine.
        plainer = _DECIMALS.sub(lambda found: f".{found[1]:0<6.6}", text.strip().upper())
        if plainer.endswith("Z"):
            plainer = f"{plainer[:-1]}+00:00"
        moment = datetime.fromisoformat(plainer)
    except ValueError:
        raise ValueError(f'"{text}" is not an ISO 8601 time such as {example}') from None
    if moment.tzinfo is None and not local:
        raise ValueError(f'"{text}" has no time zone: end it with Z or +02:00')
    try:
        return moment.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f'"{text}" is out of range') from None


def parse_time_or_clock(text: str, now_s: float) -> float:
    """Return when the local time of day `08:00` or `08:00:30` comes next, in epoch seconds.

    During that minute (or second) it is not over yet: a cron job of 08:00 runs some time after.
    Other text is read by `parse_time`, as local time if it has no zone.

    Raises:
        ValueError: the text is neither.
    """
    from datetime import datetime, timedelta

    try:
        form, lasts_s = ("%H:%M:%S", 1) if text.count(":") == 2 else ("%H:%M", 60)
        clock = datetime.strptime(text.strip(), form)  # noqa: DTZ007 - only its time of day counts
    except ValueError:
        example = "2030-01-31T08:00:00Z, a time of day such as 08:00, or now"
        return parse_time(text, local=True, example=example)
    today = datetime.fromtimestamp(now_s).replace(  # noqa: DTZ006 - local time is what is meant
        hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0
    )
    # on a day when clocks are set back, this time may come twice
    times = [today.replace(fold=0), today.replace(fold=1), today + timedelta(days=1)]
    return next(at_s for at_s in map(datetime.timestamp, times) if at_s + lasts_s > now_s)


def instant(value: object) -> float | None:
    """Return a time from a record in seconds since the epoch; None if it is not a valid time."""
    if not isinstance(value, str):
        return None
    try:
        return parse_time(value)
    except ValueError:
        return None


def local_text(epoch_s: float) -> str:
    """Return an instant as people are shown it: local time to the second, with its zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(epoch_s))


def zone_s(epoch_s: float) -> int:
    """Return how many seconds local time is ahead of UTC at an instant."""
    return time.localtime(epoch_s).tm_gmtoff


def duration_text(seconds: float) -> str:
    """Return a duration in at most two units: `850ms`, `12.3s`, `4m05s`, `2h13m`, `3d04h`."""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = max(60, int(seconds))  # 59.95 s and more are shown as a minute
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size_text(size_bytes: int) -> str:
    """Return a size in the largest unit that leaves a whole part: `512 B`, `64.0 KiB`."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < (1024 if unit == "B" else 1023.95):  # more would be shown as 1024.0
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def plural(word: str, number: int) -> str:
    """Return a noun as it stands after a number: `job` or `jobs`."""
    return word if number == 1 else f"{word}s"


def plain(text: str) -> str:
    """Return text with unprintable characters escaped, so that it cannot control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def show(value: object) -> str:
    """Return a value as JSON, shortened to fit into an error message."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):  # not JSON, or a number with more digits than str() writes
        text = f"something of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
