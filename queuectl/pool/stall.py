"""Waiting for a system that refuses: told once, and nothing new is claimed meanwhile."""

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

_WAIT_S = 1.0  # before a system that refused is asked again
_ANEW_S = 5.0  # a refusal that comes so long after the last is told anew
FILES, STARTS = "the file system answers again", "commands can be started again"


class Stall:
    """Holds a pool back while jobs cannot be had or started, or their outcomes not be kept.

    Args:
        loop: in which it waits.
        log: where it is told.
        registration: shows it to those who look.
        lanes: are told of what will not start while it waits.
    """

    def __init__(self, loop: Loop, log: WorkLog, registration: Registration, lanes: Lanes) -> None:
        self._log = log
        self._registration = registration
        self._lanes = lanes
        # for whom something is about to be tried again, and what is to end that
        self._waiting: dict[str, str] = {}
        # of what was logged: what is to end it, and when it was last refused
        self._told: dict[str, float] = {}
        self._shown = False
        self._over = Event(loop)

    @property
    def on(self) -> bool:
        """Whether nothing new may be claimed."""
        return bool(self._waiting)

    @property
    def of_files(self) -> bool:
        """Whether something that is held can be written nowhere."""
        return FILES in self._waiting.values()

    @property
    def nothing_starts(self) -> bool:
        """Whether nothing would start if all were well: the pool is to stop, or is paused."""
        return self._lanes.closed

    def hold(self, job_id: str, what: str, error: OSError, until: str = FILES) -> None:
        """Claim nothing until `let_go`: something could not be done, which is told once."""
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
        """Let others go on: what this job waited for was done, or is given up, or to be tried."""
        if job_id in self._waiting:
            del self._waiting[job_id]
            self._show()

    def _show(self) -> None:
        if self._shown != self.on:
            self._shown = self.on
            self._registration.show_stalled(stalled=self.on)

    def tell_it_is_over(self, until: str = FILES) -> None:
        """Log that something is as it should be again, if it was logged that it was not."""
        if until in self._told and not self._waiting:
            del self._told[until]
            self._log.event("resumed", detail=until)

    async def pause(self) -> bool:
        """Wait before trying again; False when there is no time left to try."""
        return not await self._over.wait(_WAIT_S)

    def give_up(self) -> None:
        """Let nobody try again."""
        self._over.set()
