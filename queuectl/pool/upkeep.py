"""What a pool does besides its jobs, in a thread of its own: look, recover, tidy.

spool-layout.md, sections "Waking", "Recover" and "Keeping house".
"""

from __future__ import annotations

import threading
import time
from math import inf
from typing import TYPE_CHECKING

from queuectl.pool.retention import Retention
from queuectl.recovery.recovery import Recovery
from queuectl.spool.safety import unsafe

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.pool.intake import Intake
    from queuectl.spool.safety import Opening
    from queuectl.spool.spool import Spool
    from queuectl.workers.worklog import WorkLog

_FIRST_RECOVERY_S = 1.0  # most commands end within this when told to
_TIDY_S = 60.0  # between two looks for jobs beyond their retention
_TIDY_SHARE = 5  # while there is more to delete, deleting takes a sixth of the time
_REJECTS_A_TURN = 20  # files set aside before other work gets its turn


class Upkeep:
    """Keeps a pool's view of its spool up to date, and the spool in order, until it is stopped.

    Args:
        spool: the spool.
        log: where events are logged.
        intake: looks at everything, once in a `poll-interval` and whenever it asks for that.
        owner: the name under which jobs of dead owners are recovered.
        scanned: called after each look at everything, in the thread of `run`.
    """

    def __init__(
        self, spool: Spool, log: WorkLog, intake: Intake, owner: str, scanned: Callable[[], None]
    ) -> None:
        self._spool = spool
        self._log = log
        self._intake = intake
        self._scanned = scanned
        self._recovery = Recovery(spool, owner, log)
        self._retention = Retention(spool, log)
        self._opening: Opening | None = None
        self._last_recovery = -inf
        self._wanted = threading.Event()
        self._stopped = False

    def begin(self) -> None:
        """Recover the jobs of dead owners, so that the order is right from the start.

        Commands that they left running are waited for only briefly; `run` goes on with them.
        """
        end = time.monotonic() + _FIRST_RECOVERY_S
        self._recover()
        while self._recovery.waiting_s is not None and time.monotonic() < end:
            time.sleep(self._recovery.waiting_s)
            self._recovery.go_on()

    def soon(self) -> None:
        """Make the next look follow at once; may be called in any thread."""
        self._wanted.set()

    def stop(self) -> None:
        """Make `run` return after what it is doing; may be called in any thread."""
        self._stopped = True
        self._wanted.set()

    @property
    def left_to_others(self) -> set[str]:
        """Dead owners whose jobs only another user can recover."""
        return self._recovery.left

    def run(self) -> None:
        """Look at everything, recover and tidy, again and again."""
        next_tidying = 0.0
        while not self._stopped:
            self._log.errors_of(lambda: self._intake.scan(self._go_on_recovering))
            self._scanned()
            self._log.errors_of(self._tell_of_opening)
            self._log.errors_of(lambda: self._intake.rejects.set_aside(_REJECTS_A_TURN))
            self._go_on_recovering()
            if time.monotonic() >= next_tidying:
                next_tidying = time.monotonic() + self._tidy()
            waits = (
                self._spool.config.poll_interval,
                self._intake.asked_in_s,
                self._intake.rejects.next_look_s,
                self._recovery.waiting_s,
            )
            self._wanted.wait(min(wait for wait in waits if wait is not None))
            self._wanted.clear()
        self._recovery.close()

    def _tell_of_opening(self) -> None:
        """Warn once that others can put commands in, which keeps the next worker from starting."""
        opening = next(unsafe(self._spool), None)
        if opening is not None and opening != self._opening:
            what = f"{opening.path} {opening.why}, who could run commands as us"
            detail = f"{what}; the next worker will not start: {opening.todo}"
            self._log.event("warning", detail=detail)
        self._opening = opening

    def _recover(self) -> None:
        self._log.errors_of(self._recovery.run)
        self._last_recovery = time.monotonic()

    def _go_on_recovering(self) -> None:
        if time.monotonic() >= self._last_recovery + self._spool.config.poll_interval:
            self._recover()
        elif self._recovery.waiting_s is not None:
            self._recovery.go_on()

    def _tidy(self) -> float:
        """Delete jobs beyond their retention; return the seconds until the next call."""
        begun = time.monotonic()
        more = self._log.errors_of(self._retention.run)
        return _TIDY_SHARE * (time.monotonic() - begun) if more else _TIDY_S
