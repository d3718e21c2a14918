"""The spool: five directories, the moves between them, and how a job gets in.

    submit    tmp/ID@OWNER.json   --link-->    pending/ID.json
    take, rewrite, release                     see moves.py
    set aside                                  see asides.py
    correct   tmp/ID@OWNER.json   <-exchange-> dead/ID.json

Only these three modules move job files. spool-layout.md, sections "The moves" and "Edit".
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from queuectl import kernel
from queuectl.errors import (
    BadJobError,
    JobExistsError,
    MovedOnError,
    SpoolError,
    WrongUserError,
    refused_to,
)
from queuectl.ids import first_of
from queuectl.record.job import Job, draft, parse
from queuectl.record.reading import read_regular
from queuectl.spool.asides import Asides
from queuectl.spool.filenames import DIRECTORIES
from queuectl.spool.safety import check_links
from queuectl.states import AT_REST, OUTCOMES
from queuectl.system import files, moving
from queuectl.system.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from queuectl.system.files import Steps

_BATCH = 512  # jobs that share one fsync of the directory
_TOGETHER = 128  # drafts that are synced side by side, each with a descriptor


class Spool(Asides):
    """A spool and the steps by which pools and commands change it; `library` is for programs."""

    # called with what a person should know: that a wait may never end, or what an interrupt left
    note: Callable[[str], object] = staticmethod(lambda _text: None)

    def create(self) -> None:
        """Make the directories of the spool that are missing.

        Raises:
            UnsafeSpoolError, WrongUserError: as `check_trusted` does.
            SpoolError: a directory could not be made, or this is a directory of another spool.
        """
        self.check_trusted()
        if all(map(os.path.isdir, map(self.directory, DIRECTORIES))):
            return
        self._check_not_within()
        path = self.path
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            for path in map(self.directory, DIRECTORIES):
                if not os.path.isdir(path):
                    _make_directory(path, self.path if self.config.shared else None)
            if self.config.sync:
                files.Step((self.path, os.path.dirname(self.path))).run()
        except OSError as error:
            raise SpoolError("make", path, error) from error

    def _check_not_within(self) -> None:
        """Check that this is no directory of another spool, which has all the others, too.

        Raises:
            SpoolError: it is.
        """
        spool, name = os.path.split(self.path)
        others = (f"{spool}/{other}" for other in DIRECTORIES if other != name)
        if name in DIRECTORIES and all(map(os.path.isdir, others)):
            why = OSError(errno.EEXIST, f"it is a directory of the spool {spool}; name that one")
            raise SpoolError("make a spool at", self.path, why)

    def check_trusted(self) -> None:
        """Check that no other user can misdirect what we write and delete here.

        Raises:
            WrongUserError: we are root, and the spool belongs to a user who has not shared it.
            UnsafeSpoolError: one of its directories is a link made by somebody we do not trust.
            SpoolError: a directory cannot be looked at.
        """
        owner = self.left_to()
        if owner is not None:
            raise WrongUserError(self.path, owner)
        check_links(self)

    def correct(self, state: str, job_id: str, new_body: Callable[[Job], Job]) -> None:
        """Rewrite the body of a job that has ended; the job stays where it is at every instant.

        It is not taken, since a crash that left it taken would have it queued.

        Raises:
            BadJobError: its file is not a job's.
            MovedOnError: it is gone or was changed meanwhile, and was left alone.
            SpoolError: the file system refused; NotSyncedError: it is done, but may be undone.
            UnsafeSpoolError, WrongUserError: as `check_trusted` does.
        """
        self.create()
        path = self.file(state, job_id)
        try:
            with Scratch(self.directory("tmp")) as me:
                was = read_regular(path)
                draft_file = self._draft_file(job_id, me.owner)
                self._write_draft(new_body(parse(was, job_id)), draft_file)
                try:
                    self._swap(draft_file, path, was)
                finally:
                    moving.unlink_quietly(draft_file)
        except FileNotFoundError:
            raise MovedOnError(f'job "{job_id}" is not in {state}/ any more') from None
        except OSError as error:
            raise SpoolError("write", path, error) from error
        if self.config.sync:
            files.keep(self.directory(state), f"{job_id} is changed")

    def _swap(self, draft_file: str, path: str, was: bytes) -> None:
        """Put a draft in the place of a file, if the file still holds `was`."""
        if not kernel.exchange(draft_file, path):
            _check_unchanged(path, was)  # whoever takes the job after this gets the old body
            moving.move(draft_file, path)
            return
        try:
            _check_unchanged(draft_file, was)
        except BaseException:
            try:
                kernel.exchange(draft_file, path)  # swap back: that body is not ours to replace
            except FileNotFoundError:  # our body was taken away from there
                moving.move_new(draft_file, path)
            raise

    # --- submit -----------------------------------------------------------------------------

    def draft(self, fields: dict[str, Any]) -> Job:
        """Return a new job with these fields, checked but not queued.

        Raises:
            BadJobError: a field is wrong.
        """
        return draft(fields, max_retries=self.config.max_retries, now=time.time())

    def check_free(self, job_ids: Iterable[str]) -> None:
        """Check that no state has a job of any of these ids.

        Raises:
            JobExistsError: an id is taken.
            SpoolError: a state cannot be looked at.
        """
        for job_id, state in self.taken(job_ids):
            raise JobExistsError(job_id, state)

    def taken(self, job_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield each of these ids that is taken, with the state that has it.

        Raises:
            SpoolError: a state cannot be looked at.
        """
        held = self._held_keys()
        for job_id in job_ids:
            state = "processing" if self.key(job_id) in held else self.found_in(job_id, AT_REST)
            if state is not None:
                yield job_id, state
            else:
                self.check_readable(job_id)

    def submit_all(
        self,
        jobs: Sequence[Job],
        given: Collection[str] = (),
        left_out: list[str] | None = None,
    ) -> Iterator[list[Job]]:
        """Queue jobs; yield them batch by batch, each batch once it is queued durably.

        Args:
            jobs: the jobs to queue.
            given: the ids that were not made by us, so that another job may have them by now.
            left_out: receives the ids that are taken, and their jobs are not queued. None: such an
                id is an error.

        Raises:
            JobExistsError: an id is taken; the batches already yielded are queued.
            SpoolError: the file system refused; the batches already yielded are queued.
            UnsafeSpoolError, WrongUserError: as `check_trusted` does.
        """
        self.create()
        tmp = self.directory("tmp")
        with contextlib.ExitStack() as stack:
            with refused_to("write to", tmp):
                scratch = stack.enter_context(Scratch(tmp))
            for start in range(0, len(jobs), _BATCH):
                batch = jobs[start : start + _BATCH]
                ours = [job.id for job in batch if job.id in given]
                if ours:
                    yield self._submit_alone(batch, ours, scratch.owner, left_out)
                else:
                    self._submit_batch(batch, (), scratch.owner)
                    yield list(batch)

    def _submit_alone(
        self, batch: Sequence[Job], given: Collection[str], owner: str, left_out: list[str] | None
    ) -> list[Job]:
        """Submit jobs while nobody else submits given ids; return the jobs whose ids were free.

        Otherwise two jobs could be queued under one id, each while a pool has just taken the other.
        And the job that is found to have an id might be withdrawn again.
        """
        free = list(batch)

        def submit() -> None:
            taken: dict[str, str] = {}
            for _ in range(2):  # as in `locate`: one look can miss a moving job
                if left_out is None:
                    self.check_free(given)
                else:
                    taken.update(self.taken(given))
            free[:] = [job for job in batch if job.id not in taken]
            if free:
                self._submit_batch(free, given, owner)
            if left_out is not None:
                left_out.extend(taken)

        pending = self.directory("pending")
        what = f"waiting for {pending}, which somebody has locked to queue jobs under given ids"
        waits = partial(self.note, what)
        with refused_to("lock", pending):
            files.while_locked(pending, submit, waits)
        return free

    def _submit_batch(self, batch: Sequence[Job], given: Collection[str], owner: str) -> None:
        published: list[Job] = []
        together = self.config.sync and len(batch) > 1
        publish_all = self._publish_together if together else self._publish_each
        pending = self.directory("pending")
        try:
            # opened first: once jobs are there, other threads may have used up all descriptors
            with self._to_be_synced(pending) as sync:
                publish_all(batch, owner, published)
                self._check_alone([job for job in batch if job.id in given])
                sync()
        except BaseException as error:  # an interrupt too: none of these ids is reported yet
            gone = self._withdraw(published, given)
            left = f"{len(gone)} of these jobs may run all the same: {first_of(gone)}"
            if isinstance(error, OSError):
                also = f"; {left}" if gone else ""
                raise SpoolError("queue a job in", pending, error, also) from error
            if gone:
                self.note(left)
            raise

    def _to_be_synced(self, directory: str) -> AbstractContextManager[Callable[[], None]]:
        if self.config.sync:
            return files.to_be_synced(directory)
        return contextlib.nullcontext(lambda: None)

    def _check_alone(self, jobs: Sequence[Job]) -> None:
        """Check that no job that has just left pending/ has the id of one that we put there.

        Raises:
            JobExistsError: one has.
        """
        held = self._held_keys() if jobs else set()
        for job in jobs:
            state = self._found_elsewhere(job.id, held)
            # in this order: if ours is no longer in pending/, what was found is ours
            while state is not None and self._is_pending(job):
                before, state = state, self._found_elsewhere(job.id, self._held_keys())
                if state == before:  # else it was ours, given back since, or another on its way
                    raise JobExistsError(job.id, state)

    def _held_keys(self) -> set[str]:
        return {self.key(held.job_id) for held in self.held()}

    def _found_elsewhere(self, job_id: str, held: Collection[str]) -> str | None:
        """Return the state other than pending that has a file of this id; None if none has."""
        return "processing" if self.key(job_id) in held else self.found_in(job_id, OUTCOMES)

    def _is_pending(self, job: Job) -> bool:
        """Tell whether pending/ still has the very job that we put there, not another of its id."""
        try:
            return read_regular(self.file("pending", job.id)) == job.encode()
        except (FileNotFoundError, BadJobError):
            return False

    def _publish_each(self, batch: Sequence[Job], owner: str, published: list[Job]) -> None:
        """Put jobs into pending/ one after the other, so that they arrive in order."""
        draft_file = self._draft_file(batch[0].id, owner)  # one name for all saves 3 us a job
        for job in batch:
            self._write_draft(job, draft_file)
            self._publish(job, draft_file, published)

    def _publish_together(self, batch: Sequence[Job], owner: str, published: list[Job]) -> None:
        """Do the same with fsyncs side by side; each job is published after all before it."""
        from queuectl.system.together import carry_out_all  # one job needs none of it

        works = [self._publishing(n, job, owner, published) for n, job in enumerate(batch)]
        for start in range(0, len(works), _TOGETHER):
            why = next(filter(None, carry_out_all(works[start : start + _TOGETHER])), None)
            if isinstance(why, OSError) and why.errno in (errno.EMFILE, errno.ENFILE):
                self._publish_each(batch[len(published) :], owner, published)
                return
            if why is not None:
                raise why

    def _publishing(self, number: int, job: Job, owner: str, published: list[Job]) -> Steps[None]:
        draft_file = self._draft_file(f"{number}", owner)
        mode = self.config.file_mode
        yield from files.writing_new(draft_file, job.encode(), sync=True, mode=mode)
        if number == len(published):
            self._publish(job, draft_file, published)
        else:  # one has failed: all after it stay out
            moving.unlink_quietly(draft_file)

    def _write_draft(self, job: Job, draft_file: str) -> None:
        files.write_new(draft_file, job.encode(), sync=self.config.sync, mode=self.config.file_mode)

    def _publish(self, job: Job, draft_file: str, published: list[Job]) -> None:
        published.append(job)  # first: an interrupt may come between the two
        try:
            moving.publish(draft_file, self.file("pending", job.id))
        except OSError as error:
            published.pop()
            if isinstance(error, FileExistsError):
                raise JobExistsError(job.id, "pending") from None
            raise
        finally:
            with contextlib.suppress(OSError):  # pools clear tmp/
                os.unlink(draft_file)

    def _withdraw(self, published: Sequence[Job], given: Collection[str]) -> list[str]:
        """Take back jobs that were not acknowledged: whoever sees the error will try again.

        Return the ids of those that could not be, mostly since a worker has taken them.
        """
        gone: list[str] = []
        for job in published:
            try:
                # under a given id there may be somebody else's job by now
                if job.id not in given or self._is_pending(job):
                    os.unlink(self.file("pending", job.id))
                else:
                    gone.append(job.id)
            except OSError:  # noqa: PERF203 - mostly that a worker has taken it
                gone.append(job.id)
        return gone


def _make_directory(path: str, like: str | None) -> None:
    """Make a directory with the mode of the directory `like`, or for us alone if that is None."""
    try:
        os.mkdir(path, 0o700)
        if like is not None:
            os.chmod(path, stat.S_IMODE(os.stat(like).st_mode))
    except FileExistsError:
        # If it is a directory, somebody else was first. For logs/ anything will do, since jobs also
        # run without a place for their output.
        if os.path.basename(path) != "logs" and not stat.S_ISDIR(os.stat(path).st_mode):
            raise


def _check_unchanged(path: str, was: bytes) -> None:
    if read_regular(path) != was:
        raise MovedOnError(f"{path} was changed meanwhile")
