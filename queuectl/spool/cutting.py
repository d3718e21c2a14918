"""Keeping output small: the middle of a large file is cut out, and a line there says so.

spool-layout.md, section "logs/".
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from queuectl import kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

CHUNK_BYTES = 1 << 16
MARK_BYTES = 100  # room for the line that says what was cut out
LINE_BYTES = 4096  # a cut is moved to the end of a line if one is this near
_DONE = b"cut out here"
_UNDER_WAY = b"being cut..."  # stands there until it is done; has the same length
_MARK_TEXT = b"[queuectl: %d bytes " + _DONE + b": log-max-size]\n"
MARK = re.compile(re.escape(_MARK_TEXT).replace(b"%d", rb"(\d+)"))
PATIENCE_S = 1.0  # a reader has the lock for microseconds
_WRITE_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def cap(path: str, max_bytes: float) -> OSError | None:
    """Cut the middle out of a file larger than `max_bytes`; a line there says how much was cut.

    This is done in place, with no more room on the disk, and no more memory for a large file. If
    the file system refuses, the error is returned, not raised, and the end stays where it was.
    Until the cut is done, the line says that it is under way: if we die, what is below the line may
    be there twice or in part.
    """
    try:
        descriptor = os.open(path, _WRITE_FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size > max_bytes:
            _lock(descriptor, fcntl.LOCK_EX, PATIENCE_S)
            _cut_middle(descriptor, status.st_size, max_bytes)
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
    return None


def kept(max_bytes: float) -> int:
    """Return how many bytes of a cut file are kept, half of them from its beginning."""
    return max(int(max_bytes) - MARK_BYTES, 0)


def mark_of(cut_bytes: int) -> bytes:
    """Return the line that says how many bytes were cut out."""
    return _MARK_TEXT % cut_bytes


def lock_to_read(descriptor: int, max_bytes: float | None, patience_s: float) -> bool:
    """Lock a file against a cut while it is read; False if others have it for over `patience_s`.

    Only a file larger than `max_bytes` may be in a cut, so a smaller one is not locked: a command
    that locks its own output (`flock 1`) must not find us there.
    """
    if max_bytes is None or os.fstat(descriptor).st_size <= max_bytes:
        return True
    return _lock(descriptor, fcntl.LOCK_SH, patience_s)


def _lock(descriptor: int, how: int, patience_s: float) -> bool:
    """Lock a file; False if others have it for longer than `patience_s`: they may be suspended."""
    try:
        return kernel.lock_within(descriptor, how, patience_s)
    except OSError:  # no locks on this file system
        return True


def _cut_middle(descriptor: int, size: int, max_bytes: float) -> None:
    room = kept(max_bytes)
    head = _end_of_line(descriptor, room // 2)
    tail = _start_of_line(descriptor, size - (room - room // 2), size)
    joint = b"" if head == 0 or os.pread(descriptor, 1, head - 1) == b"\n" else b"\n"
    # less the joint: readers compute offsets from the mark, and cannot tell whose newline it is
    mark = joint + mark_of(tail - head - len(joint))
    position = head + _write(descriptor, mark.replace(_DONE, _UNDER_WAY), head)
    # forward, a chunk at a time: what is overwritten was cut out or has already been copied
    for source in range(tail, size, CHUNK_BYTES):
        data = os.pread(descriptor, min(CHUNK_BYTES, size - source), source)
        position += _write(descriptor, data, position)
    os.ftruncate(descriptor, position)
    _write(descriptor, mark, head)


def _write(descriptor: int, data: bytes, position: int) -> int:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], position + written)
    return written


def _end_of_line(descriptor: int, limit: int) -> int:
    """Return the end of the last line that ends before `limit`, if that is near.

    Otherwise return the end of the last carriage return, as a progress bar prints it, or else of
    the last character.
    """
    begin = max(0, limit - LINE_BYTES)
    text = os.pread(descriptor, limit - begin + 1, begin)
    near = text[:-1]
    for end in b"\n", b"\r":
        if (at := near.rfind(end)) >= 0:
            return begin + at + 1
    return limit - _cut_into(reversed(text))


def _start_of_line(descriptor: int, begin: int, size: int) -> int:
    near = os.pread(descriptor, min(LINE_BYTES, size - begin), begin)
    for end in b"\n", b"\r":
        start = begin + near.find(end) + 1
        if begin < start < size:
            return start
    return begin + _cut_into(near)


def _cut_into(text: Iterable[int]) -> int:
    """Return how many of the first bytes, three at most, only continue a character."""
    return sum(1 for _ in takewhile(lambda byte: byte & 0xC0 == 0x80, islice(text, 3)))
