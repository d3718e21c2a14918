"""Find out how much room a file system has left, and whether that is too little to start jobs."""

from __future__ import annotations

import errno
import os
from math import inf
from typing import NamedTuple

_NO_BYTES = 1 << 20
_NO_INODES = 100  # a pool has up to 64 more jobs in hand than it runs


class Room(NamedTuple):
    """What a file system has left, as `df` counts it: without what is reserved for root.

    Root in a container may not get that.
    """

    bytes: float  # infinite where no limit is reported, as is `inodes`
    inodes: float

    @property
    def lack(self) -> str:
        """The error text if there is too little for the output of a command, else empty."""
        if self.bytes < _NO_BYTES:
            return os.strerror(errno.ENOSPC)
        return "No inodes left on device" if self.inodes < _NO_INODES else ""


def room_in(path: str) -> Room:
    """Return what the file system of a file or directory has left.

    Raises:
        OSError: that cannot be found out.
    """
    status = os.statvfs(path)
    return Room(
        status.f_bavail * status.f_frsize if status.f_blocks else inf,
        status.f_favail if status.f_files else inf,
    )
