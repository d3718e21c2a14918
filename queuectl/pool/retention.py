"""Deletes the oldest completed and dead jobs: `retain-completed` and `retain-dead`.

spool-layout.md, section "Keeping house".
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING

from queuectl.ids import is_id
from queuectl.jobs.housekeeping import Doomed, delete_each
from queuectl.pool.looks import Looks
from queuectl.states import FINISHED
from queuectl.units import parse_duration, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl.errors import QueuectlError
    from queuectl.spool.spool import Spool
    from queuectl.workers.worklog import WorkLog

_BUDGET_S = 5.0  # one call of `run` deletes from a state for this long at most
_AHEAD = 50_000  # names that a look keeps for later calls, oldest first


class Retention:
    """Carries out `retain-completed` and `retain-dead`, for one pool.

    Call `run` about once a minute. It costs next to nothing while neither is set, or nothing has
    come since the last look, or the oldest job is not due.
    """

    def __init__(self, spool: Spool, log: WorkLog) -> None:
        self._spool = spool
        self._log = log
        self._shelves = {state: _Shelf(spool, state) for state in FINISHED}

    def run(self) -> bool:
        """Delete jobs beyond their retention, for a few seconds at most.

        Returns whether the time ran out: then call it again before a minute has passed.

        Raises:
            OSError, SpoolError: the file system refused.
            WrongStateError: a job was changed or retried after its output was deleted; it is kept.
        """
        config = self._spool.config
        faults: list[QueuectlError] = []
        more = self._tend("completed", config.retain_completed, faults)
        more = self._tend("dead", config.retain_dead, faults) or more
        if faults:
            raise faults[0]
        return more

    def _tend(self, state: str, retain: int | str | None, faults: list[QueuectlError]) -> bool:
        if retain is None:
            return False
        end = time.monotonic() + _BUDGET_S
        beyond = self._shelves[state].doomed(retain, end)
        tried = delete_each(self._spool, beyond, lambda _id, error: faults.append(error))
        deleted = sum(was_there for _, was_there in tried)
        if deleted:
            what = f"{deleted} {state} {plural('job', deleted)}: retain-{state} is {retain}"
            self._log.event("pruned", detail=what)
        return time.monotonic() >= end


class _Shelf:
    """The oldest known jobs of one directory."""

    def __init__(self, spool: Spool, state: str) -> None:
        self._spool = spool
        self._state = state
        self._oldest: deque[tuple[float, str]] = deque()
        self._count = 0
        self._looks = Looks(spool.directory(state))

    def doomed(self, retain: int | str, end_s: float) -> Iterator[Doomed]:
        """Yield the jobs beyond `retain`, until `end_s` (monotonic clock)."""
        keep, age_s = (retain, -inf) if isinstance(retain, int) else (0, parse_duration(retain))
        if keep or not self._oldest:
            self._look()
        while self._oldest and time.monotonic() < end_s:
            written_at, job_id = self._oldest[0]
            if self._count <= keep or written_at > time.time() - age_s:
                return
            self._oldest.popleft()
            self._count -= 1
            yield Doomed(self._state, job_id, written_at)
            if not self._oldest:
                self._look()

    def _look(self) -> None:
        """List the directory, unless that was done recently or nothing can have changed."""
        if not self._looks.due:
            return
        with self._looks:
            self._count = 0
            self._oldest = deque(heapq.nsmallest(_AHEAD, self._counted()))

    def _counted(self) -> Iterator[tuple[float, str]]:
        for job_id, written_at in self._spool.written(self._state):
            if is_id(job_id):  # any other file is somebody's copy, not ours to delete
                self._count += 1
                yield written_at, job_id
