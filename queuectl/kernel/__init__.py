"""Use what only some kernels offer, and the POSIX way elsewhere."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import time
from functools import lru_cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# On macOS, fsync leaves the bytes in the disk's cache, to be written in any order: see fsync(2).
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
# errors of file systems without it, most of them network file systems
_NO_FULL_SYNC = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL})


def sync(descriptor: int) -> None:
    """Put a file or directory on disk, past the disk's cache where that needs a call of its own.

    Raises:
        OSError: it may not be on disk; the descriptor must not be synced again.
    """
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(descriptor, _FULL_SYNC)
        except OSError as error:
            if error.errno not in _NO_FULL_SYNC:
                raise
        else:
            return
    os.fsync(descriptor)


# Syncs a file's data and what is needed to read it, but not its times. macOS only has `sync`.
sync_data: Callable[[int], None] = getattr(os, "fdatasync", sync)
# Reading a job need not write its inode for the access time: 3 us of CPU, 10 us of waiting.
O_NOATIME: int = getattr(os, "O_NOATIME", 0)

# errors that only mean that something is used up for now
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
NOTHING_LEFT = OUT_OF_RESOURCES | NO_ROOM


@contextlib.contextmanager
def starting_threads() -> Iterator[None]:
    """Turn Python's error for a lack of threads into an OSError, like that of any other lack.

    Raises:
        OSError: no thread could be started.
    """
    try:
        yield
    except RuntimeError as error:  # Python has no error of its own for this
        raise OSError(errno.EAGAIN, str(error)) from error


def inode_name(status: os.stat_result) -> str:
    """Return "DEVICE:INODE", which identifies a file under any name."""
    return f"{status.st_dev}:{status.st_ino}"


def host() -> str:
    """Return this machine's name."""
    return os.uname().nodename


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return the id of this boot of the kernel, which is the same in all its containers.

    Raises:
        OSError: the system tells none.
    """
    if sys.platform == "linux":
        try:
            return _read_line("/proc/sys/kernel/random/boot_id")
        except FileNotFoundError as error:
            error.strerror = f"{error.strerror}; is /proc mounted?"
            raise
    import subprocess

    name = "kern.bootsessionuuid"
    query = ["/usr/sbin/sysctl", "-n", name]
    told = subprocess.run(query, capture_output=True, text=True, check=False)
    if told.returncode != 0 or not told.stdout.strip():
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    return told.stdout.strip()


def booted_at() -> float:
    """Return when this machine booted, in seconds since the epoch, or 0 if that is not known."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


_MACHINE_ID = "/etc/machine-id"


@lru_cache(maxsize=1)
def machine_id() -> str:
    """Return the id of this installation, the same after a reboot, or "" if there is none.

    The id in a container does not count: it comes from the image, which many machines share.
    """
    from queuectl.kernel.processes import is_in_container

    if is_in_container():
        return ""
    try:
        text = _read_line(_MACHINE_ID)
    except (OSError, ValueError):  # missing, a directory, or not ASCII
        return ""
    # in an image that was not booted yet, the file has a word instead of an id
    return text if len(text) == 32 and set(text.lower()) <= set("0123456789abcdef") else ""


def _read_line(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.readline().strip()


@lru_cache(maxsize=1)
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform)
    if name is None:
        return None
    try:
        import ctypes
    except ImportError:  # a Python that was built without libffi
        return None

    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        path = (ctypes.c_int, ctypes.c_char_p)
        function.argtypes = (*path, *path, ctypes.c_uint)
    return cast("Callable[[int, bytes, int, bytes, int], int] | None", function)


def prepare_renames() -> None:
    """Load what `exchange` and `move_new` need, or else their first call would open files."""
    _renameat2()


def exchange(one: str, other: str) -> bool:
    """Swap two names atomically, or return False where the kernel or file system cannot.

    macOS could, but grants no leases (`take_lease`). Without a lease no old body is written over,
    and a new file may as well be renamed into place.

    Raises:
        OSError: one of the names does not exist, or the file system refused.
    """
    return sys.platform == "linux" and _rename(one, other, _RENAME_EXCHANGE)


def move_new(source: str, target: str) -> bool:
    """Rename atomically unless the new name is taken, or return False where the system cannot.

    Raises:
        FileExistsError: the new name is taken.
        OSError: the old name does not exist, or the file system refused.
    """
    return _rename(source, target, _RENAME_NOREPLACE)


def _rename(source: str, target: str, flag: int) -> bool:
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    old, new = os.fsencode(f"{source}\0{target}").split(b"\0")
    if renameat2(_AT_FDCWD, old, _AT_FDCWD, new, flag) == 0:
        return True
    import ctypes

    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), target)


# macOS has its own AT_FDCWD, and RENAME_EXCL
_AT_FDCWD, _RENAME_NOREPLACE = (-2, 4) if sys.platform == "darwin" else (-100, 1)
_RENAME_EXCHANGE = 2


_HAS_LEASES = hasattr(fcntl, "F_SETLEASE")


def take_lease(descriptor: int) -> bool:
    """Keep all others from a file until `release_lease`, or return False if one has it open.

    False also where there are no leases. Whoever opens the file meanwhile waits until the lease
    ends, and we get SIGIO: that needs a handler, which may do nothing.
    """
    if not _HAS_LEASES:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:  # EAGAIN, or a file system without leases
        return False
    return True


def has_writer(descriptor: int) -> bool:
    """Tell whether somebody has a file open for writing; False where the kernel does not tell.

    We must have opened the file for reading, and must own it or be root.
    """
    if not _HAS_LEASES:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:  # somebody else's file, or a file system without leases
        return False
    release_lease(descriptor)
    return False


def release_lease(descriptor: int) -> None:
    """Let others open a file on which we have a lease.

    Closing it would not be enough: a process that is being started has all our descriptors, and
    the lease with them, until it has loaded its program.
    """
    try:  # noqa: SIM105 - it takes three calls more, twice for each job
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        pass  # somebody waited for too long, and the kernel has broken it


_PATIENCE_S = 3.0
# errors of file systems without locks, or without locks on directories
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})


def unlock(descriptor: int) -> None:
    """Release the lock on a descriptor, if there is one, and leave it open."""
    with contextlib.suppress(OSError):  # the file system has no locks
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def lock_within(descriptor: int, how: int, patience_s: float) -> bool:
    """Lock a file or directory, or return False if others hold the lock for `patience_s` seconds.

    `how` is LOCK_EX or LOCK_SH, as for flock.

    Raises:
        OSError: the file system has no locks, or refused.
    """
    until = time.monotonic() + patience_s
    while not (is_ours := _try_lock(descriptor, how)) and time.monotonic() < until:
        time.sleep(0.001)
    return is_ours


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(descriptor: int, waits: Callable[[], object]) -> None:
    """Lock a file or directory, however long that takes, if its file system has locks.

    `waits` is called once if others hold the lock for longer than a few seconds, since they may be
    suspended.

    Raises:
        OSError: the file system has locks, but refused.
    """
    try:
        if not lock_within(descriptor, fcntl.LOCK_EX, _PATIENCE_S):
            waits()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
