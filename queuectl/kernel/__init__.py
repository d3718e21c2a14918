"""What only some kernels offer, with the POSIX way beside it."""

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


# On macOS fsync leaves the bytes in the cache of the disk, in any order: fsync(2) there says so.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
# of a file system that has no such thing, most of them on the network
_NO_FULL_SYNC = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL})


def sync(descriptor: int) -> None:
    """Put a file or a directory on disk, past the cache of the disk where that must be asked for.

    Raises:
        OSError: it may not be there; the descriptor must not be asked again.
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


# Forces what is needed to read a file again, but not its times; macOS has only the whole.
sync_data: Callable[[int], None] = getattr(os, "fdatasync", sync)
# Reading a job changes nothing, so its inode need not be written: 3 us of CPU, 10 us of waiting.
O_NOATIME: int = getattr(os, "O_NOATIME", 0)

# errors that only mean that the machine has no more to give now
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
NOTHING_LEFT = OUT_OF_RESOURCES | NO_ROOM


@contextlib.contextmanager
def starting_threads() -> Iterator[None]:
    """Turn Python's error for a lack of threads into an OSError, as any other lack raises.

    Raises:
        OSError: no thread could be started.
    """
    try:
        yield
    except RuntimeError as error:  # all that Python says of it
        raise OSError(errno.EAGAIN, str(error)) from error


def inode_name(status: os.stat_result) -> str:
    """Return "DEVICE:INODE": which file it is, under whatever name."""
    return f"{status.st_dev}:{status.st_ino}"


def host() -> str:
    """Return this machine's name."""
    return os.uname().nodename


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what names this run of the kernel: one for all containers, another after a boot.

    Raises:
        OSError: nothing does.
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
    """Return when this machine was started, seconds since the epoch; 0 where that is not told."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


_MACHINE_ID = "/etc/machine-id"


@lru_cache(maxsize=1)
def machine_id() -> str:
    """Return what names this installation over its reboots; empty where nothing does.

    What stands in a container is its image's, for which many machines have the same.
    """
    from queuectl.kernel.processes import is_in_container

    if is_in_container():
        return ""
    try:
        text = _read_line(_MACHINE_ID)
    except (OSError, ValueError):  # not there, a directory, not ASCII
        return ""
    # of an image that was not booted yet it is a word
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
    """Load what `exchange` and `move_new` need: the first of them opens files, else."""
    _renameat2()


def exchange(one: str, other: str) -> bool:
    """Swap two names atomically; False where the kernel or the file system cannot.

    On macOS it could: but where no lease is granted (`take_lease`) no old body is written
    over, and a new file is as well renamed.

    Raises:
        OSError: one of them is not there, or the file system refused.
    """
    return sys.platform == "linux" and _rename(one, other, _RENAME_EXCHANGE)


def move_new(source: str, target: str) -> bool:
    """Rename unless the new name is taken, at one instant; False where that cannot be asked for.

    Raises:
        FileExistsError: it is taken.
        OSError: the old one is not there, or the file system refused.
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


# macOS: RENAME_EXCL and its own AT_FDCWD
_AT_FDCWD, _RENAME_NOREPLACE = (-2, 4) if sys.platform == "darwin" else (-100, 1)
_RENAME_EXCHANGE = 2


_HAS_LEASES = hasattr(fcntl, "F_SETLEASE")


def take_lease(descriptor: int) -> bool:
    """Keep all others from a file until `release_lease`; False if one has it open.

    The kernel grants a lease on those terms. Whoever opens the file meanwhile waits for its end,
    and SIGIO tells us: give that a handler, which need do nothing.
    """
    if not _HAS_LEASES:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:  # EAGAIN, or a file system that knows no leases
        return False
    return True


def has_writer(descriptor: int) -> bool:
    """Tell whether somebody has a file open for writing; False where the kernel does not tell.

    Of a file that was opened for reading, and is ours, or anybody's if we are root.
    """
    if not _HAS_LEASES:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:  # it is another's, or on a file system that knows no leases
        return False
    release_lease(descriptor)
    return False


def release_lease(descriptor: int) -> None:
    """Let others open a file that we have kept to ourselves.

    A close would not do: a process that is being started has all our descriptors until it has
    loaded its program, and the lease with them.
    """
    try:  # noqa: SIM105 - three calls more, twice for each job
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        pass  # who has waited for too long has broken it


_PATIENCE_S = 3.0
# of a file system without locks, or of one that locks no directories
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})


def unlock(descriptor: int) -> None:
    """Give back a lock, if there is one: the descriptor stays open."""
    with contextlib.suppress(OSError):  # where there are no locks
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def lock_within(descriptor: int, how: int, patience_s: float) -> bool:
    """Lock a file or a directory, `how` flock has it; False if others have it for longer than that.

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
    """Wait for the lock of a file or a directory, where its file system has locks.

    `waits` is called once if others have it for longer than a few seconds: they may be suspended.

    Raises:
        OSError: the file system has locks, and refused.
    """
    try:
        if not lock_within(descriptor, fcntl.LOCK_EX, _PATIENCE_S):
            waits()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
