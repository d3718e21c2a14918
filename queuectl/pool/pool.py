"""A pool: arrivals, claims and runs, N jobs at a time, in one event loop.

spool-layout.md, sections "Waking" and "Stopping".
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from queuectl.errors import QueuectlError
from queuectl.kernel.processes import check_proc
from queuectl.pool.claims import Claims
from queuectl.pool.emptiness import Emptiness
from queuectl.pool.intake import Intake, News
from queuectl.pool.live_config import LiveConfig
from queuectl.pool.periodic import Periodic
from queuectl.pool.presence import Presence
from queuectl.pool.turn import Turns
from queuectl.pool.upkeep import Upkeep
from queuectl.record.outcome import STOPPED, Outcome
from queuectl.run.signals import HangUp, prepare_signals
from queuectl.run.spawn import reap_adopted
from queuectl.settings import config
from queuectl.spool.filenames import DIRECTORIES, PAUSED, split_reject
from queuectl.spool.safety import check_safe
from queuectl.states import WAITING
from queuectl.system.loop import Event, Loop
from queuectl.system.notify import Notifier
from queuectl.units import duration_text
from queuectl.workers import requests
from queuectl.workers.registration import Registration

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.pool.backlog import Entry
    from queuectl.spool.spool import Spool
    from queuectl.system.arrivals import Arrivals
    from queuectl.system.loop import Future
    from queuectl.workers.worklog import WorkLog

_FIRST_SCAN_S = 0.25  # claims wait this long for the first look to end, so that the order is right
_EMPTY_CHECK_S = 0.2
_ONE_HANG_UP_S = 1.0  # a shell that ends sends SIGTERM, too, to what it had suspended


class Pool:
    """Runs the jobs of one spool until it is asked to stop.

    Args:
        spool: holds the jobs.
        count: how many jobs run at a time; None follows the setting `worker-count`.
        log: where events are logged.
        stop_when_empty: whether to leave once no job is due, running or waiting for a retry.
        on_ready: called with the pool's name once the pool can be seen.
    """

    def __init__(
        self,
        spool: Spool,
        count: int | None,
        log: WorkLog,
        *,
        stop_when_empty: bool = False,
        on_ready: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._spool = spool
        self._log = log
        self._stop_when_empty = stop_when_empty
        self._on_ready = on_ready
        self._count = count
        self._registration = Registration(spool, self._slots)
        self.name = log.pool = self._registration.name
        self._signals = 0
        self._hung_up_s = -inf
        self._ended_now = False
        self._presence = Presence(spool, log, self._registration, self._rescan)
        self._crashed = False
        self._has_looked = False  # at everything, once
        self._notifier = Notifier.from_environment()
        self._hang_up = HangUp()

    @property
    def _slots(self) -> int:
        return self._count or self._spool.config.worker_count

    def run(self) -> bool:
        """Run jobs until asked to stop (or empty); return False after an internal error.

        Raises:
            UnsafeSpoolError: others could put commands into the spool.
            WrongUserError: we are root, and the spool belongs to a user who has not shared it.
            SpoolError: the spool cannot be used.
            QueuectlError: this Python cannot wait for commands, or /proc shows other processes.
        """
        if not hasattr(os, "waitid"):
            msg = "this Python has no os.waitid, which macOS has from Python 3.13 on: use that"
            raise QueuectlError(msg)
        check_proc()
        self._spool.create()
        check_safe(self._spool)
        prepare_signals()
        self._loop = Loop()
        try:
            self._attention = Event(self._loop)
            # before the pool is registered, since others may stop it from then on
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.on_signal(number, self._asked_by_signal)
            self._loop.on_signal(signal.SIGHUP, self._hung_up)
            with self._registration:
                self._loop.run(self._live())
        finally:
            self._loop.close()
        return not self._crashed

    # --- the life of a pool -----------------------------------------------------------------

    def _make_parts(self) -> None:
        loop, spool, log = self._loop, self._spool, self._log
        news = News(ready=self._arrived, due=self._wake, scan=self._scan_soon)
        self._intake = Intake(spool, log, self.name, news)
        self._turns = Turns(spool, log, loop, self._intake, self._registration)
        self._claims = Claims(loop, self._intake, self._turns, self._turn_over, self._follow_pause)
        self._upkeep = Upkeep(spool, log, self._intake, self.name, self._scanned)
        self._emptiness = Emptiness(spool, self._claims, self._intake, self._upkeep)
        self._config = LiveConfig(spool, log)

    async def _live(self) -> None:
        loop, spool, log = self._loop, self._spool, self._log
        self._make_parts()
        spool.keep_spares(self.name)
        slots = self._registration.record.slots
        log.event("up", worker=self.name, slots=slots, spool=spool.path)
        await loop.in_thread(self._upkeep.begin)
        arrivals = self._watch()
        upkeep = loop.in_thread(self._upkeep.run)
        upkeep.on_done(lambda: self._check_crash(upkeep))
        try:
            self._on_ready(self.name)
            self._notifier.ready()
            await self._control(arrivals)
        except BaseException:
            self._end_now()
            raise
        finally:
            self._stop_claiming()
            for turn in tuple(self._claims.under_way):
                await turn.over()
            await upkeep.over()
            if arrivals is not None:
                log.errors_of(arrivals.stop)
            self._turns.close()
            spool.drop_spares()
        log.be_patient()
        log.event("down", worker=self.name)

    def _watch(self) -> Arrivals | None:
        spool = self._spool
        watched: dict[str, Callable[[str], None]] = {
            **{spool.directory(state): partial(self._intake.arrived, state) for state in WAITING},
            spool.directory("workers"): self._workers_changed,
            spool.path: self._root_changed,
        }
        try:
            from queuectl.system.arrivals import Arrivals

            arrivals = Arrivals(watched, lost=self._rescan)
            arrivals.start()
        except (ImportError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            every = spool.config.poll_interval
            detail = f"no file system events ({why}); looking every {every:g} s instead"
            self._log.event("warning", detail=detail)
            return None
        return arrivals

    def _workers_changed(self, name: str) -> None:
        ours = (f"{self.name}{requests.STOP_SUFFIX}", f"{self.name}{requests.CANCEL_MARK}")
        if self._presence.noticed(name) or name.startswith(ours):
            self._wake()

    def _root_changed(self, name: str) -> None:
        if name in (PAUSED, config.FILE_NAME):
            self._wake()
        elif name in DIRECTORIES:  # perhaps moved back, with files that nobody could see meanwhile
            self._rescan()

    def _arrived(self, entry: Entry) -> None:
        self._claims.arrived(entry)

    def _scan_soon(self) -> None:
        self._upkeep.soon()

    def _wake(self) -> None:
        """Have the control loop see what there is to do; may be called in any thread."""
        self._loop.soon_from_thread(self._attention.set)

    def _rescan(self) -> None:
        """Have everything looked at again soon, known or not; may be called in any thread."""
        self._intake.forget_scans()
        self._upkeep.soon()
        self._wake()

    def _scanned(self) -> None:
        """Let claims begin after the first look at everything; may be called in any thread."""
        if not self._has_looked:
            self._has_looked = True
            self._claims.begin()
            self._wake()

    def _turn_over(self, turn: Future[None]) -> None:
        self._check_crash(turn)
        if not self._claims.under_way:
            self._attention.set()

    def _check_crash(self, part: Future[None]) -> None:
        """Log the error and stop the whole pool if a part of it has failed unexpectedly."""
        error = part.error
        if error is not None:
            text = "".join(traceback.format_exception(error))
            self._log.event("error", detail=f"internal error: {text}")
            self._crashed = True
            self._signals = 2
            self._attention.set()

    # --- control ----------------------------------------------------------------------------

    async def _control(self, arrivals: Arrivals | None) -> None:
        periodic = self._periodic(arrivals)
        claim_at = time.monotonic() + _FIRST_SCAN_S
        while True:
            self._attention.clear()
            now = time.monotonic()
            for step in (*self._controls, *(task.run_if_due for task in periodic)):
                self._log.errors_of(step)
            self._follow_signals()
            if now >= claim_at:
                self._claims.begin()
            self._intake.advance()
            self._claims.claim()
            if self._stop_when_empty and not self._claims.stopped:
                self._log.errors_of(self._stop_if_empty)
            if self._claims.stopped and not self._claims.under_way:
                return
            await self._attention.wait(self._wait_s(periodic))

    def _periodic(self, arrivals: Arrivals | None) -> list[Periodic]:
        tasks = [
            Periodic(self._registration.beat, lambda: self._registration.beat_every_s),
            Periodic(lambda: self._tick(arrivals), lambda: self._spool.config.poll_interval),
        ]
        ping_s = self._notifier.beat_s
        return tasks if ping_s is None else [*tasks, Periodic(self._notifier.beat, lambda: ping_s)]

    def _wait_s(self, periodic: list[Periodic]) -> float:
        waits = [*(task.wait_s for task in periodic), self._intake.wait_s(), self._config.wait_s]
        waits.append(None if self._claims.begun else _FIRST_SCAN_S)
        waits.append(_EMPTY_CHECK_S if self._stop_when_empty else None)
        return max(0.0, min(wait for wait in waits if wait is not None))

    def _tick(self, arrivals: Arrivals | None) -> None:
        self._hang_up.look()
        if self._presence.keep():
            if arrivals is not None:
                arrivals.rearm()
            self._compare_with_held()
        reap_adopted()

    def _compare_with_held(self) -> None:
        """End commands whose jobs others took from us; send away jobs that a backup restored."""
        ours = [held for held in self._spool.held() if held.owner == self.name]
        self._turns.end_lost({held.job_id for held in ours})
        for held in ours:
            if not split_reject(held.job_id)[1]:
                self._claims.settle_stray(held)

    @property
    def _controls(self) -> tuple[Callable[[], None], ...]:
        """What to follow, each in a step of its own: one that fails must not hold up the others."""
        return (
            self._presence.follow,
            self._follow_config,
            self._follow_count,
            self._follow_cancels,
            self._follow_stop,
            self._follow_pause,
        )

    def _follow_config(self) -> None:
        if self._config.follow():
            self._turns.follow_config()
            self._upkeep.soon()

    def _follow_count(self) -> None:
        slots = self._slots
        if self._claims.resize(slots):
            self._log.event("config", slots=slots)
        if slots != self._registration.record.slots:  # published after it is followed
            self._registration.resize(slots)

    def _follow_cancels(self) -> None:
        for job_id, detail in requests.read_cancels(self._spool, self.name):
            if not self._turns.cancel(job_id, detail):
                # a request that cannot be removed must not hold up the others
                withdraw = partial(requests.withdraw_cancel, self._spool, self.name, job_id)
                self._log.errors_of(withdraw)

    def _follow_stop(self) -> None:
        asked = requests.read_stop(self._spool, self.name)
        if asked is not None:
            if not self._claims.stopped:
                running = self._turns.running
                self._log.event("stopping", detail=f"asked to; {running} running")
            self._stop_claiming()
            if asked == "now":
                self._end_now()

    def _follow_pause(self) -> None:
        paused = self._spool.paused
        if paused != self._claims.paused:
            (self._claims.pause if paused else self._claims.resume)()
            self._log.event("paused" if paused else "unpaused")

    def _asked_by_signal(self) -> None:
        if time.monotonic() > self._hung_up_s + _ONE_HANG_UP_S:
            self._signals += 1
            self._attention.set()

    def _hung_up(self) -> None:
        """Stop if the terminal that we were started in is gone, else reload, as SIGHUP asks."""
        if self._hang_up.has_come():
            self._hung_up_s = time.monotonic()
            self._signals = max(self._signals, 1)  # the kernel and the shell may both send it
            self._attention.set()
        else:
            self._reload()

    def _reload(self) -> None:
        """Read the settings again, and look at everything."""
        self._notifier.reloading()
        self._config.forget()
        self._log.errors_of(self._follow_config)
        self._rescan()
        self._notifier.ready()
        self._log.event("reloaded")

    def _follow_signals(self) -> None:
        if self._signals >= 1 and not self._claims.stopped:
            running = self._turns.running
            self._log.event("stopping", detail=f"{running} running{self._once_more(running)}")
            self._stop_claiming()
            self._log.errors_of(self._say_that_it_stops)
        if self._signals >= 2:
            self._end_now()

    def _once_more(self, running: int) -> str:
        if running:
            return "; a second signal ends them"
        if self._turns.stall.of_files:  # commands have ended, but their outcomes cannot be written
            return "; a second signal leaves what it holds to the next worker"
        return ""

    def _say_that_it_stops(self) -> None:
        """Write the file that asks the pool to stop, so that others see that it is stopping."""
        if not requests.is_asked_to_stop(self._spool, self.name):
            requests.ask_to_stop(self._spool, self.name, now=False)

    def _stop_claiming(self) -> None:
        if not self._claims.stopped:
            self._notifier.stopping()
        self._claims.stop()
        self._intake.stop()
        self._upkeep.stop()

    def _end_now(self) -> None:
        if not self._ended_now:
            self._ended_now = True
            running = self._turns.running
            if running:
                grace = duration_text(self._spool.config.kill_grace)
                detail = f"ending {running}; what is left after {grace} is killed"
                self._log.event("stopping", detail=detail)
            self._turns.end_all(Outcome(ended=STOPPED, detail="the worker was told to stop"))

    def _stop_if_empty(self) -> None:
        if self._has_looked and self._emptiness.is_reached():
            self._stop_claiming()
