"""Reading files that anybody may have put there: no links, no waiting, and a limit on the size.

spool-layout.md, section "What a dropped file may look like".
"""

from __future__ import annotations

import errno
import os
import stat

from queuectl import kernel
from queuectl.errors import BadJobError, IncompleteJobError
from queuectl.record.job import MAX_GROWN_BYTES, MAX_RECORD_BYTES
from queuectl.system.users import user_name

READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_regular(path: str, *, any_owner: bool = True) -> bytes:
    """Return the bytes of a regular file, without following a link or waiting for a writer.

    Raises:
        BadJobError: it is not a regular file, or is too large (IncompleteJobError), or `any_owner`
            is false and it belongs to neither us nor root.
        OSError: it could not be read.
    """
    return read_with_status(path, any_owner=any_owner)[0]


def read_with_status(path: str, *, any_owner: bool) -> tuple[bytes, os.stat_result]:
    """Return the bytes and the status of a file, read as `read_regular` does.

    Raises:
        BadJobError, OSError: as `read_regular` does.
    """
    descriptor = _open_to_read(path)
    try:
        status = os.fstat(descriptor)
        _refuse_special(status)
        if not any_owner and status.st_uid not in (os.geteuid(), 0):
            theirs, ours = user_name(status.st_uid), user_name(os.geteuid())
            raise BadJobError(f"owned by user {theirs}, not by the worker's user {ours}")
        if status.st_size > MAX_GROWN_BYTES:
            msg = f"{status.st_size} bytes is larger than {MAX_RECORD_BYTES}"
            raise IncompleteJobError(msg)  # perhaps preallocated, and to be truncated
        return os.read(descriptor, status.st_size + 1), status
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def whose(path: str) -> str:
    """Return a file's user and mode, in parentheses to follow the reason why it cannot be read."""
    try:
        status = os.lstat(path)
    except OSError:
        return ""
    return f" (of user {user_name(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):o})"


def _open_to_read(path: str) -> int:
    try:
        return os.open(path, READ_FLAGS | kernel.O_NOATIME)
    except FileNotFoundError:
        raise
    except OSError as error:
        _refuse_special(os.lstat(path))
        if error.errno == errno.EPERM:  # O_NOATIME is refused for others' files
            return os.open(path, READ_FLAGS)
        raise


def _refuse_special(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadJobError(special_text(status))


def special_text(status: os.stat_result) -> str:
    """Return what a file is that is not a regular one: `a FIFO, not a regular file`."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    return f"{kind}, not a regular file"
