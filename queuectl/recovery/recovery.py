"""What the dead left, put where it belongs.

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

_TICK_S = 0.01  # of a file system's clock; what came within one has its beginning as its ctime


class Recovery:
    """Finds dead owners, ends what they left running, and settles or gives back their jobs.

    Args:
        spool: where.
        me: the owner that does it, who is not dead.
        log: where it is told.
        heartbeats: what was seen of owners before, by a recovery under another name.
    """

    def __init__(
        self, spool: Spool, me: str, log: WorkLog, heartbeats: owners.Heartbeats | None = None
    ) -> None:
        self._spool = spool
        self._me = me
        self._log = log
        self._deaths = Deaths(spool, me, heartbeats or owners.Heartbeats())
        # by owner, why the last run left something of it for the next time
        self.faults: dict[str, OSError | QueuectlError] = {}
        self._told: dict[str, str] = {}  # of these, in the log: it is tried again and again
        self._still_running: dict[str, Dead] = {}  # by name, those of whom something runs still
        self._lock: int | None = None  # the descriptor that has it
        self.left: set[str] = set()  # owners whose jobs are for another user to recover
        self.busy = False  # the last run did nothing: somebody else recovers here

    @property
    def waiting_s(self) -> float | None:
        """In how many seconds `go_on` is to be called; None: nothing is waited for."""
        return LOOK_S if self._still_running else None

    def run(self) -> int:
        """Recover everything that a dead owner holds now; return how many jobs.

        What an owner ran is told to end first; while it has not ended its jobs stay, for `go_on`.
        What the file system refuses to give is left for the next time, and told.

        Raises:
            OSError, SpoolError: the spool itself cannot be looked at.
        """
        self.faults.clear()
        try:
            self.busy = not self._take()
        except FileNotFoundError:  # the spool is away, or not made yet: there is nothing to recover
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
        """Recover what waited for commands that have ended since; return how many jobs."""
        recovered = self._bury_all(list(self._still_running.values()))
        if not self._still_running:
            self.close()
        return recovered

    def _bury_all(self, dead: list[Dead]) -> int:
        """Recover from these, as far as nothing runs any more that they have started."""
        try:
            living = processes_of([one.ending.tree for one in dead])
        except OSError as error:
            self._log.event("error", detail=f"cannot recover: {error_text(error)}")
            self.faults |= {one.name: error for one in dead}
            self._still_running.clear()  # as a fault it waits for longer
            return 0
        return sum(self._try_to_bury(one, living[one.ending.tree]) for one in dead)

    def close(self) -> None:
        """Leave what has not ended to others."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # it is given back all the same
                os.close(self._lock)
            self._lock = None

    def _take(self) -> bool:
        """Let nobody else recover here, so that no two settle an orphan; False if somebody does.

        It is kept while something ends, which is to be told once and not by everybody.

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
            # the next owner's jobs must not wait for this one's disk
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
        if is_owner(name):  # what else somebody may call an owner has no files of ours
            for draft in self._drafts_of(name):
                unlink_file(draft)
            owners.remove_files(self._spool, name)
        return len(orphans)

    def _leave(self, dead: Dead, orphans: list[Held]) -> None:
        """Leave what an owner held to who alone can end what it ran."""
        which = first_of([orphan.job_id for orphan in orphans])
        detail = f"it held {which}, and only {dead.only_for} can end what it ran"
        if dead.name not in self.left:
            self._log.event("warning", worker=dead.name, detail=detail)
        self.left.add(dead.name)
        self.faults[dead.name] = QueuectlError(f"{dead.name}: {detail}")

    def _end_what_runs(self, dead: Dead, living: list[int]) -> bool:
        """Tell what an owner has left running to end; tell whether nothing is left."""
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
        """Recover what an owner held; one that cannot be does not hold up the others.

        Raises:
            OSError, QueuectlError: there was one; the owner's files are to stay.
        """
        do_all(partial(self._recover, orphan, dead, starts) for orphan in orphans)

    def _recover(self, orphan: Held, dead: Dead, starts: Starts) -> None:
        job_id, was_rejected = split_reject(orphan.job_id)
        claim = Claim(job_id, orphan.owner, orphan.path, "pending")
        with contextlib.suppress(FileNotFoundError, ClaimLostError):
            try:
                if was_rejected:
                    self._read(claim)  # says what is wrong with it, if anything is
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
        """Return the last body that an orphan had, also one that a power cut has taken away.

        Raises:
            BadJobError: what is held is no job's, and nothing tells of a better body.
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
            # it was on its way to dead/ under another id, since its own was taken
            beside = _id_in(claim.path)
            if not is_numbered(beside, claim.job_id):
                raise
            job = self._spool.read_file(claim.path, beside, any_owner=any_owner)
            claim.dead_id, claim.reason = beside, str(job.record.get("error_message"))
            return job

    def _put_back(self, claim: Claim, job: Job, dead: Dead) -> None:
        """Send an orphan where its body says; one that was run goes through the retry policy."""
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
    """Return the record of a held job that its owner does not run; its `state` names where it goes.

    Args:
        spool: whose job it is.
        claim: by which it is held.
        job: its last body.
        why: what is to be said of a run that was lost; it goes through the retry policy.
        this_boot: whether its command had begun if there is output, and only then: no power cut
            can have taken that away, nor anybody who deletes.
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
        # it never ran: its place is that of when it was queued
        back = given_back(back, "pending", round((queued_at - _TICK_S) * 1_000_000))
    return back


def lock_file(spool: Layout) -> str:
    """Return the file whose lock whoever recovers here has."""
    return f"{spool.directory('workers')}/recovery.lock"


def _id_in(path: str) -> str:
    """Return the id that a body has, whatever else it holds; empty if it has none to be read."""
    with contextlib.suppress(BadJobError):
        return str(decode(read_regular(path)).get("id"))
    return ""


def recover(spool: Spool, log: WorkLog, heartbeats: owners.Heartbeats | None = None) -> Recovery:
    """Do once, as an owner in passing, what a pool does again and again; return what came of it.

    Raises:
        OSError, SpoolError: see `Recovery.run`, or it cannot be written to.
        QueuectlError: its processes cannot be told apart here.
    """
    check_proc()
    with Registration(spool) as me:
        recovery = Recovery(spool, me.name, log, heartbeats)
        with contextlib.closing(recovery):  # a program may go on after what interrupts this
            recovery.run()
            while (wait_s := recovery.waiting_s) is not None:
                time.sleep(wait_s)
                recovery.go_on()
    return recovery
