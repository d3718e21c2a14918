"""Jobs that a pool holds: none is let go before it is where it belongs, full disks or not.

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

# of what cannot be taken; EACCES may be said of its directory
_THIS_FILE_ONLY = OF_ONE_FILE - {errno.EACCES}


class Custody:
    """Takes jobs for one pool, and sends away what is not run.

    Args:
        spool: whose jobs.
        log: where it is told what cannot be done.
        disk: does the steps that wait for it.
        stall: holds the pool back while something cannot be done.
        intake: takes back what is not taken.
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
        """Take a job; None if somebody else was first, or it cannot be taken now."""
        try:
            return self._spool.take(entry.job_id, entry.state, owner, entry.arrived_us)
        except OSError as error:
            source = self._spool.file(entry.state, entry.job_id)
            if isinstance(error, FileNotFoundError):
                if moving.is_gone(source):
                    return None  # somebody else was first
                if not again:  # they may have put it back since
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
        """Return the job that was taken; None if it is not to run, and was sent away.

        It is set aside if it can never run, else given back: half-written, or refused to us.
        """
        try:
            job = self._spool.read_claim(claim)
            if not self._is_only(claim):
                await self._disk.carry_out(self._taking_the_id(claim))
        except (IncompleteJobError, PermissionError) as error:
            if isinstance(error, OSError) and self._is_of_all(error):
                await self.refused(claim, error)
                return None
            # Overwritten in place by whoever still writes it, or its mode was taken away: it
            # arrives anew, and is waited for.
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
        """Tell whether a job is the only one of its id; False if that was set aside.

        Raises:
            BadJobError: another job has it.
        """
        state = self._spool.found_in(claim.job_id, OUTCOMES, but=claim.origin)
        if state is None:
            return True
        why = f"the id exists already, in {state}/"
        try:
            if state == "dead":
                if self._spool.drop_reason(claim):
                    return True  # of the file that was set aside, and is here now, mended
                if self._spool.reason(claim.job_id) is not None:
                    return False
            if self._spool.found_in(claim.job_id, OUTCOMES, but=claim.origin) is None:
                return True  # it was deleted meanwhile
        except OSError as error:
            if error.errno in kernel.OUT_OF_RESOURCES or self._is_of_all(error):
                raise  # it is not this file
            # one file is no reason for all to wait
            why += f", and cannot be looked at there: {error.strerror}"
        raise BadJobError(why)

    def _taking_the_id(self, claim: Claim) -> Steps[None]:
        """Have a file that was set aside make way for a job of its name.

        Raises:
            BadJobError: it cannot, as one that is only just being set aside, or is immutable.
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
        """Tell whether it is processing/ that cannot be read, and not one file."""
        return bool(error.filename == self._spool.directory("processing"))

    def _setting_aside(self, claim: Claim, why: str) -> Steps[None]:
        aside = yield from self._spool.setting_aside(claim, why)
        self._log.event("rejected", aside.job_id, detail=aside.why)

    async def refused(self, claim: Claim, error: OSError, before: Job | None = None) -> None:
        """Give back a job that the file system does not let us claim, and claim nothing a while."""
        self._stall.hold(claim.job_id, f"claim {claim.job_id}", error)
        await self._stall.pause()
        await self.give_back(claim, before)

    async def give_back(self, claim: Claim, before: Job | None) -> None:
        """Return a job that was taken and not run, as it was; `before`: what was read of it."""
        held = claim.path
        await self.persist(
            "give back",
            claim,
            lambda: self._giving_back(claim, before),
            # it is back; where a power cut takes it away again, recovery does the same
            is_enough=lambda: self._stall.nothing_starts and claim.path != held,
        )

    def _giving_back(self, claim: Claim, before: Job | None) -> Steps[None]:
        if claim.rewritten and before is not None:
            # where it came from, whatever its body says: it may have been moved there by hand
            back = given_back(before, claim.origin, claim.arrived_us)
            yield from self._spool.settling(claim, back)
            self.tell_if_displaced(claim)
            return
        try:
            # needs no room on the disk, which a new body would
            yield from self._spool.releasing(claim, claim.origin)
        except JobExistsError as error:
            yield from self._setting_aside(claim, str(error))

    def tell_if_displaced(self, claim: Claim) -> bool:
        """Log that a job is dead whose place was taken, if that is so; tell whether it is."""
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
        """Do what must not be given up because a disk is full: try until it is done.

        Args:
            what: is done, in words.
            claim: to whom.
            steps: what is to be done.
            is_enough: tells whether it can be left as it is after a try that failed.
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
