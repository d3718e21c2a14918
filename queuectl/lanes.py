"""How many jobs a pool has in hand: N that run, and a few more on their way in and out.

A claim and an outcome wait for the disk, 0.4 to 0.8 ms each with `durability = full`. A lane that
stood still meanwhile would run short commands at a third of the rate. So while commands are short,
the next are claimed and counted before a lane is free, and a lane is free before the outcome of
its last command is on disk. While commands are long, nothing is claimed that cannot start at once.
"""

from __future__ import annotations

import threading

_SHORT_S = 0.1  # commands shorter than this, on average, make it worth to claim ahead
_PATIENCE_S = 0.25  # a claim that has found no lane for this long goes back to the others
_MOST_AHEAD = 8
_WEIGHT = 0.2  # of the last command in the average


class Lanes:
    """Counts what is in hand; `enter` and `leave` stand around every run."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._ahead = min(slots, _MOST_AHEAD)
        self._free = threading.Semaphore(slots)
        self._lock = threading.Lock()
        self._in_hand = 0
        self._average_s = float("inf")
        self._closed = False

    @property
    def threads(self) -> int:
        """How many threads it takes to fill the lanes and both ways to them."""
        return self._slots + 2 * self._ahead

    @property
    def room(self) -> bool:
        """Whether another job may be claimed."""
        ahead = self._ahead if self._average_s < _SHORT_S else 0
        return self._in_hand < self._slots + ahead

    def claim(self) -> None:
        """Count a job that is about to be claimed."""
        with self._lock:
            self._in_hand += 1

    def done(self) -> None:
        """Count off a job that will not run, or has run."""
        with self._lock:
            self._in_hand -= 1

    def enter(self) -> bool:
        """Wait for a lane; False if there is none soon enough, or no more at all."""
        if self._free.acquire(timeout=_PATIENCE_S):
            if not self._closed:
                return True
            self._free.release()
        with self._lock:
            self._average_s = float("inf")
        return False

    def leave(self, took_s: float) -> None:
        """Give the lane to the next."""
        with self._lock:
            if self._average_s == float("inf"):
                self._average_s = took_s
            else:
                self._average_s += _WEIGHT * (took_s - self._average_s)
        self._free.release()

    def close(self) -> None:
        """Let nothing start any more."""
        self._closed = True
