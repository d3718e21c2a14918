"""The three steps of every move: take, rewrite, release.

    take      STATE/ID.json       --rename-->  processing/ID@OWNER.json
    rewrite   tmp/~spare-N@OWNER.json  <--exchange-->  processing/ID@OWNER.json, or
              tmp/ID@OWNER.json   --rename-->  processing/ID@OWNER.json
    release   processing/ID@OWNER.json  --rename-->  STATE/ID.json

The kernel picks one winner of a rename. The name of the file names the owner, so claiming a job and
recording who holds it happen at one instant. spool-layout.md, section "The moves".
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from queuectl.errors import ClaimLostError, JobExistsError, QueuectlError, SpoolError
from queuectl.ids import numbered
from queuectl.record.job import Job, again
from queuectl.spool.filenames import SUFFIX
from queuectl.spool.layout import Layout
from queuectl.spool.spares import Spares
from queuectl.states import WAITING
from queuectl.system import files, moving
from queuectl.system.scratch import draft_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queuectl.spool.layout import Held
    from queuectl.system.files import Steps


@dataclass
class Claim:
    """A job file that one owner holds in processing/, and where it was taken from."""

    job_id: str
    owner: str
    path: str
    origin: str
    arrived_us: int = 0  # gives its place among those waiting there, see `Job.place`
    rewritten: bool = False  # the body is no longer the one that was taken
    spare: str | None = None  # the file in tmp/ with the body that the last rewrite replaced
    first_spare: str | None = None  # has the body before the start, until the outcome is on disk
    dead_id: str | None = None  # its id in dead/ if its own is taken
    reason: str = ""  # why it goes to dead/ under another id

    def place(self, state: str) -> str:
        """Return where the job is after it was settled to a state, for the log."""
        if self.dead_id is None:
            return f"{state}/"
        return f"dead/{self.dead_id}{SUFFIX}: {self.reason}"

    def part_with_spares(self) -> list[str]:
        """Return the spares kept for this claim, and forget them: they are the caller's now."""
        spares = [spare for spare in (self.first_spare, self.spare) if spare is not None]
        self.first_spare = self.spare = None
        return spares


