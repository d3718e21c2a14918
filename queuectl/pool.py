"""A pool: arrivals, claims and runs, N jobs at a time, in one event loop.

spool-layout.md, sections "Waking" and "Stopping".
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING

from queuectl import config, orders
from queuectl.errors import BadSettingError, QueuectlError, SpoolError
from queuectl.housekeeping import Housekeeping
from queuectl.intake import Intake, News
from queuectl.lanes import Lanes
from queuectl.layout import DIRECTORIES, PAUSED
from queuectl.loop import Event, Future, Loop
from queuectl.notify import Notifier
from queuectl.outcome import STOPPED, Outcome
from queuectl.owners import Registration
from queuectl.recovery import Recovery
from queuectl.safety import check_safe
from queuectl.turn import Turns
from queuectl.units import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.arrivals import Arrivals
    from queuectl.backlog import Entry
    from queuectl.spool import Spool
    from queuectl.worklog import WorkLog

_STDERR = 2
_FIRST_SCAN_S = 0.25  # claims wait this long for a first look to end, so that order is right
_EMPTY_CHECK_S = 0.2
_NEVER_S = 1e9
_SAVING_S = 1.0  # an editor that moves config.json away and writes it anew takes less
_TIDY_S = 60.0  # between two looks at what is beyond its retention
_TIDY_SHARE = 5  # while there is more to delete, it takes a sixth of the time
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
        self._signals = 0
        self._stopping = False
        self._ended_now = False
        self._crashed = False
        self._scanned = False
        self._paused = False
        self._config_stamp: tuple[int, int] | None = None
        self._config_gone_at: float | None = None
        self._notifier = Notifier.from_environment()
        self._has_terminal = os.isatty(_STDERR)

    def run(self) -> bool:
        """Work until asked to stop (or empty); tell whether it ended as it should.

        Raises:
            UnsafeSpoolError: others could put commands into the spool.
            SpoolError: the spool cannot be used.
        """
        self._spool.create()
        check_safe(self._spool)
        # Inherited as ignored it would make exit 7 look like 0.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Sent to who holds a lease, and deadly without a handler (kernel.keep_to_ourselves). One
        # that does nothing, since what is ignored is inherited by commands, and a handler is not.
        signal.signal(signal.SIGIO, lambda *_: None)
        with self._registration:
            self._loop = Loop()
            try:
                self._loop.run(self._live())
            finally:
                self._loop.close()
        return not self._crashed

    # --- the life of a pool -----------------------------------------------------------------

    async def _live(self) -> None:
        self._attention = Event(self._loop)
        self._pumping = False
        self._wanting = True
        self._under_way: set[Future[None]] = set()
        self._rest = threading.Event()
        news = News(ready=self._pump_soon, due=self._look_up, look=self._rest.set)
        self._intake = Intake(self._spool, self._log, self.name, news)
        self._lanes = Lanes(self._loop, self._slots, self._pump)
        self._turns = Turns(self._spool, self._log, self._lanes, self._intake, self._registration)
        self._recovery = Recovery(self._spool, self.name, self._log)
        self._spool.keep_spares(self.name)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._asked_by_signal)
        self._loop.on_signal(signal.SIGHUP, self._hung_up)
        where = self._spool.path
        self._log.event("up", worker=self.name, slots=self._slots, spool=where)
        await self._loop.in_thread(self._recover)
        arrivals = self._watch()
        scanner = self._loop.in_thread(self._scan_loop)
        scanner.on_done(lambda: self._check_crash(scanner))
        try:
            self._on_ready(self.name)
            self._notifier.ready()
            await self._control(arrivals)
        except BaseException:
            self._end_now()
            raise
        finally:
            self._stop_claiming()
            for turn in tuple(self._under_way):
                await turn.over()
            await scanner.over()
            if arrivals is not None:
                self._attempt(arrivals.stop)
            self._turns.close()
            self._spool.drop_spares()
        self._log.event("down", worker=self.name)

    def _watch(self) -> Arrivals | None:
        spool = self._spool
        watched = {
            spool.directory("pending"): self._intake.pending_arrived,
            spool.directory("failed"): self._intake.failed_arrived,
            spool.directory("workers"): self._workers_changed,
            spool.path: self._root_changed,
        }
        try:
            from queuectl.arrivals import Arrivals

            arrivals = Arrivals(watched, lost=self._look_again)
            arrivals.start()
        except (ImportError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            every = spool.config.poll_interval
            detail = f"no file system events ({why}); looking every {every:g} s instead"
            self._log.event("warning", detail=detail)
            return None
        return arrivals

    def _workers_changed(self, name: str) -> None:
        if name.startswith(
            (f"{self.name}{orders.STOP_SUFFIX}", f"{self.name}{orders.CANCEL_MARK}")
        ):
            self._look_up()

    def _root_changed(self, name: str) -> None:
        if name in (PAUSED, config.FILE_NAME):
            self._look_up()
        elif name in DIRECTORIES:  # moved back, perhaps, with what nobody could see meanwhile
            self._look_again()

    def _look_up(self) -> None:
        """Have the control loop look what there is to do; may be called in any thread."""
        self._loop.soon_from_thread(self._attention.set)

    def _look_again(self) -> None:
        """Have everything looked at now, whatever is known; may be called in any thread."""
        self._intake.forget_scans()
        self._rest.set()
        self._look_up()

    def _check_crash(self, part: Future[None]) -> None:
        """Stop the whole pool, loudly, if a part of it meets what it was not made for."""
        error = part.error
        if error is not None:
            text = "".join(traceback.format_exception(error))
            self._log.event("error", detail=f"internal error: {text}")
            self._crashed = True
            self._signals = 2
            self._attention.set()

    # --- control ----------------------------------------------------------------------------

    async def _control(self, arrivals: Arrivals | None) -> None:
        begun = time.monotonic()
        # when each was done last, not when it is next: the settings may change meanwhile
        beat = tick = ping = -_NEVER_S
        while True:
            self._attention.clear()
            now = time.monotonic()
            for follow in self._controls:
                self._attempt(follow)
            if now >= beat + self._beat_s:
                self._attempt(self._registration.beat)
                beat = now
            if now >= ping + self._ping_s:
                self._notifier.beat()
                ping = now
            if now >= tick + self._spool.config.poll_interval:
                self._attempt(lambda: self._tick(arrivals))
                tick = now
            self._follow_signals()
            self._scanned = self._scanned or now - begun >= _FIRST_SCAN_S
            self._intake.advance()
            self._pump_urgent()
            if self._stop_when_empty and not self._stopping:
                self._attempt(self._stop_if_empty)
            if self._stopping and not self._under_way:
                break
            poll_s = self._spool.config.poll_interval
            next_s = min(beat + self._beat_s, ping + self._ping_s, tick + poll_s)
            await self._attention.wait(self._wait_s(next_s - time.monotonic()))

    @property
    def _beat_s(self) -> float:
        return self._spool.config.lease / 3

    @property
    def _ping_s(self) -> float:
        return self._notifier.beat_s or _NEVER_S

    def _wait_s(self, until_tick_s: float) -> float:
        waits = [until_tick_s, self._intake.wait_s()]
        waits.append(None if self._scanned else _FIRST_SCAN_S)
        waits.append(_EMPTY_CHECK_S if self._stop_when_empty else None)
        return max(0.0, min(wait for wait in waits if wait is not None))

    def _attempt(self, step: Callable[[], object]) -> None:
        """Do something that will be done again: a fault in it is told, and the next time waits."""
        try:
            step()
        except (OSError, QueuectlError) as error:
            self._log.event("error", detail=str(error))

    def _tick(self, arrivals: Arrivals | None) -> None:
        for name in DIRECTORIES:
            if not os.path.isdir(self._spool.directory(name)):
                self._spool.create()
                self._log.event("warning", detail=f"{name}/ was gone: made again")
                self._look_again()
        if arrivals is not None:
            arrivals.rearm()

    @property
    def _controls(self) -> tuple[Callable[[], None], ...]:
        """What is followed, each for itself: what cannot be read holds up none of the others."""
        return (self._follow_config, self._follow_cancels, self._follow_stop, self._follow_pause)

    def _follow_cancels(self) -> None:
        for job_id, detail in orders.asked_to_cancel(self._spool, self.name):
            if not self._turns.cancel(job_id, detail):
                orders.withdraw_cancel(self._spool, self.name, job_id)

    def _follow_stop(self) -> None:
        asked = orders.asked_to_stop(self._spool, self.name)
        if asked is not None:
            self._stop_claiming()
            if asked == "now":
                self._end_now()

    def _follow_pause(self) -> None:
        paused = self._spool.paused
        if paused != self._paused:
            self._paused = paused
            if paused:
                self._lanes.close()
            elif not self._stopping:
                self._lanes.open()
            self._log.event("paused" if paused else "unpaused")

    def _follow_config(self) -> None:
        try:
            status = os.stat(f"{self._spool.path}/{config.FILE_NAME}")
            stamp = (status.st_ino, status.st_mtime_ns)
        except FileNotFoundError:
            stamp = None
        if stamp is not None or stamp == self._config_stamp:
            self._config_gone_at = None
        if stamp == self._config_stamp or (stamp is None and self._is_being_saved()):
            return
        self._config_stamp = stamp
        try:
            new = config.load(self._spool.path)
        except (BadSettingError, SpoolError) as error:
            self._log.event("warning", detail=f"keeping the settings as they were: {error}")
            return
        if new != self._spool.config:
            self._spool.config = new
            self._rest.set()  # the other thread waits by the settings of before
            self._log.event("config", detail="settings changed")

    def _is_being_saved(self) -> bool:
        """Tell whether config.json is gone for so short a time that an editor may bring it back."""
        now = time.monotonic()
        if self._config_gone_at is None:
            self._config_gone_at = now
            self._loop.later(_SAVING_S, self._attention.set)
        return now < self._config_gone_at + _SAVING_S

    def _asked_by_signal(self) -> None:
        self._signals += 1
        self._attention.set()

    def _hung_up(self) -> None:
        """Stop if the terminal that we were started in is gone, else do what SIGHUP asks."""
        if self._has_terminal and not os.isatty(_STDERR):
            self._signals = max(self._signals, 1)  # kernel and shell may both say it
            self._attention.set()
        else:
            self._reload()

    def _reload(self) -> None:
        """Read the settings again, and look at everything."""
        self._notifier.reloading()
        self._config_stamp = None
        self._attempt(self._follow_config)
        self._look_again()
        self._notifier.ready()
        self._log.event("reloaded")

    def _follow_signals(self) -> None:
        if self._signals >= 1 and not self._stopping:
            running = len(self._under_way)
            self._log.event("stopping", detail=f"{running} running; once more to end them")
            self._stop_claiming()
            self._attempt(self._say_that_it_stops)
        if self._signals >= 2:
            self._end_now()

    def _say_that_it_stops(self) -> None:
        """Have those who look see it as if it had been asked by file."""
        if not orders.is_asked_to_stop(self._spool, self.name):
            orders.ask_to_stop(self._spool, self.name, now=False)

    def _stop_claiming(self) -> None:
        if not self._stopping:
            self._notifier.stopping()
        self._stopping = True
        self._lanes.close()
        self._intake.stop()
        self._rest.set()

    def _end_now(self) -> None:
        if not self._ended_now:
            self._ended_now = True
            grace = duration_text(self._spool.config.kill_grace)
            if self._under_way:
                detail = f"ending {len(self._under_way)}; what is left after {grace} is killed"
                self._log.event("stopping", detail=detail)
            self._turns.end_all(Outcome(ended=STOPPED, detail="the worker was told to stop"))

    def _stop_if_empty(self) -> None:
        if self._empty():
            self._stop_claiming()

    def _empty(self) -> bool:
        """Tell whether nothing is due, running or to be retried, in the whole spool."""
        if self._under_way or not self._scanned or not self._intake.idle:
            return False
        # twice: what another pool claims is in pending/ before that is looked at, or here after it
        return (
            not self._others_hold() and self._intake.idle_after_a_look() and not self._others_hold()
        )

    def _others_hold(self) -> bool:
        return any(any(self._spool.names(state)) for state in ("processing", "failed"))

    # --- claiming ---------------------------------------------------------------------------

    def _pump_soon(self, entry: Entry) -> None:
        """Claim what there is, unless that could not be this; may be called in any thread."""
        if not self._pumping and (self._wanting or entry.priority < self._lanes.bar):
            self._pumping = True
            self._loop.soon_from_thread(self._pump_urgent)

    def _pump_urgent(self) -> None:
        """Claim what there is room for, and what is more urgent than what has been claimed."""
        self._pump()
        while not self._held_back:
            entry = self._intake.next(self._lanes.bar)
            if entry is None:
                return
            self._begin(entry)

    def _pump(self) -> None:
        self._pumping = False
        # before the look: who puts a job in after it must see that one is wanted
        self._wanting = True
        while not self._held_back and self._lanes.has_room(in_rows=self._spool.config.sync):
            entry = self._intake.next()
            if entry is None:
                return
            self._begin(entry)
        self._wanting = False  # until there is room, which has the next look follow

    @property
    def _held_back(self) -> bool:
        return self._stopping or self._paused or not self._scanned or self._turns.stall.on

    def _begin(self, entry: Entry) -> None:
        turn = self._turns.begin(entry)
        if turn is not None:
            self._under_way.add(turn)
            turn.on_done(partial(self._turn_over, turn))

    def _turn_over(self, turn: Future[None]) -> None:
        self._under_way.discard(turn)
        self._check_crash(turn)
        self._pump()
        if not self._under_way:
            self._attention.set()

    # --- the other thread: looking at everything, and recovering ----------------------------

    def _scan_loop(self) -> None:
        next_recovery = time.monotonic() + self._spool.config.poll_interval
        next_tidying = 0.0
        housekeeping = Housekeeping(self._spool, self._log)
        while not self._stopping:
            self._attempt(self._intake.scan)
            self._let_claims_begin()
            self._attempt(lambda: self._intake.set_aside_rejects(_REJECTS_A_TURN))
            interval_s = self._spool.config.poll_interval
            if time.monotonic() >= next_recovery:
                self._recover()
                next_recovery = time.monotonic() + interval_s
            if time.monotonic() >= next_tidying:
                next_tidying = time.monotonic() + self._tidy(housekeeping)
            hurry_s = self._intake.next_look_s
            self._rest.wait(interval_s if hurry_s is None else min(hurry_s, interval_s))
            if not self._stopping:
                self._rest.clear()

    def _tidy(self, housekeeping: Housekeeping) -> float:
        """Delete what is beyond its retention; return the seconds until the next time."""
        begun, more = time.monotonic(), False
        try:
            more = housekeeping.run()
        except (OSError, QueuectlError) as error:
            self._log.event("error", detail=str(error))
        return _TIDY_SHARE * (time.monotonic() - begun) if more else _TIDY_S

    def _let_claims_begin(self) -> None:
        if not self._scanned:
            self._scanned = True
            self._look_up()

    def _recover(self) -> None:
        self._attempt(self._recovery.run)
