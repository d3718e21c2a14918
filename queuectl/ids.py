"""Job ids, which are also the names of job files (pure, apart from `new_id`)."""

from __future__ import annotations

import os
import re
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TypeGuard

_MAX_CHARS = 128
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_MAX_CHARS - 1}}}", re.ASCII)


MUST_BE = f"1 to {_MAX_CHARS} of the characters A-Z a-z 0-9 . _ - and begin with a letter or digit"


def is_id(text: object) -> TypeGuard[str]:
    """Tell whether `text` can be a job's id (and so its file's name)."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def as_id(text: str, room: int = 0) -> str:
    """Return the id closest to `text` that leaves `room` characters below the length limit."""
    if is_id(text) and len(text) + room <= _MAX_CHARS:
        return text
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in text)
    return ("x" + plain if not plain[:1].isalnum() else plain)[: _MAX_CHARS - room]


def numbered(job_id: str) -> Iterator[str]:
    """Yield ids to try for a job whose own may be taken: ID, ID.2, ID.3 ..., within the limit."""
    yield as_id(job_id)
    for number in count(2):
        suffix = f".{number}"
        yield as_id(job_id, room=len(suffix)) + suffix


def is_numbered(name: str, job_id: str) -> bool:
    """Tell whether a name is one that `numbered` yields for an id, but not the id itself."""
    stem, _, number = name.rpartition(".")
    is_one = is_id(name) and number.isdecimal()  # is_id first: int() fails above 4300 digits
    return is_one and int(number) > 1 and stem == as_id(job_id, room=len(number) + 1)


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, in sorting order
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_last_us = 0
_MOST_AHEAD_US = 60_000_000


def new_id(now: float) -> str:
    """Return a fresh id of 15 characters that sorts by time: microseconds, then 20 random bits."""
    global _last_us  # noqa: PLW0603 - two ids of one microsecond must still sort
    now_us = max(0, int(now * 1_000_000))
    # if the last id is more than a minute ahead, the clock was set back: follow the clock
    is_ahead = now_us <= _last_us < now_us + _MOST_AHEAD_US
    _last_us = _last_us + 1 if is_ahead else now_us
    value = _last_us << 20 | int.from_bytes(os.urandom(3), "big") & 0xFFFFF
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(70, -1, -10)])[1:]


def is_made(job_id: str) -> bool:
    """Tell whether an id looks as if `new_id` made it, not a person."""
    return len(job_id) == _MADE_CHARS and not set(job_id).difference(_ALPHABET)


_MADE_CHARS = 15


def are(job_ids: Sequence[str], done: str) -> str:
    """Return for a message that something was done to jobs: `a, b, c, ... are cancelled`."""
    return f"{first_of(job_ids)} {'is' if len(job_ids) == 1 else 'are'} {done}"


def first_of(job_ids: Iterable[str], most: int = 3) -> str:
    """Return the first few ids as one text for a message: `a, b, c, ...`."""
    listed = list(job_ids)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
