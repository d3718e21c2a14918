"""Whether there is room for what commands print: without it they would fail, one by one.

spool-layout.md, section "Run".
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from queuectl.system.room import room_in

if TYPE_CHECKING:
    from queuectl.spool.places import Places

_LOOK_S = 0.1  # between two looks; each costs some microseconds


class Space:
    """Looks at the file systems of a spool and of its logs/."""

    def __init__(self, spool: Places) -> None:
        self._paths = (spool.path, spool.directory("logs"))
        self._lack: tuple[str, str] | None = None  # what is lacking, and where
        self._next_look_s = 0.0

    def check(self) -> None:
        """Check that there is room, by a look that may be a moment old.

        Raises:
            OSError: there is none.
        """
        if time.monotonic() >= self._next_look_s:
            self.look()
        if self._lack is not None:
            raise OSError(errno.ENOSPC, *self._lack)

    def look(self) -> bool:
        """Tell whether there is room now."""
        self._next_look_s = time.monotonic() + _LOOK_S
        lacks = ((_lack_in(path), path) for path in self._paths)
        self._lack = next((lack for lack in lacks if lack[0]), None)
        return self._lack is None


def _lack_in(path: str) -> str:
    try:
        return room_in(path).lack
    except OSError:  # the path is gone: whoever needs it reports that
        return ""
