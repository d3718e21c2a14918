"""Recovery: puts what dead owners left where it belongs.

spool-layout.md, section "Recover".
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from functools import partial
from typing import TYPE_CHECKING

from queuectl.errors import BadJobError, ClaimLostError, QueuectlError, do_all, error_text
from queuectl.ids import first_of, is_numbered
from queuectl.kernel.processes import check_proc, processes_of
from queuectl.record.job import decode
from queuectl.record.outcome import (
    WORKER_LOST,
    Outcome,
    given_back,
    never_began,
    only_held,
    settled,
)
from queuectl.record.reading import read_regular
from queuectl.recovery import leftovers
from queuectl.recovery.deaths import Dead, Deaths, lock_of
from queuectl.recovery.starts import Starts
from queuectl.run.stragglers import LOOK_S
from queuectl.spool.filenames import split_reject
from queuectl.spool.joblogs import forget_output
from queuectl.spool.moves import Claim
from queuectl.system.files import write_new
from queuectl.system.moving import is_there, unlink_file
from queuectl.system.scratch import is_owner, owner_of, try_lock
from queuectl.workers import owners, requests
from queuectl.workers.registration import Registration

if TYPE_CHECKING:
    from queuectl.record.job import Job
    from queuectl.spool.layout import Held, Layout
    from queuectl.spool.spool import Spool
    from queuectl.workers.worklog import WorkLog

_TICK_S = 0.01  # the longest tick of a file system's clock: a ctime is the start of a tick


class Recovery:
    """Finds dead owners, ends what they left running, and settles or gives back their jobs.

    Args:
        spool: the spool.
        me: the living owner that recovers.
        log: where to report what was done.
        heartbeats: the heartbeats that an earlier recovery, under another name, has seen.
    """

    def __init__(
        self, spool: Spool, me: str, log: WorkLog, heartbeats: owners.Heartbeats | None = None
    ) -> None:
        self._spool = spool
        self._me = me
        self._log = log
        self._deaths = Deaths(spool, me, heartbeats or owners.Heartbeats())
        # by owner, why the last run left something of it for the next one
        self.faults: dict[str, OSError | QueuectlError] = {}
        self._told: dict[str, str] = {}  # by owner, the fault in the log: not logged at each retry
        self._still_running: dict[str, Dead] = {}  # by owner: those whose commands still run
        self._lock: int | None = None  # the descriptor that holds recovery.lock
        self.left: set[str] = set()  # owners whose jobs only another user can recover
        self.busy = False  # the last run did nothing: another process was recovering

    @property
    def waiting_s(self) -> float | None:
        """The seconds until `go_on` is to be called; None if nothing is waited for."""
        return LOOK_S if self._still_running else None

    def run(self) -> int:
        """Recover what dead owners hold; return the number of jobs.

        The commands that an owner ran are ended first. Until they have ended, its jobs stay where
        they are, and `go_on` recovers them later. What the file system refuses is logged, and left
        for the next run.

        Raises:
            OSError, SpoolError: the spool itself cannot be looked at.
        """
        self.faults.clear()
        try:
            self.busy = not self._take()
        except FileNotFoundError:  # the spool is gone, or not made yet: there is nothing to recover
            return 0
        if self.busy:
            return 0
        try:
            asked = requests.standing(self._spool)
            waited_for = {name: one.ending for name, one in self._still_running.items()}
            dead = list(self._deaths.found(waited_for))
            for of_the_dead in (self._still_running, self._told):
                for name in of_the_dead.keys() - {owner.name for owner in dead}:
                    del of_the_dead[name]
            recovered = self._bury_all(dead)
            leftovers.clear(self._spool, self._me, asked)
            return recovered
        finally:
            if not self._still_running:
                self.close()

    def go_on(self) -> int:
        """Recover from owners whose commands have ended since `run`; return the number of jobs."""
        recovered = self._bury_all(list(self._still_running.values()))
        if not self._still_running:
            self.close()
        return recovered

    def _bury_all(self, dead: list[Dead]) -> int:
        """Recover from those of these owners that have nothing running any more."""
        try:
            living = processes_of([one.ending.tree for one in dead])
        except OSError as error:
            self._log.event("error", detail=f"cannot recover: {error_text(error)}")
            self.faults |= {one.name: error for one in dead}
            self._still_running.clear()  # a fault waits for the next run, not for `go_on`
            return 0
        return sum(self._try_to_bury(one, living[one.ending.tree]) for one in dead)

    def close(self) -> None:
        """Stop recovering, and leave what has not ended to others."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # the lock is released all the same
                os.close(self._lock)
            self._lock = None

    def _take(self) -> bool:
        """Take recovery.lock, so that no two settle one orphan; False if somebody else has it.

        It is kept while commands are being ended, so that only one process signals them.

        Raises:
            FileNotFoundError: there is no workers/.
        """
        if self._lock is None:
            path = lock_file(self._spool)
            if not is_there(path):
                with contextlib.suppress(FileExistsError):  # another was first
                    write_new(path, b"", sync=False, mode=self._spool.config.file_mode)
            self._lock = try_lock(path)
        return self._lock is not None

    def _try_to_bury(self, dead: Dead, living: list[int]) -> int:
        try:
            with lock_of(self._spool, dead) as is_dead:
                recovered = self._bury(dead, living) if is_dead else 0
        except (OSError, QueuectlError) as error:
            # a fault here must not hold up the jobs of the next owner
            detail = f"cannot recover from {dead.name or 'nobody'}: {error_text(error)}"
            if self._told.get(dead.name) != detail:
                self._told[dead.name] = detail
                self._log.event("error", detail=detail)
            self.faults[dead.name] = error
            self._still_running.pop(dead.name, None)
            return 0
        self._told.pop(dead.name, None)
        return recovered

    def _bury(self, dead: Dead, living: list[int]) -> int:
        name = dead.name
        if dead.only_for is None and not self._end_what_runs(dead, living):
            return 0
        orphans = [held for held in self._spool.held() if held.owner == name]
        if dead.only_for is not None and orphans:
            self._leave(dead, orphans)
            return 0
        if orphans and dead.unseen:
            what = f"what it ran {dead.unseen} may still run, and cannot be seen from here"
            self._log.event("warning", worker=name, detail=what)
        if dead.copied and orphans:
            what = "this spool is a copy: what that worker runs elsewhere is left alone"
            self._log.event("warning", worker=name, detail=what)
        self._recover_all(orphans, dead, Starts(self._spool, name, self._log))
        if is_owner(name):  # else somebody made the name up, and no files of ours have it
            for draft in self._drafts_of(name):
                unlink_file(draft)
            owners.remove_files(self._spool, name)
        return len(orphans)

    def _leave(self, dead: Dead, orphans: list[Held]) -> None:
        """Leave an owner's jobs to the user who alone can end its commands."""
        which = first_of([orphan.job_id for orphan in orphans])
        detail = f"it held {which}, and only {dead.only_for} can end what it ran"
        if dead.name not in self.left:
            self._log.event("warning", worker=dead.name, detail=detail)
        self.left.add(dead.name)
        self.faults[dead.name] = QueuectlError(f"{dead.name}: {detail}")

    def _end_what_runs(self, dead: Dead, living: list[int]) -> bool:
        """Signal what an owner has left running; tell whether nothing is left to wait for."""
        ending = dead.ending
        if ending.go_on(living):
            self._still_running[dead.name] = dead
            return False
        self._still_running.pop(dead.name, None)
        if ending.survivors:
            pids = ", ".join(map(str, ending.survivors))
            detail = f"processes of a dead worker that not even SIGKILL ends: {pids}"
            self._log.event("error", worker=dead.name, detail=detail)
        elif ending.told:
            detail = f"{len(ending.told)} of a dead worker's processes"
            self._log.event("ended", worker=dead.name, detail=detail)
        return True

    def _recover_all(self, orphans: list[Held], dead: Dead, starts: Starts) -> None:
        """Recover an owner's jobs; one that cannot be recovered does not hold up the others.

        Raises:
            OSError, QueuectlError: a job could not be recovered, so the owner's files must stay.
        """
        do_all(partial(self._recover, orphan, dead, starts) for orphan in orphans)

    def _recover(self, orphan: Held, dead: Dead, starts: Starts) -> None:
        job_id, was_rejected = split_reject(orphan.job_id)
        claim = Claim(job_id, orphan.owner, orphan.path, "pending")
        with contextlib.suppress(FileNotFoundError, ClaimLostError):
            try:
                if was_rejected:
                    self._read(claim)  # raises what is wrong with the file, if anything is
                    raise BadJobError(f"{claim.owner} died setting it aside")
                job = self._last_body(claim, starts)
            except (BadJobError, PermissionError) as error:
                why = str(error)
                if isinstance(error, PermissionError):
                    why = f"cannot be read: {error.strerror}"
                aside = self._spool.set_aside(claim, why, cut_short=was_rejected)
                self._log.event("rejected", aside.job_id, detail=aside.why)
                return
            self._put_back(claim, job, dead)

    def _last_body(self, claim: Claim, starts: Starts) -> Job:
        """Return the last body of an orphan, even if a power cut has undone its exchange.

        Raises:
            BadJobError: the held file is not a job, and no spare has a better body.
        """
        try:
            job = self._read(claim)
        except BadJobError:
            start = starts.latest(claim.path, claim.job_id, None)
            if start is None:
                raise
            return start
        if job.state == "processing":
            return job
        return starts.latest(claim.path, claim.job_id, job) or job

    def _read(self, claim: Claim) -> Job:
        any_owner = self._spool.config.shared
        try:
            return self._spool.read_file(claim.path, claim.job_id, any_owner=any_owner)
        except BadJobError:
            # perhaps it was on its way to dead/ under another id, because its own was taken
            beside = _id_in(claim.path)
            if not is_numbered(beside, claim.job_id):
                raise
            job = self._spool.read_file(claim.path, beside, any_owner=any_owner)
            claim.dead_id, claim.reason = beside, str(job.record.get("error_message"))
            return job

    def _put_back(self, claim: Claim, job: Job, dead: Dead) -> None:
        """Settle an orphan as its body says; one that was running goes through the retry policy."""
        why = f"{claim.owner} died running it" if claim.owner else "nobody was running it"
        back = sent_back(self._spool, claim, job, why, this_boot=dead.this_boot)
        self._spool.settle(claim, back)
        forget_output(self._spool, job, back)
        detail = f"from {claim.owner or 'nobody'}, to {claim.place(back.state)}"
        self._log.event("recovered", claim.job_id, detail=detail)

    def _drafts_of(self, name: str) -> list[str]:
        tmp = self._spool.directory("tmp")
        return [f"{tmp}/{draft}" for draft in os.listdir(tmp) if owner_of(draft) == name]


