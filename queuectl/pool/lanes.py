"""How many jobs a pool has in hand: N that run, and a few more on their way in and out.

A claim waits for the disk with `durability = full`, an outcome twice, and a lane that stood still
meanwhile would be lost. So while commands are short, the next are claimed and counted before
a lane is free, and a lane is free before the outcome of its last command is on disk: a third more
short commands a second where an fsync takes 3 ms; where the cores are the limit it gains nothing.
While commands are long, nothing is claimed that cannot start at once.
spool-layout.md, section "The pool".
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from queuectl.system.loop import Future

if TYPE_CHECKING:
    from queuectl.system.loop import Loop, Timer

_SHORT_S = 0.1  # commands shorter than this, on average, make it worth to claim ahead
_PATIENCE_S = 0.25  # claims are given back once one had no lane for one to two of these
_SOON_S = 0.05  # what would not start within this, on average, is not claimed yet
_MOST_AHEAD = 32  # enough for rounds of fsyncs 6 ms apart (disk.py)
# Claimed one after the other where claims wait for the disk: what a claim needs is in the caches
# then, which each command takes over. 30 to 45 us of CPU a job. Where they wait for nothing a row
# of eight is a millisecond in which no command starts.
_IN_A_ROW = 8
# Outcomes are written in such rows too: 10 to 90 us of CPU a job, and a tenth of the time with two
# lanes. One waits no longer for the others than eight `true` take there.
_ROW_S = 0.01
_WEIGHT = 0.2  # of the last command in the average


class Lanes:
    """Counts what is in hand, for the turns of one event loop.

    Args:
        loop: of whose coroutines each is a turn.
        slots: how many commands run at a time.
    """

    def __init__(self, loop: Loop, slots: int) -> None:
        self._loop = loop
        self._slots = slots
        self._average_s = inf
        self._coming: dict[str, int] = {}  # priorities of what is claimed and not started, in order
        self._priorities: dict[int, int] = {}  # how many of these have each: mostly all the same
        self._highest = -inf  # of these; read in any thread
        self._waiting: dict[str, Future[bool]] = {}
        self._going_back: set[str] = set()  # sent away, and not given back yet
        self._row: list[Future[bool]] = []  # who has stepped back
        self._row_timer: Timer | None = None
        self._running: dict[str, float] = {}  # since when, oldest first
        self._closed = False
        self._in_hand = 0
        self._in_a_row = False
        self._impatient: list[Future[bool]] = []  # who waited when it began; a timer runs for them

    def has_room(self, *, in_rows: bool = True) -> bool:
        """Tell whether another job may be claimed: ask once for each, until there is none.

        Args:
            in_rows: once enough are claimed, there is room again only for several in a row.
        """
        # what goes back comes before what is not claimed yet
        if self._going_back or self._in_hand >= self._slots + 2 * _MOST_AHEAD:
            return False
        more = len(self._coming) + len(self._running) - self._slots
        if more < 0:
            return True
        if self._average_s >= _SHORT_S or more >= _MOST_AHEAD:
            self._in_a_row = False
        elif not in_rows or self._in_a_row or more <= _MOST_AHEAD - _IN_A_ROW:
            self._in_a_row = more < self._ahead()
        return self._in_a_row

    def _ahead(self) -> int:
        """Return how many more can start soon than there are lanes, `_MOST_AHEAD` at most."""
        per_lane = max(1.0, _SOON_S / max(self._average_s, _SOON_S / _MOST_AHEAD))
        lanes_wanted = _MOST_AHEAD / per_lane
        long_before = time.monotonic() - _SHORT_S
        lanes = max(0, self._slots - len(self._running))  # that are free soon: now, or
        for began_s in reversed(self._running.values()):  # with a command that is not long so far
            if began_s < long_before or lanes >= lanes_wanted:
                break
            lanes += 1
        return int(min(lanes, lanes_wanted) * per_lane)

    @property
    def bar(self) -> float:
        """What is more urgent than this priority may be claimed even if there is no room."""
        if self._average_s >= _SHORT_S or self._in_hand >= self._slots + 2 * _MOST_AHEAD:
            return -inf
        return self._highest

    def admit(self, job_id: str, priority: int) -> bool:
        """Take a job in hand that is about to be claimed; tell if it waits for none of the others.

        It does not if it is alone, or more urgent than one that was claimed before.
        """
        urgent = not self._coming or priority < self._highest
        self._coming[job_id] = priority
        self._priorities[priority] = self._priorities.get(priority, 0) + 1
        self._highest = max(priority, self._highest)
        self._in_hand += 1
        return urgent

    def drop(self, job_id: str) -> None:
        """Let go of a job that will not start."""
        if job_id in self._coming:
            self._come(job_id)
            self._grant()

    def _come(self, job_id: str) -> None:
        priority = self._coming.pop(job_id)
        self._priorities[priority] -= 1
        if not self._priorities[priority]:
            del self._priorities[priority]
            self._highest = max(self._priorities, default=-inf)

    def done(self, job_id: str) -> None:
        """Count off a job that is in hand no more."""
        self._in_hand -= 1
        self._going_back.discard(job_id)

    async def enter(self, job_id: str) -> bool:
        """Wait for a lane; False if there is none soon enough, or no more at all."""
        if self._closed or job_id in self._going_back:
            self._going_back.add(job_id)
            self.drop(job_id)
            return False
        turn = self._waiting[job_id] = Future(self._loop)
        self._grant()
        if not turn.done and not self._impatient:
            self._run_out_of_patience()
        entered = await turn
        if not entered:
            del self._waiting[job_id]
            self._average_s = inf  # until one ends: those that run are long, whatever it was
            self.drop(job_id)
        return entered

    def leave(self, job_id: str) -> float:
        """Give the lane to the next; return the seconds that it was taken."""
        took_s = time.monotonic() - self._running.pop(job_id)
        if self._average_s == inf:
            self._average_s = took_s
        else:
            self._average_s += _WEIGHT * (took_s - self._average_s)
        self._grant()
        return took_s

    async def step_back(self) -> None:
        """Let those who wait for a lane start first; while commands are short, a row of them."""
        if not self._coming or self._average_s >= _SHORT_S:
            await self._loop.rest()
            return
        turn: Future[bool] = Future(self._loop)
        self._row.append(turn)
        if len(self._row) == _IN_A_ROW:
            self._loop.soon(self._go_on)
        elif self._row_timer is None:
            self._row_timer = self._loop.later(_ROW_S, self._go_on)
        await turn

    def _go_on(self) -> None:
        if self._row_timer is not None:
            self._row_timer.cancel()
            self._row_timer = None
        row, self._row = self._row, []
        for turn in row:
            turn.set(True)

    def resize(self, slots: int) -> bool:
        """Have so many commands run at a time from here on; tell whether that is news.

        Those that run now go on.
        """
        is_news = slots != self._slots
        self._slots = slots
        self._grant()
        return is_news

    @property
    def closed(self) -> bool:
        """Whether nothing may start."""
        return self._closed

    def open(self) -> None:
        """Let commands start again."""
        self._closed = False

    def close(self) -> None:
        """Let nothing start from here on: those who wait are sent away."""
        self._closed = True
        self._send_all_away()

    def _run_out_of_patience(self) -> None:
        """Send all away once one waited the last time already: one timer, not one for each."""
        if not all(turn.done for turn in self._impatient):
            self._send_all_away()
        self._impatient = [turn for turn in self._waiting.values() if not turn.done]
        if self._impatient:
            self._loop.later(_PATIENCE_S, self._run_out_of_patience)

    def _send_all_away(self) -> None:
        """Send away who waits, and who is on its way here and would go in before one of these."""
        bar = inf
        for job_id, priority in self._coming.items():
            if job_id in self._waiting:
                bar = min(bar, priority)
                self._waiting[job_id].set(False)
            if priority >= bar:
                self._going_back.add(job_id)

    def _grant(self) -> None:
        while len(self._running) < self._slots:
            job_id = self._next()
            if job_id is None:
                return
            self._come(job_id)
            self._running[job_id] = time.monotonic()
            self._waiting.pop(job_id).set(True)

    def _next(self) -> str | None:
        """Return who goes in: whoever was claimed first, unless a more urgent one is here too.

        Who was claimed earlier and is not here yet, a few fsyncs away at most, is waited for.
        """
        found, bar = None, inf
        lowest = min(self._priorities, default=inf)
        for job_id, priority in self._coming.items():
            if priority < bar:
                bar = priority
                turn = self._waiting.get(job_id)
                if turn is not None and not turn.done:
                    found = job_id
                if priority == lowest:  # of those that follow none is more urgent
                    break
        return found
