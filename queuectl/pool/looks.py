"""When a whole directory is worth a look: not if nothing can have changed, nor too often.

spool-layout.md, section "Waking".
"""

from __future__ import annotations

import os
import time

_REST = 50  # times what the last look took: looks take at most 1/50 of the time
_REST_IF_ASKED = 2  # and those that make up for lost events at most a third
_SOON_S = 0.1  # between two tries of a look that was asked for: its directory may be missing
_SETTLED_S = 1.0  # a directory's time stamp this old can no longer stand for two states


class Looks:
    """When one directory was looked at, and whether another look could find anything.

    Each look is a `with` block around the listing; one that is left by an error does not count.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._covered_ns: int | None = None
        self._again = False
        self._soon = False
        self._stamp: tuple[int, float] = (0, 0.0)
        self._begun = 0.0
        self._over = 0.0
        self._took = 0.0

    def look_again(self, *, soon: bool = False) -> None:
        """Make another look due, even if the directory has not changed since; in any thread.

        Args:
            soon: after a short rest, of which `asked_in_s` tells.
        """
        self._soon = self._soon or soon
        self._again = True  # so that a look that is going on now does not count
        self._covered_ns = None

    @property
    def due(self) -> bool:
        """Whether a look could find anything, and the last one was long enough ago.

        Raises:
            OSError: the directory cannot be asked.
        """
        now = time.monotonic()
        try:
            stamp_ns = os.stat(self._path).st_ctime_ns
        except FileNotFoundError:  # the pool makes it again
            return False
        except OSError:
            self._soon = False  # it is looked at again when everything is
            raise
        if stamp_ns != self._stamp[0]:
            self._stamp = (stamp_ns, now)
        return stamp_ns != self._covered_ns and now >= self._rest_until

    @property
    def _rest_until(self) -> float:
        rest = _REST_IF_ASKED if self._soon else _REST
        return self._over + self._took * rest

    @property
    def asked_in_s(self) -> float | None:
        """The seconds until a look that is to follow soon may do so, None if none is."""
        if not self._soon:
            return None
        return max(self._rest_until - time.monotonic(), _SOON_S)

    def __enter__(self) -> None:
        self._begun = time.monotonic()
        self._again = self._soon = False

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over = time.monotonic()
        self._took = self._over - self._begun
        stamp_ns, seen = self._stamp
        # a change within the clock tick of the look may have left the same stamp: look once more
        if kind is None and self._begun - seen >= _SETTLED_S:
            self._covered_ns = stamp_ns
        if self._again:  # asked last: another thread may say so between the two
            self._covered_ns = None
