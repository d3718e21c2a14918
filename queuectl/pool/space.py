"""Whether there is room for what commands print: without it they would fail, one after the other.

spool-layout.md, section "Run".
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from queuectl.room import room_in

if TYPE_CHECKING:
    from queuectl.places import Places

_LOOK_S = 0.1  # between two looks: one costs some microseconds


class Space:
    """Looks at the file systems of a spool and of its logs/."""

    def __init__(self, spool: Places) -> None:
        self._paths = (spool.path, spool.directory("logs"))
        self._full: str | None = None  # which of them
        self._next_look_s = 0.0

    def check(self) -> None:
        """Check that there is room, as it was a moment ago.

        Raises:
            OSError: there is none.
        """
        if time.monotonic() >= self._next_look_s:
            self.look()
        if self._full is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._full)

    def look(self) -> bool:
        """Tell whether there is room now."""
        self._next_look_s = time.monotonic() + _LOOK_S
        self._full = next((path for path in self._paths if _is_full(path)), None)
        return self._full is None


def _is_full(path: str) -> bool:
    try:
        return room_in(path).is_none
    except OSError:  # it is not there, or away: whoever needs it says so
        return False
