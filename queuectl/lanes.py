"""How many jobs a pool has in hand: N that run, and a few more on their way in and out.

A claim and an outcome wait for the disk, 0.4 to 0.8 ms each with `durability = full`. A lane that
stood still meanwhile would run short commands at a third of the rate. So while commands are short,
the next are claimed and counted before a lane is free, and a lane is free before the outcome of
its last command is on disk. While commands are long, nothing is claimed that cannot start at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

_SHORT_S = 0.1  # commands shorter than this, on average, make it worth to claim ahead
_PATIENCE_S = 0.25  # a claim that has found no lane for this long goes back to the others
_MOST_AHEAD = 8
_WEIGHT = 0.2  # of the last command in the average


class Lanes:
    """Counts what is in hand, for the tasks of one event loop."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._ahead = min(slots, _MOST_AHEAD)
        self._average_s = float("inf")
        self._running: dict[str, float] = {}  # since when, oldest first
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._closed = False
        self.claimed = 0  # jobs claimed whose command has not ended yet
        self.in_hand = 0  # these, and those whose outcome is not on disk yet

    @property
    def room(self) -> bool:
        """Whether another job may be claimed."""
        ahead = self._soon_free() if self._average_s < _SHORT_S else 0
        settling = self._slots + 2 * self._ahead
        return self.claimed < self._slots + ahead and self.in_hand < settling

    def _soon_free(self) -> int:
        """Return how many lanes hold a command that is still young, or none; `_ahead` at most."""
        young_since = time.monotonic() - _SHORT_S
        soon = max(0, self._slots - len(self._running))
        for since in reversed(self._running.values()):
            if soon >= self._ahead or since < young_since:
                break
            soon += 1
        return min(soon, self._ahead)

    async def enter(self, job_id: str) -> bool:
        """Wait for a lane; False if there is none soon enough, or no more at all."""
        entered = not self._closed and (len(self._running) < self._slots or await self._wait())
        if entered:
            self._running[job_id] = time.monotonic()
        return entered

    async def _wait(self) -> bool:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(_PATIENCE_S, _tell, turn, False)  # noqa: FBT003
        entered: bool = await turn
        timer.cancel()
        if not entered:
            self._average_s = float("inf")
        return entered

    def leave(self, job_id: str) -> None:
        """Give the lane to the next."""
        took_s = time.monotonic() - self._running.pop(job_id)
        if self._average_s == float("inf"):
            self._average_s = took_s
        else:
            self._average_s += _WEIGHT * (took_s - self._average_s)
        while self._waiting:
            if _tell(self._waiting.popleft(), True):  # noqa: FBT003
                return

    def close(self) -> None:
        """Let nothing start any more."""
        self._closed = True
        while self._waiting:
            _tell(self._waiting.popleft(), False)  # noqa: FBT003


def _tell(turn: asyncio.Future[bool], answer: bool) -> bool:  # noqa: FBT001
    """Answer who waits; False if it has been answered already."""
    if turn.done():
        return False
    turn.set_result(answer)
    return True
