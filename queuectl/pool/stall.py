"""Waits while the system refuses something: that is logged once, and nothing new is claimed."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from queuectl.errors import error_text
from queuectl.kernel import NO_ROOM
from queuectl.system.loop import Event

if TYPE_CHECKING:
    from queuectl.pool.lanes import Lanes
    from queuectl.system.loop import Loop
    from queuectl.workers.registration import Registration
    from queuectl.workers.worklog import WorkLog

_WAIT_S = 1.0  # before what the system refused is tried again
_ANEW_S = 5.0  # a refusal that comes this long after the last is logged again
FILES, STARTS = "the file system answers again", "commands can be started again"


class Stall:
    """Holds a pool back while jobs cannot be taken or started, or their outcomes not written.

    Args:
        loop: the event loop in which turns wait.
        log: where stalls are logged.
        registration: shows others that the pool stalls.
        lanes: told which jobs will not start.
    """

    def __init__(self, loop: Loop, log: WorkLog, registration: Registration, lanes: Lanes) -> None:
        self._log = log
        self._registration = registration
        self._lanes = lanes
        # jobs for which something will be tried again, each with what ends the stall
        self._waiting: dict[str, str] = {}
        # stalls that were logged, by what ends each, with the time of the last refusal
        self._told: dict[str, float] = {}
        self._shown = False
        self._over = Event(loop)

    @property
    def on(self) -> bool:
        """Whether nothing new may be claimed."""
        return bool(self._waiting)

    @property
    def of_files(self) -> bool:
        """Whether a job waits for the file system."""
        return FILES in self._waiting.values()

    @property
    def nothing_starts(self) -> bool:
        """Whether nothing would start anyway, because the pool is stopping or paused."""
        return self._lanes.closed

    def hold(self, job_id: str, what: str, error: OSError, until: str = FILES) -> None:
        """Claim nothing until `let_go`, since something could not be done; log that once."""
        now_s = time.monotonic()
        goes_on = until in self._waiting.values() or now_s < self._told.get(until, -inf) + _ANEW_S
        self._told[until] = now_s
        self._waiting[job_id] = until
        self._lanes.drop(job_id)
        self._show()
        if not goes_on:
            why = error_text(error) if error.errno in NO_ROOM else error.strerror or error
            self._log.event("stalled", detail=f"cannot {what}: {why}; waiting")

    def let_go(self, job_id: str) -> None:
        """Hold nothing back for a job any more: its step was done, given up, or is tried again."""
        if job_id in self._waiting:
            del self._waiting[job_id]
            self._show()

    def _show(self) -> None:
        if self._shown != self.on:
            self._shown = self.on
            self._registration.show_stalled(stalled=self.on)

    def tell_it_is_over(self, until: str = FILES) -> None:
        """Log that a stall is over, if it was logged and nothing waits any more."""
        if until in self._told and not self._waiting:
            del self._told[until]
            self._log.event("resumed", detail=until)

    async def pause(self) -> bool:
        """Wait before trying again; return False if there is no time left to try."""
        return not await self._over.wait(_WAIT_S)

    def give_up(self) -> None:
        """End all waits, so that nothing is tried again."""
        self._over.set()