def sent_back(spool: Spool, claim: Claim, job: Job, why: str, *, this_boot: bool) -> Job:
    """Return the new record of a held job that its owner is not running.

    Its `state` names where the job goes.

    Args:
        spool: the job's spool.
        claim: the claim that holds it.
        job: its last body.
        why: the reason to record for a run that was lost; the retry policy then decides.
        this_boot: whether missing output files prove that the command had not begun, since no
            power cut or deletion can have removed them.
    """
    now = time.time()
    back = only_held(job, claim.owner)
    if back is None and this_boot and not spool.has_begun(job):
        back = never_began(job, now)
    if back is None:
        lost = Outcome(ended=WORKER_LOST, detail=why)
        back = settled(job, lost, config=spool.config, now=now, random=random.random)
    queued_at = back.instant("created_at")
    if back.state == "pending" and not back.history and queued_at is not None:
        # it never ran: its place is the time when it was queued
        back = given_back(back, "pending", round((queued_at - _TICK_S) * 1_000_000))
    return back


def lock_file(spool: Layout) -> str:
    """Return the path of the lock that is held while a spool is being recovered."""
    return f"{spool.directory('workers')}/recovery.lock"


def _id_in(path: str) -> str:
    """Return the `id` in a body, whatever else that holds; empty if the body cannot be read."""
    with contextlib.suppress(BadJobError):
        return str(decode(read_regular(path)).get("id"))
    return ""


def recover(spool: Spool, log: WorkLog, heartbeats: owners.Heartbeats | None = None) -> Recovery:
    """Recover once, as a temporary owner, and wait for it to end; return the `Recovery`.

    Raises:
        OSError, SpoolError: see `Recovery.run`; or the spool cannot be written to.
        QueuectlError: see `check_proc`.
    """
    check_proc()
    with Registration(spool) as me:
        recovery = Recovery(spool, me.name, log, heartbeats)
        with contextlib.closing(recovery):  # a program may go on after an interrupt
            recovery.run()
            while (wait_s := recovery.waiting_s) is not None:
                time.sleep(wait_s)
                recovery.go_on()
    return recovery
