"""One job's turn: take, count, run, settle. What queuectl guarantees rests on this order.

spool-layout.md, section "The moves".
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from queuectl import kernel
from queuectl.errors import (
    ClaimLostError,
    QueuectlError,
    error_text,
)
from queuectl.pool.custody import Custody
from queuectl.pool.disk import Disk
from queuectl.pool.lanes import Lanes
from queuectl.pool.space import Space
from queuectl.pool.stall import STARTS, Stall
from queuectl.pool.strays import Strays
from queuectl.record import outcome
from queuectl.record.fields import FIELDS, slips
from queuectl.record.job import command_line
from queuectl.run import runner
from queuectl.run.commands import Commands
from queuectl.run.stragglers import Sweeper
from queuectl.spool.cutting import cap
from queuectl.spool.joblogs import forget_output, remove_output
from queuectl.spool.moves import Claim
from queuectl.states import WAITING
from queuectl.system import files
from queuectl.workers import requests
from queuectl.workers.worklog import story

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from queuectl.pool.backlog import Entry
    from queuectl.pool.intake import Intake
    from queuectl.record.job import Job
    from queuectl.spool.layout import Held
    from queuectl.spool.spool import Spool
    from queuectl.system.files import Steps
    from queuectl.system.loop import Future, Loop
    from queuectl.workers.registration import Registration
    from queuectl.workers.worklog import WorkLog

_OF_POOLS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that may go to our whole process group
_SLIPS_TOLD = 100  # names of fields, at most, in the life of a pool


class _Ended(NamedTuple):
    """A run that is over, and its job, which is still held."""

    claim: Claim
    job: Job
    outcome: outcome.Outcome
    took_s: float
    at: float


class Turns:
    """Gives the jobs of one pool their turns; each turn is a coroutine of its event loop.

    Args:
        spool: holds the jobs.
        log: where events are logged.
        loop: the event loop that runs the turns.
        intake: gets back the entries of jobs that are not run.
        registration: the pool's; its record says how many jobs run at a time.
    """

    def __init__(
        self, spool: Spool, log: WorkLog, loop: Loop, intake: Intake, registration: Registration
    ) -> None:
        self._loop = loop
        self.lanes = Lanes(loop, registration.record.slots)
        # by `Spool.key`, the run of each turn; None while its command has not begun
        self._runs: dict[str, runner.Run | None] = {}
        self._deferred: defaultdict[str, list[Entry]] = defaultdict(list)
        self.stall = Stall(loop, log, registration, self.lanes)
        self._disk = Disk(loop)
        if spool.config.sync:  # only then, since closing it at the end takes 35 ms
            self._disk.prepare()
        self._custody = Custody(spool, log, self._disk, self.stall, intake)
        self._strays = Strays(spool, log, self._custody)
        self._sweeper = Sweeper(loop)
        self._commands = Commands(spool, registration.name)
        self._space = Space(spool)
        self._intake = intake
        self._cancelled: dict[str, outcome.Outcome] = {}  # by `Spool.key`
        self._spool = spool
        self._owner = registration.name
        self._log = log
        self._ending: outcome.Outcome | None = None
        self._told_of: set[str] = set()

    def end_all(self, reason: outcome.Outcome) -> None:
        """End every command that runs, and every one that starts from now on."""
        self._ending = reason
        for run in self._runs.values():
            if run is not None:
                run.end(reason)
        self.stall.give_up()

    def end_lost(self, held: Collection[str]) -> None:
        """End the commands of jobs that others have taken from us, since they may run them again.

        Args:
            held: the ids of the jobs that are still held in our name.
        """
        ours = {self._spool.key(job_id) for job_id in held}
        for key, run in self._runs.items():
            if run is None or run.exited or key in ours or not self._is_elsewhere(run.job_id):
                continue
            detail = "was taken away from this worker: its command is ended"
            if run.end(outcome.Outcome(ended=outcome.STOPPED, detail=detail)):
                self._log.event("warning", run.job_id, detail=detail)

    def _is_elsewhere(self, job_id: str) -> bool:
        try:
            return self._spool.find(job_id).owner != self._owner
        except QueuectlError:  # removed by hand, or unreadable: nobody else is known to run it
            return False

    def follow_config(self) -> None:
        """Apply the setting `job-timeout` to the commands that run, if it gives them more time."""
        for run in self._runs.values():
            if run is not None:
                run.follow_setting(self._spool.config.job_timeout)

    def cancel(self, job_id: str, detail: str) -> bool:
        """Cancel a job, and end its command if it runs; return False if no turn has the job."""
        key = self._spool.key(job_id)
        if key not in self._runs:
            return False
        reason = self._cancelled[key] = outcome.Outcome(ended=outcome.CANCELLED, detail=detail)
        run = self._runs[key]
        if run is not None:
            run.end(reason)
        return True

    def close(self) -> None:
        """Close the queue for fsyncs, once all turns are over."""
        self._disk.close()

    @property
    def running(self) -> int:
        """How many commands run."""
        return sum(run is not None and not run.exited for run in self._runs.values())

    @property
    def wait_for_disk(self) -> bool:
        """Whether a claim waits until it is on disk."""
        return self._spool.config.sync

    def begin(self, entry: Entry, on_room: Callable[[], None]) -> Future[None] | None:
        """Start the turn of a job, in a coroutine of its own; return None if that must wait.

        `on_room` is called in the loop once its command has ended, since there may be room then.
        """
        key = self._spool.key(entry.job_id)
        if key in self._runs:
            # A turn that is about to end has just released it, or it is a second file of this id.
            # To take it now would replace the file that is held.
            self._deferred[key].append(entry)
            return None
        self._runs[key] = None
        urgent = self.lanes.admit(entry.job_id, entry.priority)
        return self._loop.start(self._take_turn(entry, on_room, urgent=urgent))

    def settle_stray(self, held: Held) -> Future[None] | None:
        """Start to send away a job held in our name, as from a backup; None if it has a turn."""
        key = self._spool.key(held.job_id)
        if key in self._runs:
            return None
        self._runs[key] = None
        claim = Claim(held.job_id, held.owner, held.path, "processing")  # so it is read as it is
        return self._loop.start(self._send_away(claim))

    async def _send_away(self, claim: Claim) -> None:
        try:
            await self._strays.send_away(claim)
        finally:
            self._forget(claim.job_id)

    async def _take_turn(self, entry: Entry, on_room: Callable[[], None], *, urgent: bool) -> None:
        """Take one job, if it is still there to take, then run and settle it."""
        try:
            try:
                ended = await self._until_ended(entry, urgent=urgent)
            finally:
                self.lanes.drop(entry.job_id)
            if ended is not None:
                # let the next claim wait for the disk beside this outcome, not behind it
                self._loop.soon(on_room)
                await self._settle(ended)
        finally:
            self.lanes.done(entry.job_id)
            self._forget(entry.job_id)

    def _forget(self, job_id: str) -> None:
        key = self._spool.key(job_id)
        if self._cancelled.pop(key, None) is not None:
            # now, since a request to cancel this run must not end the next run of this id
            with contextlib.suppress(OSError):  # the request is read again at the next tick
                requests.withdraw_cancel(self._spool, self._owner, job_id)
        del self._runs[key]
        for deferred in self._deferred.pop(key, ()):
            self._intake.put_back(deferred)

    async def _until_ended(self, entry: Entry, *, urgent: bool) -> _Ended | None:
        claimed = await self._claim(entry)
        if claimed is None:
            return None
        claim, before = claimed
        job = await self._count(claim, before, urgent=urgent)
        if job is None:
            return None
        ran = None
        if await self.lanes.enter(job.id):
            try:
                ran = await self._run(claim, job)
            finally:
                took_s, at = self.lanes.leave(job.id), time.time()
        if ran is None:
            await self._custody.give_back(claim, before)
            self._intake.put_back(entry)  # the event of its arrival may come after another claim
            return None
        job, how = ran
        limit = self._spool.config.log_max_size
        if limit is not None:
            await self._cap_output(job, limit)
        await self.lanes.step_back()  # the next command starts before this outcome is written
        return _Ended(claim, job, how, took_s, at)

    async def _claim(self, entry: Entry) -> tuple[Claim, Job] | None:
        """Take a job; return its claim and the job, None if it is not ours or not due."""
        claim = await self._custody.take(entry, self._owner)
        job = None if claim is None else await self._custody.read(claim)
        if claim is None or job is None:
            return None
        if job.due(entry.state) != entry.due:
            # It was rewritten since it was looked at, by another pool's retry or an edit. The time
            # that has come is not its own. Given back, it arrives again.
            await self._custody.give_back(claim, job)
            return None
        return claim, job

    # --- count, durably, before the command starts ------------------------------------------

    async def _count(self, claim: Claim, before: Job, *, urgent: bool) -> Job | None:
        """Count the attempt; return the job as it is about to run, None if it is not to run."""
        logs = self._spool.log_files(before.id, before.run_number + 1)
        job = outcome.started(before, worker=self._owner, now=time.time(), logs=logs)
        try:
            await self._disk.carry_out(self._spool.counting(claim, job), urgent=urgent)
        except ClaimLostError as error:
            self._log.event("lost", claim.job_id, detail=str(error))
            return None
        except OSError as error:
            await self._custody.refused(claim, error, before)
            return None
        self.stall.tell_it_is_over()
        return job

    # --- run --------------------------------------------------------------------------------

    async def _run(self, claim: Claim, job: Job) -> tuple[Job, outcome.Outcome] | None:
        """Run the command; return the job and how that ended, None if it is to be given back."""
        key = self._spool.key(job.id)
        if key in self._cancelled:
            return job, self._cancelled[key]
        task = self._commands.task(job)
        try:
            started = await self._start(claim, job, task)
        except OSError as error:
            if error.errno not in kernel.NOTHING_LEFT:
                return job, runner.could_not_start(error, task)
            instead = await self._nothing_left(job, error)
            return None if instead is None else (job, instead)
        if started is None:
            return (job, self._cancelled[key]) if key in self._cancelled else None
        job, run = started
        self._runs[key] = run
        self.stall.tell_it_is_over(STARTS)
        if self._ending is not None:
            run.end(self._ending)
        attempt = job.tries(self._spool.config.max_retries)
        self._log.event("started", job.id, attempt=attempt, command=command_line(job.command))
        if "created_at" not in job.record:
            self._tell_of_slips(job)
        how = await run.wait()
        if how.signal in _OF_POOLS and run.met(how.signal):
            how = outcome.met_at_start(job, how)
        if how.exit_code and not self._space.look():
            how = outcome.without_room(how)
        return job, how

    async def _start(
        self, claim: Claim, job: Job, task: runner.Task
    ) -> tuple[Job, runner.Run] | None:
        """Start the command; return the job as it is in its file and the run, None if not now."""
        self._space.check()
        output = runner.OutputFiles(task)
        try:
            if output.is_lost:
                without = await self._count_without_output(claim, job)
                if without is None:
                    return None
                job = without
            run = runner.Run(self._loop, self._sweeper, task, output)
        finally:
            output.close()
        for error in output.lost:
            self._log.event("error", job.id, detail=f"its output is lost: {error_text(error)}")
        return job, run

    async def _count_without_output(self, claim: Claim, job: Job) -> Job | None:
        """Rewrite the record to name no output, or recovery would think that it never began."""
        without = job.changed(stdout_path=None, stderr_path=None)
        try:
            await self._disk.carry_out(self._spool.rewriting(claim, without))
        except ClaimLostError:  # logged when the job is given back
            return None
        except OSError as error:
            self.stall.hold(job.id, f"count {job.id}", error)
            await self.stall.pause()
            return None
        is_off = self.lanes.closed or self._spool.key(job.id) in self._cancelled
        return None if is_off else without

    async def _nothing_left(self, job: Job, error: OSError) -> outcome.Outcome | None:
        """Wait for what a start lacked; return an outcome, None if the job is to be given back."""
        self.stall.hold(job.id, f"start {job.id}", error, STARTS)
        if isinstance(error, runner.UnwatchedError):
            await self.stall.pause()
            return outcome.Outcome(ended=outcome.STOPPED, detail=str(error.strerror))
        # now: if we died, these files would mean that the command had begun
        remove_output(self._spool, job.id, job.run_number + 1)
        key = self._spool.key(job.id)
        while await self.stall.pause() and key not in self._cancelled and not self.lanes.closed:
            if error.errno not in kernel.NO_ROOM or self._space.look():
                break
        return self._cancelled.get(key)

    def _tell_of_slips(self, job: Job) -> None:
        """Log fields of a dropped job that look misspelled: whoever dropped it could not be told.

        Each name is logged once, and at most `_SLIPS_TOLD` names are looked at in all.
        """
        names = [name for name in job.record if name not in FIELDS and name not in self._told_of]
        names = names[: _SLIPS_TOLD - len(self._told_of)]
        self._told_of.update(names)
        for slip in slips(names):
            self._log.event("warning", job.id, detail=slip)

    async def _cap_output(self, job: Job, limit: float) -> None:
        """Cut output that is too large, in a thread, since half of the limit is copied."""
        for path in (job.record["stdout_path"], job.record["stderr_path"]):
            if path is not None and files.size(path) > limit:
                try:
                    error = await self._loop.in_thread(partial(cap, path, limit))
                except OSError as no_thread:
                    error = no_thread
                if error is not None:
                    detail = f"cannot cut its output: {error_text(error)}"
                    self._log.event("error", job.id, detail=detail)

    # --- settle -----------------------------------------------------------------------------

    async def _settle(self, ended: _Ended) -> None:
        claim, job, how, took_s, at = ended
        began = how.ended != outcome.CANCELLED or self._runs[self._spool.key(job.id)] is not None
        if not began:
            done = outcome.cancelled(outcome.never_began(job, at), how, at)
        else:
            job = outcome.began(job, at - took_s)
            done = self._settled(job, how, at)
        if done.state == "pending":  # a stopped job keeps its place in the order
            done = outcome.given_back(done, done.state, claim.arrived_us)

        def settling() -> Steps[None]:
            nonlocal done
            done = self._unless_cancelled(claim, done, at)
            return self._spool.settling(claim, done)

        if await self._custody.persist("record the outcome of", claim, settling):
            self.stall.tell_it_is_over()
            forget_output(self._spool, job, done)
            if not self._custody.tell_if_displaced(claim):
                run = done.history[-1] if began else {"ended": how.ended}
                self._log.event(done.state, job.id, **story(done, run, took_s))

    def _unless_cancelled(self, claim: Claim, done: Job, at: float) -> Job:
        """Return an outcome, or that the job is cancelled, if it would run again otherwise.

        A full disk may keep an outcome from being written for hours, in which the job is cancelled.
        """
        reason = self._cancelled.get(self._spool.key(done.id))
        # a file that has moved already is only to be synced
        has_moved = claim.path == self._spool.file(done.state, done.id)
        if reason is None or has_moved or done.state not in WAITING:
            return done
        return outcome.cancelled(done, reason, at)

    def _settled(self, job: Job, how: outcome.Outcome, at: float) -> Job:
        return outcome.settled(job, how, config=self._spool.config, now=at, random=random.random)
