"""What a file system has left, and when that is too little to start anything."""

from __future__ import annotations

import errno
import os
from math import inf
from typing import NamedTuple

_NO_BYTES = 1 << 20
_NO_INODES = 100  # a pool has up to 64 more jobs in hand than it runs


class Room(NamedTuple):
    """What is left, as `df` has it: root in a container may not have what is kept for root."""

    bytes: float  # infinite, as is the next, where no limit is told
    inodes: float

    @property
    def lack(self) -> str:
        """What there is none of for what a command prints, so that it may fail; else empty."""
        if self.bytes < _NO_BYTES:
            return os.strerror(errno.ENOSPC)
        return "No inodes left on device" if self.inodes < _NO_INODES else ""


def room_in(path: str) -> Room:
    """Return what the file system of a file or directory has left.

    Raises:
        OSError: it cannot be told.
    """
    status = os.statvfs(path)
    return Room(
        status.f_bavail * status.f_frsize if status.f_blocks else inf,
        status.f_favail if status.f_files else inf,
    )
