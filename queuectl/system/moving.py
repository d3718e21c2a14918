"""Rename, link and remove files so that none is lost, even where NFS loses an answer.

spool-layout.md, section "Assumptions".
"""

from __future__ import annotations

import contextlib
import errno
import os

from queuectl import kernel


def move(source: str, target: str) -> None:
    """Rename a file that nobody else uses.

    Raises:
        OSError: it was not moved.
    """
    try:
        os.rename(source, target)
    except OSError:
        # NFS: a rename whose answer was lost is sent again, and fails since it was done already
        if is_there(source) or not is_there(target):
            raise


def move_new(source: str, target: str) -> None:
    """Rename a file that nobody else uses, unless the new name is taken, perhaps by a job.

    Raises:
        FileExistsError: the new name is taken.
        OSError: the file was not moved.
    """
    try:
        if kernel.move_new(source, target):
            return
    except PermissionError:  # this file, or this sandbox, forbids that call
        pass
    if is_there(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    move(source, target)


def move_contended(source: str, target: str) -> None:
    """Rename a file that others may rename too, to a name that nobody else uses.

    Raises:
        FileNotFoundError: somebody else was first.
        OSError: it was not moved.
    """
    try:
        os.rename(source, target)
    except OSError:
        if not is_there(target):
            raise


def publish(source: str, target: str) -> None:
    """Link a file to a second name unless that is taken: a rename would replace it silently.

    Raises:
        FileExistsError: the name is taken.
        OSError: it was not published.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        if not _is_link_of(source, target):  # NFS again: our own first try may have made it
            raise


def _is_link_of(source: str, target: str) -> bool:
    ours = os.lstat(source)
    try:
        return ours.st_nlink > 1 and os.path.samestat(ours, os.lstat(target))
    except FileNotFoundError:  # a worker has taken the new file already
        return ours.st_nlink > 1


def unlink_quietly(path: str) -> None:
    """Remove a file if it exists.

    Raises:
        OSError: it is still there.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def unlink_file(path: str) -> None:
    """Remove a file if it exists, but not a directory that somebody made in its place.

    Raises:
        OSError: it is still there, and is not a directory.
    """
    try:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(path)
    except PermissionError:  # the error for a directory in POSIX, and on macOS
        if not os.path.isdir(path):
            raise


def is_there(path: str) -> bool:
    """Tell whether something has this name, even a dangling link."""
    if _FOLLOWS_NO_LINK:  # os.path.lexists raises and catches an error: 3 us instead of 1
        return os.access(path, os.F_OK, follow_symlinks=False)
    return os.path.lexists(path)


# Tried, not only looked up: where a kernel (macOS before 10.15, FreeBSD), a C library (musl on
# Linux before 5.8) or a sandbox (old container runtimes) refuses the flag of faccessat, os.access
# returns False for every file.
_FOLLOWS_NO_LINK = os.access in os.supports_follow_symlinks and os.access(
    "/", os.F_OK, follow_symlinks=False
)


def status_of(path: str) -> os.stat_result | None:
    """Return the status of a file, of a link as such; None if there is none.

    Raises:
        OSError: that cannot be found out.
    """
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def may_be_there(path: str) -> bool:
    """Tell whether something has this name, or that cannot be found out."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def is_gone(path: str) -> bool:
    """Tell whether a file is certainly missing from its directory.

    False while the directory itself is missing, or if the file system gives no answer.
    """
    directory = os.path.dirname(path)
    try:
        before = os.stat(directory)
        return not is_there(path) and os.path.samestat(before, os.stat(directory))
    except OSError:
        return False
