"""Deleting jobs that have ended, with their output: never one that waits or runs.

A job is deleted by its name in completed/ or dead/. One that was retried meanwhile is not there any
more, and is left alone. Its output goes first. So a crash in between leaves a record, whose
deletion is tried again, and never output without a record.
spool-layout.md, section "Keeping house".
"""

from __future__ import annotations

import contextlib
import os
import stat
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from queuectl.errors import BadJobError, QueuectlError, SpoolError, WrongStateError
from queuectl.ids import are, is_id
from queuectl.spool import joblogs
from queuectl.states import FINISHED
from queuectl.system import files
from queuectl.system.moving import is_there, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from queuectl.spool.spool import Spool

_SYNCED_TOGETHER = 256  # deleted jobs that share one fsync of a directory


class Doomed(NamedTuple):
    """A job that is to be deleted, as it was when that was decided."""

    state: str
    job_id: str
    written_at: float  # when its file was last written, in seconds since the epoch


def doomed(spool: Spool, state: str, job_ids: Iterable[str]) -> Iterator[Doomed]:
    """Yield each of these jobs that is in `state` now."""
    for job_id in job_ids:
        with contextlib.suppress(FileNotFoundError):
            yield Doomed(state, job_id, os.lstat(spool.file(state, job_id)).st_mtime)


def delete(spool: Spool, job: Doomed) -> bool:
    """Delete a job with its output, or the record and the bytes of a file that was set aside.

    Returns whether it was still there, and had not been run again since the deletion was decided.

    Raises:
        WrongStateError: it was changed or retried after its output had been deleted; it is kept.
        SpoolError: the file system refused; the record is still there.
        ValueError: it is not a job in completed/ or dead/.
    """
    if job.state not in FINISHED or not is_id(job.job_id):
        raise ValueError(f"{job.state}/{job.job_id} is not a job that has ended")
    path = spool.file(job.state, job.job_id)
    try:
        before = os.lstat(path)
        if before.st_mtime != job.written_at:
            return False
        had_run = _delete_what_goes_with(spool, job.state, job.job_id)
        # deleting much output takes time: the job may have been run again since
        if not _is_still(path, before):
            if had_run and spool.is_anywhere(job.job_id):
                msg = f'job "{job.job_id}" was changed or retried while it was being deleted'
                raise WrongStateError(f"{msg}: it stays, and what it had printed is gone")
            return False
        # the same bad file may have been dropped and set aside again: the record is for that one
        if job.state == "dead" and is_there(spool.rejected_file(job.job_id)):
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SpoolError("delete", error.filename or path, error) from error
    return True


def _is_still(path: str, before: os.stat_result) -> bool:
    """Tell whether a file is still the same, and has not been written to."""
    now = status_of(path)
    return now is not None and (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def delete_each(
    spool: Spool, jobs: Iterable[Doomed], missed: Callable[[str, QueuectlError], None]
) -> Iterator[tuple[str, bool]]:
    """Delete jobs; yield the id of each and what `delete` returned, if it raised no error.

    The others are passed to `missed`. With `durability` full, a power cut brings back none of the
    jobs that were yielded.

    Raises:
        NotSyncedError: what was deleted since the last id may return.
    """
    left = _delete_each(spool, jobs, missed)  # one by one, since `jobs` may end after some time
    while group := list(islice(left, _SYNCED_TOGETHER)):
        if spool.config.sync:
            _sync(spool, [job for job, _ in group])
        yield from ((job.job_id, was_there) for job, was_there in group)


def _delete_each(
    spool: Spool, jobs: Iterable[Doomed], missed: Callable[[str, QueuectlError], None]
) -> Iterator[tuple[Doomed, bool]]:
    for job in jobs:
        try:
            was_there = delete(spool, job)
        except (WrongStateError, SpoolError) as error:  # noqa: PERF203 - the rest is deleted
            missed(job.job_id, error)
        else:
            yield job, was_there


def _sync(spool: Spool, deleted: Sequence[Doomed]) -> None:
    """Put deletions on disk: the id of a job that came back might be another job's by then."""
    for state in {job.state for job in deleted}:
        gone = [job.job_id for job in deleted if job.state == state]
        files.keep(spool.directory(state), are(gone, "deleted"))


def _delete_what_goes_with(spool: Spool, state: str, job_id: str) -> bool:
    """Delete the output of a job, or the bytes of a file set aside; tell whether it is a job."""
    try:
        joblogs.remove(spool, spool.read_file(spool.file(state, job_id), job_id))
    except BadJobError:
        # it says why a file was set aside: output in logs/ is that of another job with the id
        if state == "dead":
            rejected = spool.rejected_file(job_id)
            with contextlib.suppress(FileNotFoundError):
                # a directory that somebody dropped is removed only if it is empty
                is_directory = stat.S_ISDIR(os.lstat(rejected).st_mode)
                (os.rmdir if is_directory else os.unlink)(rejected)
        return False
    return True