class Moves(Layout):
    """A spool whose jobs can be taken, rewritten and released."""

    _spares: Spares | None = None

    def take(self, job_id: str, state: str, owner: str, arrived_us: int = 0) -> Claim:
        """Take a job for `owner`, whatever its file holds.

        Args:
            job_id: the job to take.
            state: the state that it is taken from.
            owner: the name under which it is held.
            arrived_us: when it arrived there, in microseconds; needed to give it back.

        Raises:
            FileNotFoundError: somebody else was first, or the job is gone.
            OSError: the job could not be moved.
        """
        claim = Claim(job_id, owner, self.held_file(job_id, owner), state, arrived_us)
        try:
            moving.move_contended(self.file(state, job_id), claim.path)
        except OSError:
            raise
        except BaseException:  # from a signal handler, perhaps right after the rename
            self.let_go(claim)
            raise
        return claim

    def release(self, claim: Claim, state: str) -> None:
        """Do what `releasing` does, waiting for each step."""
        files.carry_out(self.releasing(claim, state))

    def let_go(self, claim: Claim) -> None:
        """Put a job where its body says, or back if it was only taken; wait for nothing.

        This is for an interrupt, which may come between a rename and the next line. So the body
        decides, as in recovery. A job that stays held all the same is left to recovery.
        """
        with contextlib.suppress(OSError, QueuectlError):
            moving.unlink_quietly(self._draft_file(claim.job_id, claim.owner))
            job = self.read_file(claim.path, claim.job_id)
            is_rewritten = job.record.get("worker") == claim.owner
            state = job.state if is_rewritten else claim.origin
            moving.move_new(claim.path, self.file(state, claim.job_id))

    def read_claim(self, claim: Claim) -> Job:
        """Return the job as it was taken.

        A body in pending/ that names another state was moved there by hand: its attempts start
        again.

        Raises:
            BadJobError: the job can never run.
            OSError: the file could not be read.
        """
        job = self.read_file(claim.path, claim.job_id, any_owner=self.config.shared)
        if job.state != claim.origin and claim.origin == "pending":
            return again(job)
        return job

    def counting(self, claim: Claim, job: Job) -> Steps[None]:
        """Put the body of a job that is about to run, its attempt counted, into its held file.

        After this the claim survives a power cut, and so does the count: in the held file or, if
        the power cut undoes the exchange of names, in the exchanged spare, where recovery looks for
        it (starts.py). So this waits for claim and body together. The exchange is waited for only
        with the outcome.

        Raises:
            ClaimLostError: the claim was taken away.
            OSError: the old body is still there, or a new one that might not survive a power cut.
        """
        try:
            yield from self.rewriting(claim, job, beside=(claim.origin, "processing", "tmp"))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            yield from self.rewriting(claim, job)  # waiting in two steps needs fewer descriptors
            yield from self.securing(claim)
        else:
            if claim.spare is None or not self.config.sync:
                yield from self.securing(claim)
            else:
                claim.first_spare, claim.spare = claim.spare, None

    def rewriting(self, claim: Claim, job: Job, beside: Sequence[str] = ()) -> Steps[None]:
        """Put a new body into a held file: its bytes are on disk then, its name after `securing`.

        If bodies are exchanged, the names in the directories `beside` are on disk before that.

        Raises:
            ClaimLostError: the claim was taken away.
            OSError: the old body is still there.
        """
        data = job.encode()
        if claim.spare is not None:  # left by an earlier try that was not secured
            moving.unlink_quietly(claim.spare)
            claim.spare = None
        if self._spares is not None:
            exchange = self._spares.exchanging(
                claim.path,
                data,
                sync=self.config.sync,
                mode=self.config.file_mode,
                beside=self._directories(beside),
            )
            try:
                claim.spare = yield from exchange
            except FileNotFoundError:  # perhaps a needed directory is gone instead
                if moving.is_gone(claim.path):
                    raise self._lost(claim) from None
                raise
        if claim.spare is None:
            yield from self._replacing(claim, data)
        claim.rewritten = True

    def _replacing(self, claim: Claim, data: bytes) -> Steps[None]:
        draft = self._draft_file(claim.job_id, claim.owner)

        def replace() -> None:
            # the rename would bring back a claim that was taken away
            if moving.is_gone(claim.path):
                raise self._lost(claim)
            moving.move(draft, claim.path)

        yield from self._placing(draft, data, replace)

    def _placing(self, draft: str, data: bytes, place: Callable[[], None]) -> Steps[None]:
        """Do what `files.placing` does, with the spool's settings."""
        config = self.config
        return files.placing(draft, data, place, sync=config.sync, mode=config.file_mode)

    def _lost(self, claim: Claim) -> ClaimLostError:
        """Delete the spares of a lost claim; return the error to raise."""
        for spare in claim.part_with_spares():
            moving.unlink_quietly(spare)
        return ClaimLostError(f'job "{claim.job_id}" was taken away from {claim.owner}')

    def securing(self, claim: Claim) -> Steps[None]:
        """Wait until the claim and its last body would survive a power cut; give its spares back.

        Raises:
            OSError: they might not survive.
        """
        yield from self._syncing(claim.origin, "processing")
        for spare in claim.part_with_spares():
            if self._spares is not None:
                self._spares.give_back(spare)

    def releasing(self, claim: Claim, state: str) -> Steps[None]:
        """Release a held job to `state`; the move would survive a power cut at the end.

        Raises:
            JobExistsError: that directory has another job of this id.
            ClaimLostError: the claim was taken away.
            OSError: the job is still held, or its move might not survive a power cut.
        """
        try:
            yield from self._parting(claim, self.file(state, claim.job_id), state)
        except FileExistsError:
            raise JobExistsError(claim.job_id, state) from None

    def _parting(self, claim: Claim, target: str, state: str) -> Steps[None]:
        """Move a held file to `target` and sync that; when called again after the move, only sync.

        Raises:
            FileExistsError: the name is taken, and the file is still held.
            ClaimLostError: the claim was taken away.
            OSError: the file is still held, or its move might not survive a power cut.
        """
        if claim.path != target:
            try:
                moving.move_new(claim.path, target)
            except FileNotFoundError:
                if moving.is_gone(claim.path):
                    raise self._lost(claim) from None
                raise
            claim.path, claim.origin = target, state
        yield from self.securing(claim)

    def settling(self, claim: Claim, job: Job) -> Steps[None]:
        """Rewrite and release a job: it goes where its new body says, see also `Claim.place`.

        Raises:
            ClaimLostError: the claim was taken away.
            OSError: the job is still held, with the old body or the new one, or its move might not
                survive a power cut.
        """
        if not claim.reason and job.state == "dead" and claim.origin != "dead":
            # the release to dead/ would not notice a job of this id that was dropped while it ran
            other = self.found_in(job.id, ("completed", "failed"))
            if other is not None:
                claim.reason = f"{job.error}; another job of this id is in {other}/"
        if not claim.reason:
            try:
                if claim.path != self.file(job.state, claim.job_id):
                    yield from self.rewriting(claim, job)
                yield from self.releasing(claim, job.state)
            except JobExistsError as error:
                claim.reason = str(error)
            else:
                return
        yield from self._to_dead(claim, partial(self._releasing_beside, claim, job))

    def settle(self, claim: Claim, job: Job) -> None:
        """Do what `settling` does, waiting for each step."""
        files.carry_out(self.settling(claim, job))

    def _to_dead(
        self,
        claim: Claim,
        parting: Callable[[str], Steps[None]],
        is_explained: Callable[[str], bool] = lambda _id: False,
    ) -> Steps[str]:
        """Move a held file to dead/ under the first free id; return that id.

        Args:
            claim: the claim on the file. It keeps the id for another try, should a step fail.
            parting: moves the file, given an id; raises FileExistsError if that is taken by now.
            is_explained: tells whether an id is taken in dead/ only by the reason for this file.
        """
        while True:
            claim.dead_id = claim.dead_id or self._free_name(claim, is_explained)
            try:
                yield from parting(claim.dead_id)
            except FileExistsError:
                claim.dead_id = None
            else:
                return claim.dead_id

    def _releasing_beside(self, claim: Claim, job: Job, free: str) -> Steps[None]:
        """Release a job to dead/ under a free id, since its own is taken; its body says why."""
        target = self.file("dead", free)
        if claim.path != target:
            beside = job.changed(id=free, state="dead", error_message=claim.reason)
            yield from self.rewriting(claim, beside)
        yield from self._parting(claim, target, "dead")

    def keep_spares(self, owner: str) -> None:
        """From now on, overwrite old bodies as spares of `owner` instead of deleting them."""
        self._spares = Spares(self.directory("tmp"), owner)

    def drop_spares(self) -> None:
        """Delete all spares and keep no more; no move may be under way."""
        if self._spares is not None:
            self._spares.clear()
            self._spares = None

    # --- names -------------------------------------------------------------------------------

    def _free_name(self, claim: Claim, is_explained: Callable[[str], bool]) -> str:
        """Return the first of ID, ID.2, ID.3 ... that is free in dead/ and is no other job's id."""
        for name in numbered(claim.job_id):
            if moving.is_there(self.rejected_file(name)):
                continue
            if self.found_in(name, (*WAITING, "completed")) is not None:
                continue
            if moving.is_there(self.file("dead", name)) and not is_explained(name):
                continue
            # last: a job may have been taken from any of those meanwhile
            if not self._is_held(name, but=claim.path):
                return name
        raise AssertionError

    def _is_held(self, job_id: str, but: str) -> bool:
        """Tell whether a job of this id is held, in another file than `but`."""
        return any(held.job_id == job_id and held.path != but for held in self._held_now())

    def _held_now(self) -> list[Held]:
        """Return every job file in processing/, for a step of a move.

        Raises:
            OSError: it cannot be read. This is no SpoolError, so that the step is tried again as
                any other.
        """
        try:
            return list(self.held())
        except SpoolError as error:
            code = error.errno or errno.EIO
            raise OSError(code, os.strerror(code), error.path) from error

    def _draft_file(self, job_id: str, owner: str) -> str:
        return draft_file(self.directory("tmp"), job_id, owner)

    def _syncing(self, *names: str) -> Steps[None]:
        if self.config.sync:
            yield files.Step(self._directories(names))

    def _directories(self, names: Iterable[str]) -> Sequence[str]:
        return list(map(self.directory, names))
