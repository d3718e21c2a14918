"""The spool: five directories and the moves between them; how a job gets into one.

    submit    tmp/ID@OWNER.json   --link-->    pending/ID.json
    take, rewrite, release                     see moves.py
    set aside                                  see asides.py
    correct   tmp/ID@OWNER.json   <-exchange-> dead/ID.json

Only these three modules move a job file. spool-layout.md, sections "The moves" and "Edit".
"""

from __future__ import annotations

import contextlib
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
)
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

_BATCH = 512  # jobs that share one fsync of the directory


class Spool(Asides):
    """A spool, and the steps by which pools and commands change it; `library` adds a program's."""

    # is told what is waited for, of which there may be no end
    tell_of_wait: Callable[[str], object] = staticmethod(lambda _text: None)

    def create(self) -> None:
        """Make what is missing of the spool.

        Raises:
            UnsafeSpoolError, WrongUserError: as `check_trusted` does.
            SpoolError: a directory could not be made.
        """
        self.check_trusted()
        if all(map(os.path.isdir, map(self.directory, DIRECTORIES))):
            return
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

    def check_trusted(self) -> None:
        """Check that nobody can lead astray who writes and deletes here.

        Raises:
            WrongUserError: we are root, and it is somebody else's.
            UnsafeSpoolError: a directory of it is a link that somebody else has made.
            SpoolError: a directory cannot be looked at.
        """
        owner = self.left_to()
        if owner is not None:
            raise WrongUserError(self.path, owner)
        check_links(self)

    def correct(self, state: str, job_id: str, new_body: Callable[[Job], Job]) -> None:
        """Rewrite the body of a job that has ended, which stays where it is at every instant.

        Taken and then left by a crash, it would be queued.

        Raises:
            BadJobError: it is no job.
            MovedOnError: it is gone, or was replaced meanwhile; it was left alone.
            SpoolError: the file system refused.
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
            if self.config.sync:
                files.sync_directory(self.directory(state))
        except FileNotFoundError:
            raise MovedOnError(f'job "{job_id}" is not in {state}/ any more') from None
        except OSError as error:
            raise SpoolError("write", path, error) from error

    def _swap(self, draft_file: str, path: str, was: bytes) -> None:
        """Give a file a new body, if it has the one that it had."""
        if not kernel.exchange(draft_file, path):
            _check_unchanged(path, was)  # who takes the job after this does not take the new body
            moving.move(draft_file, path)
            return
        try:
            _check_unchanged(draft_file, was)
        except BaseException:
            try:
                kernel.exchange(draft_file, path)  # back: it is whose it is
            except FileNotFoundError:  # and our body was taken away
                moving.move_new(draft_file, path)
            raise

    # --- submit -----------------------------------------------------------------------------

    def draft(self, fields: dict[str, Any]) -> Job:
        """Return a new job of these fields, checked but not queued.

        Raises:
            BadJobError: a field is wrong.
        """
        return draft(fields, max_retries=self.config.max_retries, now=time.time())

    def check_free(self, job_ids: Iterable[str]) -> None:
        """Check that no state holds any of these ids.

        Raises:
            JobExistsError: one does.
            SpoolError: it cannot be told.
        """
        for job_id, state in self.taken(job_ids):
            raise JobExistsError(job_id, state)

    def taken(self, job_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield those of these ids that a state holds, each with that state.

        Raises:
            SpoolError: it cannot be told.
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
        """Queue jobs whose ids are free; yield them batch by batch once they are queued for good.

        Args:
            jobs: which.
            given: the ids that are not made by us, and may be another job's by now.
            left_out: a job whose id is taken is not queued, and its id put there; None: refused.

        Raises:
            JobExistsError: an id was taken meanwhile; the batches yielded are queued.
            SpoolError: the file system refused; the batches yielded are queued.
        """
        self.create()
        tmp = self.directory("tmp")
        with contextlib.ExitStack() as stack:
            try:  # apart: an error of what is done within is another
                scratch = stack.enter_context(Scratch(tmp))
            except OSError as error:
                raise SpoolError("write to", tmp, error) from error
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
        """Submit jobs while nobody else does who gives ids too; return those that were free.

        Else two could be queued under one id, each while a pool has just taken the other; and what
        is found might be taken back.
        """
        free = list(batch)

        def submit() -> None:
            taken: dict[str, str] = {}
            for _ in range(2):  # a job on its way can slip from a place not looked at yet
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
        waits = partial(self.tell_of_wait, what)
        try:
            files.while_locked(pending, submit, waits)
        except OSError as error:
            raise SpoolError("lock", pending, error) from error
        return free

    def _submit_batch(self, batch: Sequence[Job], given: Collection[str], owner: str) -> None:
        published: list[Job] = []
        many = self.config.sync and len(batch) >= files.MANY
        publish_all = self._publish_side_by_side if many else self._publish_each
        pending = self.directory("pending")
        try:
            # opened first: once jobs are there, no other thread may have left us a descriptor
            with self._to_be_synced(pending) as sync:
                publish_all(batch, owner, published)
                self._check_alone([job for job in batch if job.id in given])
                sync()
        except BaseException as error:  # an interrupt too: none of these ids has been told
            self._withdraw(published, given)
            if isinstance(error, OSError):
                raise SpoolError("queue a job in", pending, error) from error
            raise

    def _to_be_synced(self, directory: str) -> AbstractContextManager[Callable[[], None]]:
        if self.config.sync:
            return files.to_be_synced(directory)
        return contextlib.nullcontext(lambda: None)

    def _check_alone(self, jobs: Sequence[Job]) -> None:
        """Check that no job that left pending/ a moment ago has an id that we have put there.

        Raises:
            JobExistsError: one has.
        """
        held = self._held_keys() if jobs else set()
        for job in jobs:
            state = self._found_elsewhere(job.id, held)
            # in this order: if it is not in pending/ any more, it is ours that was found
            while state is not None and self._is_pending(job):
                before, state = state, self._found_elsewhere(job.id, self._held_keys())
                if state == before:  # else it was ours, given back since, or another that moves
                    raise JobExistsError(job.id, state)

    def _held_keys(self) -> set[str]:
        return {self.key(held.job_id) for held in self.held()}

    def _found_elsewhere(self, job_id: str, held: Collection[str]) -> str | None:
        """Return the state other than pending that has a file of this id, if one has."""
        return "processing" if self.key(job_id) in held else self.found_in(job_id, OUTCOMES)

    def _is_pending(self, job: Job) -> bool:
        """Tell whether a job is as we have put it into pending/, and nobody else's of its id."""
        try:
            return read_regular(self.file("pending", job.id)) == job.encode()
        except (FileNotFoundError, BadJobError):
            return False

    def _publish_each(self, batch: Sequence[Job], owner: str, published: list[Job]) -> None:
        """Put jobs into pending/, one after the other: their order is that of their arrival."""
        draft_file = self._draft_file(batch[0].id, owner)  # one name for all: 3 us less a job
        for job in batch:
            self._write_draft(job, draft_file)
            published.append(job)  # before: an interrupt may come between the two
            try:
                self._publish(job, draft_file)
            except JobExistsError:
                published.pop()
                raise

    def _publish_side_by_side(self, batch: Sequence[Job], owner: str, published: list[Job]) -> None:
        """Do the same with fsyncs side by side: each goes in once all before it are there."""
        from threading import Lock

        drafts = [self._draft_file(f"{number}", owner) for number in range(len(batch))]
        drafted: set[int] = set()
        turn = Lock()

        def submit(numbers: Sequence[int]) -> None:
            for number in numbers:
                self._write_draft(batch[number], drafts[number])
                with turn:
                    drafted.add(number)
                    while (first := len(published)) in drafted:
                        drafted.remove(first)  # if it fails, it and what follows stays out
                        self._publish(batch[first], drafts[first])
                        published.append(batch[first])

        try:
            files.side_by_side(submit, range(len(batch)))
        except BaseException:
            for draft_file in drafts:
                moving.unlink_quietly(draft_file)
            raise

    def _write_draft(self, job: Job, draft_file: str) -> None:
        files.write_new(draft_file, job.encode(), sync=self.config.sync, mode=self.config.file_mode)

    def _publish(self, job: Job, draft_file: str) -> None:
        try:
            moving.publish(draft_file, self.file("pending", job.id))
        except FileExistsError:
            raise JobExistsError(job.id, "pending") from None
        finally:
            with contextlib.suppress(OSError):  # pools clear tmp/
                os.unlink(draft_file)

    def _withdraw(self, published: Sequence[Job], given: Collection[str]) -> None:
        """Take back what was not acknowledged: whoever is told that it failed will try again."""
        for job in published:
            # taken by a worker already: it runs once too often, and a name may be another's that
            # we have not made
            with contextlib.suppress(OSError):
                if job.id not in given or self._is_pending(job):
                    os.unlink(self.file("pending", job.id))


def _make_directory(path: str, like: str | None) -> None:
    """Make a directory for us alone, or for those for whom another one is."""
    try:
        os.mkdir(path, 0o700)
        if like is not None:
            os.chmod(path, stat.S_IMODE(os.stat(like).st_mode))
    except FileExistsError:
        # else somebody was first; without a place for output jobs run all the same
        if os.path.basename(path) != "logs" and not stat.S_ISDIR(os.stat(path).st_mode):
            raise


def _check_unchanged(path: str, was: bytes) -> None:
    if read_regular(path) != was:
        raise MovedOnError(f"{path} was changed meanwhile")
