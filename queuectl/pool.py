"""A pool: arrivals, claims and runs, N jobs at a time, in one process.

spool-layout.md, sections "Waking" and "Stopping".
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
import traceback
from typing import TYPE_CHECKING

from queuectl import config
from queuectl.errors import BadSettingError, QueuectlError, SpoolError
from queuectl.intake import Intake
from queuectl.lanes import Lanes
from queuectl.outcome import STOPPED, Outcome
from queuectl.owners import STOP_SUFFIX, Registration
from queuectl.recovery import Recovery
from queuectl.safety import check_safe
from queuectl.spool import DIRECTORIES, PAUSED, Spool
from queuectl.turn import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.arrivals import Arrivals
    from queuectl.backlog import Entry
    from queuectl.worklog import WorkLog

_FIRST_SCAN_S = 0.5  # claims wait this long for a first look to end, so that order is right
_EMPTY_CHECK_S = 0.2
_REJECTS_A_TURN = 20  # files set aside between two looks at what else there is to do


class Pool:
    """Runs the jobs of one spool until it is asked to stop."""

    def __init__(
        self,
        spool: Spool,
        slots: int,
        log: WorkLog,
        *,
        stop_when_empty: bool = False,
        on_ready: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._spool = spool
        self._slots = slots
        self._log = log
        self._stop_when_empty = stop_when_empty
        self._on_ready = on_ready
        self._registration = Registration(spool, slots)
        self.name = self._registration.name
        self._intake = Intake(spool, log, self.name, on_due=self._wake)
        self._lanes = Lanes(slots)
        self._turns = Turns(
            spool, self.name, log, self._lanes, self._intake, on_change=self._notify_one
        )
        self._recovery = Recovery(spool, self.name, log)
        self._control = True
        self._signals = 0
        self._stopping = False
        self._ended_now = False
        self._crashed = False
        self._scanned = False
        self._paused = False
        self._busy = 0
        self._rest = threading.Condition()
        self._config_stamp: tuple[int, int] | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)  # noqa: FBT003
        os.set_blocking(self._wake_write, False)  # noqa: FBT003

    # --- the life of a pool -----------------------------------------------------------------

    def run(self) -> bool:
        """Work until asked to stop (or empty); tell whether it ended as it should.

        Raises:
            UnsafeSpoolError: others could put commands into the spool.
            SpoolError: the spool cannot be used.
        """
        self._spool.create()
        check_safe(self._spool)
        self._take_signals()
        self._spool.keep_spares(self.name)
        with self._registration:
            self._log.event("up", worker=self.name, slots=self._slots, spool=self._spool.path)
            self._recover()
            arrivals = self._watch()
            threads = self._start_threads()
            self._on_ready(self.name)
            try:
                self._control_loop(arrivals)
            finally:
                self._stop_claiming()
                for thread in threads:
                    thread.join()
                if arrivals is not None:
                    arrivals.stop()
                self._spool.drop_spares()
        self._log.event("down", worker=self.name)
        return not self._crashed

    def _take_signals(self) -> None:
        # Inherited as ignored it would make exit 7 look like 0.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_by_signal)

    def _asked_by_signal(self, number: int, _frame: object) -> None:
        self._signals += 1

    def _watch(self) -> Arrivals | None:
        from queuectl.arrivals import Arrivals

        spool = self._spool
        arrivals = Arrivals(
            {
                spool.directory("pending"): self._intake.pending_arrived,
                spool.directory("failed"): self._intake.failed_arrived,
                spool.directory("workers"): self._workers_changed,
                spool.path: self._root_changed,
            }
        )
        try:
            arrivals.start()
        except OSError as error:
            every = self._spool.config.poll_interval
            detail = f"no file system events ({error.strerror}); looking every {every:g} s instead"
            self._log.event("warning", detail=detail)
            return None
        return arrivals

    def _workers_changed(self, name: str) -> None:
        if name.startswith(self.name) and not name.endswith((".json", ".lock")):
            self._ask_control()

    def _root_changed(self, name: str) -> None:
        if name in (PAUSED, config.FILE_NAME):
            self._ask_control()

    def _ask_control(self) -> None:
        self._control = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is going to wake up anyway
            os.write(self._wake_write, b"w")

    def _start_threads(self) -> list[threading.Thread]:
        targets = [self._scan_loop] + [self._slot_loop] * self._lanes.threads
        threads = [threading.Thread(target=self._guarded, args=(target,)) for target in targets]
        for thread in threads:
            thread.start()
        return threads

    def _guarded(self, target: Callable[[], None]) -> None:
        """Stop the whole pool, loudly, if a thread of it meets what it was not made for."""
        try:
            target()
        except BaseException:
            self._log.event("error", detail=f"internal error: {traceback.format_exc()}")
            self._crashed = True
            self._signals = 2
            self._wake()
            raise

    # --- control ----------------------------------------------------------------------------

    def _control_loop(self, arrivals: Arrivals | None) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        next_beat = next_tick = begun = time.monotonic()
        while not (self._stopping and self._idle()):
            now = time.monotonic()
            if now >= next_beat:
                self._attempt(self._registration.beat)
                next_beat = now + self._spool.config.lease / 3
            if now >= next_tick:
                next_tick = now + self._spool.config.poll_interval
                self._attempt(lambda: self._tick(arrivals))
            if self._control:
                self._control = False
                self._attempt(self._follow_control)
            self._follow_signals()
            if now - begun >= _FIRST_SCAN_S:
                self._let_claims_begin()
            self._advance()
            if self._stop_when_empty and not self._stopping and self._empty():
                self._stop_claiming()
            wait_s = self._wait_s(min(next_beat, next_tick) - time.monotonic())
            poll.poll(int(wait_s * 1000) + 1)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def _wait_s(self, until_tick_s: float) -> float:
        with self._intake.changed:
            due_s = self._intake.backlog.wait_s(time.time(), time.monotonic())
        waits = [until_tick_s, due_s, _EMPTY_CHECK_S if self._stop_when_empty else None]
        waits.append(None if self._scanned else _FIRST_SCAN_S)
        return max(0.0, min(wait for wait in waits if wait is not None))

    def _attempt(self, step: Callable[[], object]) -> None:
        """Do something that will be done again: a fault in it is told and waits for its next turn."""
        try:
            step()
        except (OSError, QueuectlError) as error:
            self._log.event("error", detail=str(error))

    def _tick(self, arrivals: Arrivals | None) -> None:
        self._control = True
        for name in DIRECTORIES:
            if not os.path.isdir(self._spool.directory(name)):  # noqa: PTH112
                self._log.event("warning", detail=f"{name}/ was gone: made again")
                self._spool.create()
                self._intake.forget_scans()
        if arrivals is not None:
            arrivals.rearm()

    def _follow_control(self) -> None:
        self._follow_config()
        asked = self._registration.asked_to_stop()
        if asked is not None:
            self._stop_claiming()
            if asked == "now":
                self._end_now()
        paused = self._spool.paused
        if paused != self._paused:
            self._log.event("paused" if paused else "unpaused")
            self._paused = paused
            self._notify_slots()

    def _follow_config(self) -> None:
        try:
            status = os.stat(f"{self._spool.path}/{config.FILE_NAME}")
            stamp = (status.st_ino, status.st_mtime_ns)
        except FileNotFoundError:
            stamp = None
        if stamp == self._config_stamp:
            return
        self._config_stamp = stamp
        try:
            new = config.load(self._spool.path)
        except (BadSettingError, SpoolError) as error:
            self._log.event("warning", detail=f"keeping the settings as they were: {error}")
            return
        if new != self._spool.config:
            self._spool.config = new
            self._log.event("config", detail="settings changed")

    def _follow_signals(self) -> None:
        if self._signals >= 1 and not self._stopping:
            self._log.event("stopping", detail=f"{self._busy} running; once more to end them")
            self._stop_claiming()
        if self._signals >= 2:
            self._end_now()

    def _stop_claiming(self) -> None:
        self._stopping = True
        self._lanes.close()
        self._intake.stop()
        self._notify_slots()
        with self._rest:
            self._rest.notify_all()

    def _notify_one(self) -> None:
        with self._intake.changed:
            self._intake.changed.notify()

    def _notify_slots(self) -> None:
        with self._intake.changed:
            self._intake.changed.notify_all()

    def _end_now(self) -> None:
        if not self._ended_now:
            self._ended_now = True
            self._turns.end_all(Outcome(ended=STOPPED, detail="the worker was told to stop"))

    def _advance(self) -> None:
        with self._intake.changed:
            due = self._intake.backlog.advance(time.time(), time.monotonic())
            self._intake.changed.notify(due)

    def _idle(self) -> bool:
        return self._busy == 0

    def _empty(self) -> bool:
        """Tell whether nothing is due, running or to be retried, in the whole spool."""
        with self._intake.changed:
            backlog = self._intake.backlog
            if self._busy or not self._scanned or backlog.has_ready or backlog.waiting:
                return False
        if self._intake.busy or any(self._spool.names("processing")):
            return False
        return not any(self._spool.names("failed")) and not self._intake.look_for_unknown()

    # --- the threads ------------------------------------------------------------------------

    def _scan_loop(self) -> None:
        next_recovery = time.monotonic() + self._spool.config.poll_interval
        while not self._stopping:
            self._attempt(self._intake.scan)
            self._let_claims_begin()
            self._attempt(lambda: self._intake.set_aside_rejects(_REJECTS_A_TURN))
            interval_s = self._spool.config.poll_interval
            if time.monotonic() >= next_recovery:
                self._recover()
                next_recovery = time.monotonic() + interval_s
            hurry_s = self._intake.next_look_s
            self._sleep(interval_s if hurry_s is None else min(hurry_s, interval_s))

    def _let_claims_begin(self) -> None:
        if not self._scanned:
            self._scanned = True
            self._notify_slots()

    def _sleep(self, seconds: float) -> None:
        with self._rest:
            self._rest.wait_for(lambda: self._stopping, seconds)

    def _recover(self) -> None:
        self._attempt(self._recovery.run)

    def _slot_loop(self) -> None:
        while (entry := self._next()) is not None:
            try:
                self._turns.take_turn(entry)
            finally:
                with self._intake.changed:
                    self._busy -= 1
                if self._busy == 0 and (self._stop_when_empty or self._stopping):
                    self._wake()

    def _next(self) -> Entry | None:
        intake = self._intake
        with intake.changed:
            while not self._stopping:
                if self._may_claim():
                    entry = intake.backlog.pop()
                    if entry is not None:
                        self._busy += 1
                        self._lanes.claim()
                        return entry
                intake.changed.wait()
        return None

    def _may_claim(self) -> bool:
        ready = self._scanned and not self._paused and not self._turns.stall.on
        return ready and self._lanes.room
