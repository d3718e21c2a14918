"""Deletes jobs that are over, with their output: never one that waits or runs.

A job is deleted where it is, in completed/ or dead/, by name: one that was given another life
meanwhile is not there any more, and is left alone. Its output goes first, so that a crash between
leaves a record whose deletion is tried again, and no output that nobody remembers.
spool-layout.md, section "Keeping house".
"""

from __future__ import annotations

import contextlib
import os
import stat
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from queuectl.errors import BadJobError, QueuectlError, SpoolError, WrongStateError
from queuectl.ids import is_id
from queuectl.spool import joblogs
from queuectl.states import FINISHED
from queuectl.system import files
from queuectl.system.moving import is_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from queuectl.spool.spool import Spool

_SYNCED_TOGETHER = 256  # jobs deleted


class Doomed(NamedTuple):
    """A job that is to be deleted, as it was when that was decided."""

    state: str
    job_id: str
    written_at: float  # of its file, in seconds since the epoch


def doomed(spool: Spool, state: str, job_ids: Iterable[str]) -> Iterator[Doomed]:
    """Yield those jobs of a state that are there."""
    for job_id in job_ids:
        with contextlib.suppress(FileNotFoundError):
            yield Doomed(state, job_id, os.lstat(spool.file(state, job_id)).st_mtime)


def delete(spool: Spool, job: Doomed) -> bool:
    """Delete a job, its output, and the bytes kept of one that was set aside.

    Returns whether it was there still, and had not been run again since that was decided.

    Raises:
        WrongStateError: it was changed or retried when its output was gone already; it is kept.
        SpoolError: the file system refused; the record is still there.
        ValueError: it is no job of completed/ or dead/.
    """
    if job.state not in FINISHED or not is_id(job.job_id):
        raise ValueError(f"{job.state}/{job.job_id} is not a job that has ended")
    path = spool.file(job.state, job.job_id)
    try:
        before = os.lstat(path)
        if before.st_mtime != job.written_at:
            return False
        had_run = _delete_what_goes_with(spool, job.state, job.job_id)
        # which takes its time with much output: it may have been run again since
        if not _is_still(path, before):
            if had_run and spool.is_anywhere(job.job_id):
                msg = f'job "{job.job_id}" was changed or retried while it was being deleted'
                raise WrongStateError(f"{msg}: it stays, and what it had printed is gone")
            return False
        # or the same bad file was dropped and set aside again: that is its reason now
        if job.state == "dead" and is_there(spool.rejected_file(job.job_id)):
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SpoolError("delete", error.filename or path, error) from error
    return True


def _is_still(path: str, before: os.stat_result) -> bool:
    """Tell whether a file is the one that it was, and has not been written to."""
    try:
        after = os.lstat(path)
    except FileNotFoundError:
        return False
    return (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def delete_each(
    spool: Spool, jobs: Iterable[Doomed], missed: Callable[[str, QueuectlError], None]
) -> Iterator[tuple[str, bool]]:
    """Delete jobs; yield the id of each that could be, and what `delete` returned.

    What cannot be deleted is told to `missed`. With `durability` full those that are yielded stay
    deleted.

    Raises:
        SpoolError: a directory could not be synced; what was deleted since the last id may return.
    """
    left = _delete_each(spool, jobs, missed)  # one by one: how long that takes, `jobs` looks at
    while group := list(islice(left, _SYNCED_TOGETHER)):
        if spool.config.sync:
            _sync(spool, {job.state for job, _ in group})
        yield from ((job.job_id, was_there) for job, was_there in group)


def _delete_each(
    spool: Spool, jobs: Iterable[Doomed], missed: Callable[[str, QueuectlError], None]
) -> Iterator[tuple[Doomed, bool]]:
    for job in jobs:
        try:
            was_there = delete(spool, job)
        except (WrongStateError, SpoolError) as error:  # noqa: PERF203 - the others are deleted
            missed(job.job_id, error)
        else:
            yield job, was_there


def _sync(spool: Spool, states: Iterable[str]) -> None:
    """Have no power cut bring back what was deleted: its id may have been given to another job."""
    try:
        files.Step([spool.directory(state) for state in states]).run()
    except OSError as error:
        raise SpoolError("sync", error.filename or spool.path, error) from error


def _delete_what_goes_with(spool: Spool, state: str, job_id: str) -> bool:
    """Delete the output of a job, or the bytes of a file set aside; tell whether it is a job."""
    try:
        joblogs.remove(spool, spool.read_file(spool.file(state, job_id), job_id))
    except BadJobError:
        # the reason for bytes that are no job: whatever is in logs/ is another's of that id
        if state == "dead":
            rejected = spool.rejected_file(job_id)
            with contextlib.suppress(FileNotFoundError):
                # a directory that somebody dropped goes if it is empty
                is_directory = stat.S_ISDIR(os.lstat(rejected).st_mode)
                (os.rmdir if is_directory else os.unlink)(rejected)
        return False
    return True
