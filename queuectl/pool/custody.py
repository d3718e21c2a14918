"""The jobs that a pool holds: none is let go before it is where it belongs, even on a full disk.

spool-layout.md, section "The moves".
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from queuectl import kernel
from queuectl.errors import BadJobError, ClaimLostError, IncompleteJobError, JobExistsError
from queuectl.record.outcome import given_back
from queuectl.spool.asides import OF_ONE_FILE
from queuectl.states import OUTCOMES
from queuectl.system import moving

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.pool.backlog import Entry
    from queuectl.pool.disk import Disk
    from queuectl.pool.intake import Intake
    from queuectl.pool.stall import Stall
    from queuectl.record.job import Job
    from queuectl.spool.moves import Claim
    from queuectl.spool.spool import Spool
    from queuectl.system.files import Steps
    from queuectl.workers.worklog import WorkLog

# errors of a take that concern only that file; EACCES may concern its directory
_THIS_FILE_ONLY = OF_ONE_FILE - {errno.EACCES}


class Custody:
    """Takes jobs for one pool, and sends away those that it does not run.

    Args:
        spool: holds the jobs.
        log: where failures are logged.
        disk: carries out the steps that wait for the disk.
        stall: holds the pool back while something cannot be done.
        intake: gets back the entries of jobs that could not be taken.
    """

    def __init__(
        self, spool: Spool, log: WorkLog, disk: Disk, stall: Stall, intake: Intake
    ) -> None:
        self._spool = spool
        self._log = log
        self._disk = disk
        self._stall = stall
        self._intake = intake

    async def take(self, entry: Entry, owner: str, *, again: bool = False) -> Claim | None:
        """Take a job; return None if somebody else was first or it cannot be taken now."""
        try:
            return self._spool.take(entry.job_id, entry.state, owner, entry.arrived_us)
        except OSError as error:
            source = self._spool.file(entry.state, entry.job_id)
            if isinstance(error, FileNotFoundError):
                if moving.is_gone(source):
                    return None  # somebody else was first
                if not again:  # it may have been put back since
                    return await self.take(entry, owner, again=True)
            if error.errno in _THIS_FILE_ONLY:
                self._intake.rejects.leave(entry.state, entry.job_id, error)
                return None
            self._stall.hold(entry.job_id, f"take {entry.job_id}", error)
            await self._stall.pause()
            self._stall.let_go(entry.job_id)
            self._intake.put_back(entry)
            return None

    async def read(self, claim: Claim) -> Job | None:
        """Return the job that was taken, None if it was sent away instead.

        A file that can never run is set aside. One that is half-written, or that we may not
        read, is given back.
        """
        try:
            job = self._spool.read_claim(claim)
            if not self._is_only(claim):
                await self._disk.carry_out(self._taking_the_id(claim))
        except (IncompleteJobError, PermissionError) as error:
            if isinstance(error, OSError) and self._is_of_all(error):
                await self.refused(claim, error)
                return None
            # Its writer is still overwriting it in place, or its mode was changed. Given back, it
            # arrives again, and the intake waits for it.
            await self.give_back(claim, None)
            return None
        except BadJobError as error:
            why = str(error)
            await self.persist("set aside", claim, lambda: self._setting_aside(claim, why))
            return None
        except OSError as error:
            await self.refused(claim, error)
            return None
        return job

    def _is_only(self, claim: Claim) -> bool:
        """Tell whether nothing else has a job's id; False if a file that was set aside has it.

        Raises:
            BadJobError: another job has the id, or a file that cannot be read.
            OSError: the file system refused to tell, and not because of one file.
        """
        state = self._spool.found_in(claim.job_id, OUTCOMES, but=claim.origin)
        if state is None:
            return True
        why = f"the id exists already, in {state}/"
        try:
            if state == "dead":
                if self._spool.drop_reason(claim):
                    return True  # the reason was for this very file, which was mended
                if self._spool.reason(claim.job_id) is not None:
                    return False
            if self._spool.found_in(claim.job_id, OUTCOMES, but=claim.origin) is None:
                return True  # the other was deleted meanwhile
        except OSError as error:
            if error.errno in kernel.OUT_OF_RESOURCES or self._is_of_all(error):
                raise  # this file is not the cause
            # one unreadable file is no reason for all jobs to wait
            why += f", and cannot be looked at there: {error.strerror}"
        raise BadJobError(why)

    def _taking_the_id(self, claim: Claim) -> Steps[None]:
        """Have a file that was set aside give up its id to a job that has come under its name.

        Raises:
            BadJobError: it cannot, because it is still being set aside or is immutable.
            OSError: the file system refused.
        """
        why = "the id exists already, in dead/"
        try:
            aside = yield from self._spool.making_way(claim)
        except OSError as error:
            if error.errno not in OF_ONE_FILE:
                raise
            raise BadJobError(f"{why}, and does not make way: {error.strerror}") from error
        if aside is not None:
            detail = f"{aside.why}; it was {claim.job_id}, which came anew"
            self._log.event("rejected", aside.job_id, detail=detail)
        elif not self._is_only(claim):
            raise BadJobError(why)

    def _is_of_all(self, error: OSError) -> bool:
        """Tell whether an error is about processing/ itself rather than one file."""
        return bool(error.filename == self._spool.directory("processing"))

    def _setting_aside(self, claim: Claim, why: str) -> Steps[None]:
        aside = yield from self._spool.setting_aside(claim, why)
        self._log.event("rejected", aside.job_id, detail=aside.why)

    async def refused(self, claim: Claim, error: OSError, before: Job | None = None) -> None:
        """Claim nothing for a while, then give back a job whose claim the file system refused."""
        self._stall.hold(claim.job_id, f"claim {claim.job_id}", error)
        await self._stall.pause()
        await self.give_back(claim, before)

    async def give_back(self, claim: Claim, before: Job | None) -> None:
        """Return a job that was taken but not run to where it came from, as it was.

        `before` is the job as it was read, None if it could not be read.
        """
        held = claim.path
        await self.persist(
            "give back",
            claim,
            lambda: self._giving_back(claim, before),
            # It is back, though not synced: should a power cut undo that, recovery gives it back.
            is_enough=lambda: self._stall.nothing_starts and claim.path != held,
        )

    def _giving_back(self, claim: Claim, before: Job | None) -> Steps[None]:
        if claim.rewritten and before is not None:
            # to where it came from, whatever its body says: it may have been moved there by hand
            back = given_back(before, claim.origin, claim.arrived_us)
            yield from self._spool.settling(claim, back)
            self.tell_if_displaced(claim)
            return
        try:
            # needs no room on the disk, whereas a new body would
            yield from self._spool.releasing(claim, claim.origin)
        except JobExistsError as error:
            yield from self._setting_aside(claim, str(error))

    def tell_if_displaced(self, claim: Claim) -> bool:
        """Log that a job went to dead/ because its place was taken; tell whether that is so."""
        if claim.dead_id is None:
            return False
        self._log.event("dead", claim.dead_id, detail=claim.reason)
        return True

    async def persist(
        self,
        what: str,
        claim: Claim,
        steps: Callable[[], Steps[object]],
        is_enough: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Repeat steps until they succeed, even on a full disk; tell whether they did.

        They are given up if the claim was taken away, or when the pool is told to end at once.

        Args:
            what: the steps in words, for the log.
            claim: the claim on the job.
            steps: makes the steps for one try.
            is_enough: tells, after a failed try, whether the job can be left as it is.
        """
        while True:
            try:
                await self._disk.carry_out(steps())
            except ClaimLostError as error:
                self._log.event("lost", claim.job_id, detail=str(error))
                done = False
            except OSError as error:
                self._stall.hold(claim.job_id, f"{what} {claim.job_id}", error)
                if not is_enough():
                    if await self._stall.pause():
                        continue
                    self._log.event("left", claim.job_id, detail="for the next worker to recover")
                done = False
            else:
                done = True
            self._stall.let_go(claim.job_id)
            return done
