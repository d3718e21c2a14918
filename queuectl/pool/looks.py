"""When to look through a whole directory: only if it may have changed, and not too often.

spool-layout.md, section "Waking".
"""

from __future__ import annotations

import os
import time

_REST = 50  # times the length of the last look, so that looks take at most 1/50 of the time
_REST_IF_ASKED = 2  # the same for looks that make up for lost events: at most a third of the time
_SOON_S = 0.1  # between two tries of a look that was asked for, since its directory may be missing
_SETTLED_S = 1.0  # a directory's time stamp this old can no longer stand for two of its states


class Looks:
    """When one directory was looked at, and whether another look could find anything.

    Each look is a `with` block around the listing. A look that ends in an error does not count.
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
        """Make another look due, whether the directory has changed or not; safe in any thread.

        Args:
            soon: whether to look after a short rest only, which `asked_in_s` gives.
        """
        self._soon = self._soon or soon
        self._again = True  # so that a look that is going on now does not count
        self._covered_ns = None

    @property
    def due(self) -> bool:
        """Whether a look could find anything, and the last one was long enough ago.

        Raises:
            OSError: the directory's time stamp cannot be read.
        """
        now = time.monotonic()
        try:
            stamp_ns = os.stat(self._path).st_ctime_ns
        except FileNotFoundError:  # the pool will make it again
            return False
        except OSError:
            self._soon = False  # it gets another try when everything is looked at
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
        """Seconds until a look that was asked for soon may begin, None if none was."""
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
        # A change within the clock tick of the look may have left the stamp as it was: look again.
        if kind is None and self._begun - seen >= _SETTLED_S:
            self._covered_ns = stamp_ns
        if self._again:  # checked last, since another thread may call `look_again` meanwhile
            self._covered_ns = None
