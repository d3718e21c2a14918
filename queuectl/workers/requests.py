"""Requests to a pool, as files in workers/: to stop, or to cancel a job that it holds.

`WORKER.stop` is empty or says `now`; `WORKER.cancel.ID` says who asks. The name alone is the
request, so a file that cannot be read counts too.
spool-layout.md, sections "Stopping" and "Cancelling".
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from queuectl import kernel
from queuectl.errors import BadJobError, refused_to
from queuectl.record.reading import read_regular
from queuectl.system import files, moving
from queuectl.system.scratch import LOCK_SUFFIX, Scratch, draft_file, is_owner

if TYPE_CHECKING:
    from queuectl.spool.layout import Layout
    from queuectl.spool.spool import Spool

STOP_SUFFIX = ".stop"
_BY_CHARS = 500  # anybody may have written the text, and it becomes part of a record
CANCEL_MARK = ".cancel."  # between the worker's name and the job's


def ask_to_stop(spool: Spool, worker: str, *, now: bool) -> None:
    """Ask a pool to stop once its running jobs have ended, or `now`.

    A request of the first kind does not take back one of the second.

    Raises:
        SpoolError: the request could not be written.
    """
    path = _stop_file(spool, worker)
    with refused_to("write", path):
        if now:
            _write(spool, path, "now")
        else:
            _put_sign(spool, worker, path)


def ask_to_cancel(spool: Spool, worker: str, job_id: str, by: str) -> None:
    """Ask the pool that runs a job to end it; `by` is who asks, as the job's record will say.

    Raises:
        SpoolError: the request could not be written.
    """
    path = _cancel_file(spool, worker, job_id)
    with refused_to("write", path):
        try:
            _write(spool, path, by)
        except OSError as error:
            if error.errno not in kernel.NO_ROOM:
                raise
            _put_sign(spool, worker, path)  # perhaps this very job has filled the disk


def is_asked_to_stop(spool: Layout, worker: str) -> bool:
    """Tell whether a pool has been asked to stop, and so takes no more jobs."""
    return moving.is_there(_stop_file(spool, worker))


def is_asked_to_cancel(spool: Layout, worker: str, job_id: str) -> bool:
    """Tell whether a pool has been asked to cancel a job, and has not answered."""
    return moving.is_there(_cancel_file(spool, worker, job_id))


def withdraw_stop(spool: Spool, worker: str) -> None:
    """Remove a request to stop that nobody is left to read.

    Raises:
        OSError: the file system refused.
    """
    moving.unlink_quietly(_stop_file(spool, worker))


def withdraw_cancel(spool: Spool, worker: str, job_id: str) -> None:
    """Remove a request to cancel that has been dealt with, or is withdrawn.

    Raises:
        OSError: the file system refused.
    """
    moving.unlink_file(_cancel_file(spool, worker, job_id))


def read_stop(spool: Layout, worker: str) -> str | None:
    """Return the text of a request to stop, `now` or empty; None if there is no request.

    Raises:
        OSError: the file system refused to say whether there is one.
    """
    return _read(_stop_file(spool, worker))


def read_cancels(spool: Layout, worker: str) -> list[tuple[str, str]]:
    """Return the jobs that a pool is asked to cancel, each with a few words on who asks.

    Raises:
        OSError: workers/ cannot be read.
    """
    found = ((path, _read_listed(path)) for path in cancel_files(spool, worker))
    before = len(_cancel_file(spool, worker, ""))
    return [(path[before:], by[:_BY_CHARS]) for path, by in found if by is not None]


def cancel_files(spool: Layout, worker: str) -> list[str]:
    """Return the paths of the requests to cancel that a pool has not answered.

    Raises:
        OSError: workers/ cannot be read.
    """
    prefix = f"{worker}{CANCEL_MARK}"
    try:
        names = os.listdir(spool.directory("workers"))
    except FileNotFoundError:  # workers/ is gone, and the requests with it
        return []
    return [_path(spool, name) for name in names if name.startswith(prefix)]


def standing(spool: Layout) -> list[tuple[str, str]]:
    """Return the names of all requests in workers/, and whom each asks.

    Raises:
        OSError: workers/ cannot be read.
    """
    names = os.listdir(spool.directory("workers"))
    return [(name, owner) for name in names if (owner := _asked_of(name)) is not None]


def _asked_of(name: str) -> str | None:
    """Return the pool that a file in workers/ is a request to; None if it is not a request."""
    before, mark, _ = name.partition(CANCEL_MARK)
    owner = before if mark else name.removesuffix(STOP_SUFFIX)
    return owner if owner != name and is_owner(owner) else None


def _write(spool: Spool, path: str, text: str) -> None:
    data, mode = f"{text}\n".encode(), spool.config.file_mode
    with Scratch(spool.directory("tmp")) as me:
        draft = draft_file(spool.directory("tmp"), "~request", me.owner)
        files.replace(path, data, draft, sync=False, mode=mode)


def _put_sign(spool: Spool, worker: str, path: str) -> None:
    """Make a request that has only a name and no text, if it is not there already."""
    lock = _path(spool, f"{worker}{LOCK_SUFFIX}")
    with contextlib.suppress(FileExistsError):
        files.put_sign(path, lock, mode=spool.config.file_mode)


def _read_listed(path: str) -> str | None:
    try:
        return _read(path)
    except OSError:  # the name was there, and that counts
        return ""


def _read(path: str) -> str | None:
    try:
        return read_regular(path).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    except BadJobError:  # not a regular file, but the name counts
        return ""
    except PermissionError:  # the same for a file that we may not read
        os.lstat(path)  # raises if it is not known whether there is such a file
        return ""


def _stop_file(spool: Layout, worker: str) -> str:
    return _path(spool, f"{worker}{STOP_SUFFIX}")


def _cancel_file(spool: Layout, worker: str, job_id: str) -> str:
    return _path(spool, f"{worker}{CANCEL_MARK}{job_id}")


def _path(spool: Layout, name: str) -> str:
    return f"{spool.directory('workers')}/{name}"
