"""How many jobs a pool has in hand: N that run, and a few more on their way in or out.

With `durability = full` a claim waits for the disk, and an outcome does so twice. A lane that stood
idle meanwhile would be wasted. So while commands are short, the next jobs are claimed and counted
before a lane is free, and a lane is free before the outcome of its last command is on disk. Where
an fsync takes 3 ms, that gives a third more short commands a second. Where the cores are the limit,
it gains nothing. While commands are long, no job is claimed that cannot start at once.
spool-layout.md, section "The pool".
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from queuectl.system.loop import Future

if TYPE_CHECKING:
    from queuectl.system.loop import Loop, Timer

_SHORT_S = 0.1  # claiming ahead pays while commands are shorter than this on average
_PATIENCE_S = 0.25  # claims are given back once one has waited one to two of these for a lane
_SOON_S = 0.05  # a job that would not start within this, on average, is not claimed yet
_MOST_AHEAD = 32  # enough for rounds of fsyncs 6 ms apart (disk.py)
# Jobs claimed one after the other where claims wait for the disk. What a claim needs is then still
# in the caches, which each command takes over: that saves 30 to 45 us of CPU a job. Where claims
# wait for nothing, a row of eight would be a millisecond in which no command starts.
_IN_A_ROW = 8
# Outcomes are written in such rows too, which saves 10 to 90 us of CPU a job, and a tenth of the
# time with two lanes. None waits for the others longer than eight runs of `true` take there.
_ROW_S = 0.01
_WEIGHT = 0.2  # of the last command in the average


class Lanes:
    """Counts the jobs in hand, for the turns of one event loop.

    Args:
        loop: the event loop that runs the turns.
        slots: how many commands run at a time.
    """

    def __init__(self, loop: Loop, slots: int) -> None:
        self._loop = loop
        self._slots = slots
        self._average_s = inf
        self._coming: dict[str, int] = {}  # priority of each job claimed but not started, in order
        self._priorities: dict[int, int] = {}  # how many of these have each; mostly all share one
        self._highest = -inf  # of these priorities; read in any thread
        self._waiting: dict[str, Future[bool]] = {}
        self._going_back: set[str] = set()  # sent away, but not given back yet
        self._row: list[Future[bool]] = []  # turns that have stepped back
        self._row_timer: Timer | None = None
        self._running: dict[str, float] = {}  # when each command began, oldest first
        self._closed = False
        self._in_hand = 0
        self._in_a_row = False
        self._impatient: list[Future[bool]] = []  # who waited when the timer that runs began

    def has_room(self, *, in_rows: bool = True) -> bool:
        """Tell whether another job may be claimed; ask before each claim, until there is no room.

        Args:
            in_rows: whether, once enough jobs are claimed, to wait for room for several in a row.
        """
        # jobs that go back come before those that are not claimed yet
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
        """Return how many jobs more than there are lanes can start soon, at most `_MOST_AHEAD`."""
        per_lane = max(1.0, _SOON_S / max(self._average_s, _SOON_S / _MOST_AHEAD))
        lanes_wanted = _MOST_AHEAD / per_lane
        long_before = time.monotonic() - _SHORT_S
        # lanes that are free now, or will be soon since their command has not run for long
        lanes = max(0, self._slots - len(self._running))
        for began_s in reversed(self._running.values()):
            if began_s < long_before or lanes >= lanes_wanted:
                break
            lanes += 1
        return int(min(lanes, lanes_wanted) * per_lane)

    @property
    def bar(self) -> float:
        """The priority below which a job may be claimed even if there is no room."""
        if self._average_s >= _SHORT_S or self._in_hand >= self._slots + 2 * _MOST_AHEAD:
            return -inf
        return self._highest

    def admit(self, job_id: str, priority: int) -> bool:
        """Take a job in hand that is about to be claimed; tell whether it is urgent.

        It is urgent if no other job has yet to start, or if it is more urgent than one of those.
        """
        urgent = not self._coming or priority < self._highest
        self._coming[job_id] = priority
        self._priorities[priority] = self._priorities.get(priority, 0) + 1
        self._highest = max(priority, self._highest)
        self._in_hand += 1
        return urgent

    def drop(self, job_id: str) -> None:
        """Wait no longer for a job that will not start."""
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
        """Count off a job that is no longer in hand."""
        self._in_hand -= 1
        self._going_back.discard(job_id)

    async def enter(self, job_id: str) -> bool:
        """Wait for a lane; return False if none is free soon enough, or nothing may start."""
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
            # until a command ends: those that run are long, whatever the average was
            self._average_s = inf
            self.drop(job_id)
        return entered

    def leave(self, job_id: str) -> float:
        """Give a job's lane to the next job; return the seconds that it was in use."""
        took_s = time.monotonic() - self._running.pop(job_id)
        if self._average_s == inf:
            self._average_s = took_s
        else:
            self._average_s += _WEIGHT * (took_s - self._average_s)
        self._grant()
        return took_s

    async def step_back(self) -> None:
        """Let jobs that wait for a lane start first.

        While commands are short, the turns of a row step back together.
        """
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
        """Run this many commands at a time from now on; tell whether that is a change.

        Commands that run already go on.
        """
        is_news = slots != self._slots
        self._slots = slots
        self._grant()
        return is_news

    @property
    def closed(self) -> bool:
        """Whether no command may start."""
        return self._closed

    def open(self) -> None:
        """Let commands start again."""
        self._closed = False

    def close(self) -> None:
        """Let no command start from now on, and send away the jobs that wait for a lane."""
        self._closed = True
        self._send_all_away()

    def _run_out_of_patience(self) -> None:
        """Send away all who wait if one of them waited at the last call already.

        One timer serves them all.
        """
        if not all(turn.done for turn in self._impatient):
            self._send_all_away()
        self._impatient = [turn for turn in self._waiting.values() if not turn.done]
        if self._impatient:
            self._loop.later(_PATIENCE_S, self._run_out_of_patience)

    def _send_all_away(self) -> None:
        """Send away the jobs that wait, and those on their way that would overtake one of them."""
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
        """Return the job to start next: the one claimed first, unless a more urgent one waits too.

        A job that was claimed earlier but does not wait yet is waited for: it is at most a few
        fsyncs away.
        """
        found, bar = None, inf
        lowest = min(self._priorities, default=inf)
        for job_id, priority in self._coming.items():
            if priority < bar:
                bar = priority
                turn = self._waiting.get(job_id)
                if turn is not None and not turn.done:
                    found = job_id
                if priority == lowest:  # none of those that follow is more urgent
                    break
        return found
