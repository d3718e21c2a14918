"""The spool: five directories and the moves between them. Only this and moves.py move a job file.

    submit    tmp/ID@OWNER.json   --link-->    pending/ID.json
    take, rewrite, release                     see moves.py
    set aside processing/ID@OWNER.json  --rename-->  dead/ID.rejected, explained in dead/ID.json

spool-layout.md, section "The moves".
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from queuectl import files
from queuectl.errors import JobExistsError, SpoolError
from queuectl.ids import as_id
from queuectl.job import STATES, Job, draft
from queuectl.layout import DIRECTORIES, SUFFIX, Claim
from queuectl.moves import Moves
from queuectl.scratch import Scratch
from queuectl.units import utc_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from queuectl.files import Steps

_MANY = 16  # drafts: fewer are synced sooner than threads are started
_SYNCING = 16  # threads: more gave nothing on ext4; without fsyncs one does 17,500/s, two 14,000/s
_BATCH = 512  # jobs that share one fsync of the directory


class Spool(Moves):
    """A directory that is a queue.

    Args:
        path: the spool; it is made, mode 0700, by the first thing that writes to it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._rejects = 0

    def create(self) -> None:
        """Make what is missing of the spool.

        Raises:
            SpoolError: a directory could not be made.
        """
        if self.exists() and all(map(os.path.isdir, map(self.directory, DIRECTORIES))):
            return
        path = self.path
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            for path in map(self.directory, DIRECTORIES):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o700)
            if self.config.sync:
                files.Step((self.path, os.path.dirname(self.path))).run()
        except OSError as error:
            raise SpoolError("make", path, error) from error

    # --- submit -----------------------------------------------------------------------------

    def submit(self, command: str | Sequence[str], **fields: Any) -> Job:
        """Queue one job, for good when this returns; return it.

        Args:
            command: a string for the shell, or a list that is run without one.
            fields: any user's field of the record, such as id, priority, run_at, timeout.

        Raises:
            BadJobError: a field is wrong.
            JobExistsError: the id is taken.
            SpoolError: the file system refused; nothing was queued.
        """
        text = command if isinstance(command, str) else list(command)
        job = self.draft({"command": text, **fields})
        if "id" in fields:
            self.check_free([job.id])
        for _ in self.submit_all([job]):
            pass
        return job

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
        """
        held = {job_id for job_id, _ in self.held()}
        for job_id in job_ids:
            if job_id in held:
                raise JobExistsError(job_id, "processing")
            for state in STATES:
                if files.is_there(self.file(state, job_id)):
                    raise JobExistsError(job_id, state)

    def submit_all(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Queue jobs whose ids are free; yield them batch by batch once they are queued for good.

        Raises:
            JobExistsError: an id was taken meanwhile; the batches yielded are queued.
            SpoolError: the file system refused; the batches yielded are queued.
        """
        self.create()
        with Scratch(self.directory("tmp")) as scratch:
            for start in range(0, len(jobs), _BATCH):
                batch = jobs[start : start + _BATCH]
                self._submit_batch(batch, scratch.owner)
                yield list(batch)

    def _submit_batch(self, batch: Sequence[Job], owner: str) -> None:
        published: list[str] = []  # appended to by several threads, which a list bears

        def submit(jobs: Sequence[Job]) -> None:
            draft_file = self._draft_file(jobs[0].id, owner)  # one name for all: 3 us less a job
            for job in jobs:
                self._publish(job, draft_file)
                published.append(job.id)

        try:
            many = self.config.sync and len(batch) >= _MANY
            files.side_by_side(_SYNCING if many else 1, submit, batch)
            files.carry_out(self._syncing("pending"))
        except (OSError, JobExistsError) as error:
            self._withdraw(published)
            if isinstance(error, JobExistsError):
                raise
            raise SpoolError("queue a job in", self.directory("pending"), error) from error

    def _publish(self, job: Job, draft_file: str) -> None:
        files.write_new(draft_file, job.encode(), sync=self.config.sync, mode=self.config.file_mode)
        try:
            files.publish(draft_file, self.file("pending", job.id))
        except FileExistsError:
            raise JobExistsError(job.id, "pending") from None
        finally:
            with contextlib.suppress(OSError):  # pools clear tmp/
                os.unlink(draft_file)

    def _withdraw(self, published: Sequence[str]) -> None:
        """Take back what was not acknowledged: who is told that it failed will try again."""
        for job_id in published:
            with contextlib.suppress(OSError):  # taken by a worker already: it runs once too often
                os.unlink(self.file("pending", job_id))

    # --- set aside --------------------------------------------------------------------------

    def take_name(self, name: str, state: str, owner: str) -> Claim:
        """Take a file whose name may be no id; it is held under one that is.

        Raises:
            FileNotFoundError: it is gone.
            OSError: it could not be moved.
        """
        job_id = as_id(name.removesuffix(SUFFIX))
        # held under a name of its own: a turn of this owner may hold a job of the same id
        self._rejects += 1
        mark = f"~reject{self._rejects}"  # no id has a ~: recovery knows what it is
        held = self.held_file(as_id(job_id, room=len(mark)) + mark, owner)
        claim = Claim(job_id, owner, held, state)
        files.move_contended(f"{self.directory(state)}/{name}", claim.path)
        return claim

    def set_aside(self, claim: Claim, why: str, name: str | None = None) -> str:
        """Do what `setting_aside` does, waiting here."""
        return files.carry_out(self.setting_aside(claim, why, name))

    def setting_aside(self, claim: Claim, why: str, name: str | None = None) -> Steps[str]:
        """Keep a file that can never run: the bytes in dead/ID.rejected, why in dead/ID.json.

        Returns the id under which dead/ shows it. The reason is there before the bytes move, so a
        crash between leaves an orphan that is set aside again, not bytes without a reason.

        Raises:
            ClaimLostError: the claim was taken away.
            OSError: it is still held.
        """

        def moving(free: str) -> Steps[None]:
            target = self._rejected_file(free)
            if claim.path != target:
                yield from self._explaining(claim, free, why, name)
            yield from self._parting(claim, target, "dead")

        return (yield from self._to_dead(claim, moving, explained=True))

    def _explaining(self, claim: Claim, free: str, why: str, name: str | None) -> Steps[None]:
        at = utc_text(time.time())
        record = {
            "id": free,
            "command": "",
            "state": "dead",
            "created_at": at,
            "updated_at": at,
            "error_message": f"rejected: {why}",
            "rejected": name or f"{claim.job_id}{SUFFIX}",
        }
        draft_file = self._draft_file(free, claim.owner)
        files.unlink_quietly(draft_file)  # of an earlier try that failed
        data = Job(record).encode()
        yield from files.writing_new(
            draft_file, data, sync=self.config.sync, mode=self.config.file_mode
        )
        try:
            files.publish(draft_file, self.file("dead", free))
        except FileExistsError:
            if not self.explains(free):  # the same reason, before a crash
                raise
        finally:
            files.unlink_quietly(draft_file)
