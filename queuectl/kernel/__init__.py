"""What only some kernels offer, with the POSIX way beside it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence


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


def host() -> str:
    """Return this machine's name."""
    return os.uname().nodename


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what names this run of the kernel: one for all containers, another after a boot."""
    if sys.platform == "linux":
        return _read_line("/proc/sys/kernel/random/boot_id")
    import subprocess

    name = "kern.bootsessionuuid"
    query = ["/usr/sbin/sysctl", "-n", name]
    told = subprocess.run(query, capture_output=True, text=True, check=False)
    if told.returncode != 0 or not told.stdout.strip():
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    return told.stdout.strip()


@lru_cache(maxsize=1)
def machine_id() -> str:
    """Return what names this installation over its reboots; empty where nothing does."""
    with contextlib.suppress(FileNotFoundError):
        return _read_line("/etc/machine-id")
    return ""


def _read_line(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.readline().strip()


@lru_cache(maxsize=1)
def has_pidfd() -> bool:
    """Whether a descriptor can hold a process: what this Python knows, a sandbox may forbid.

    Raises:
        OSError: it cannot be told now, for want of descriptors.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES:
            raise
        return False
    return True


def can_list_processes() -> bool:
    """Whether it can be told which processes belong to a group or have an environment."""
    return os.path.isdir("/proc/self")


def is_suspended(pid: int) -> bool:
    """Tell whether a process stands still, as Ctrl-Z makes it; False where that cannot be told."""
    try:
        return _stat(pid)[_STATE] == b"T"
    except OSError:
        return False


def started() -> int:
    """Return when this process started, in ticks of the kernel's clock; 0 where nobody can tell."""
    try:
        return int(_stat("self")[_STARTED])
    except OSError:
        return 0


def lives(pid: int, started: int) -> bool:
    """Tell whether a process lives that has this pid, as seen by itself, and started then.

    It may be in a container, where its pid is another than here.
    """
    if not started or not can_list_processes():
        return False
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # gone meanwhile
            stat = _stat(name)
            if int(stat[_STARTED]) == started and stat[_STATE] not in _ENDED:
                status = _read_bytes(f"/proc/{name}/status").decode(errors="replace")
                own = re.search(r"^NSpid:.*?(\d+)$", status, re.MULTILINE)
                if own is not None and int(own[1]) == pid:
                    return True
    return False


def _stat(pid: int | str) -> list[bytes]:
    """Return what /proc says of a process behind its name, which may hold anything.

    Raises:
        OSError: it is gone, or somebody else's.
    """
    return _read_bytes(f"/proc/{pid}/stat").rpartition(b") ")[2].split()


_STATE, _GROUP, _STARTED = 0, 2, 19
_ENDED = (b"Z", b"X")


@dataclass(frozen=True)
class Tree:
    """The processes of a group, those with all of `marks` (NAME=VALUE) in their environment.

    And those that write their standard output or error to one of `outputs` (device and inode): some
    have dropped their environment.
    """

    group: int | None
    marks: tuple[bytes, ...]
    outputs: tuple[tuple[int, int], ...] = ()


class _Signs(NamedTuple):
    """By what a process is known to be of a tree."""

    groups: dict[int, Tree]
    marks: dict[bytes, Tree]  # the first mark of each tree is its own
    outputs: dict[tuple[int, int], Tree]

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> _Signs:
        return cls(
            {tree.group: tree for tree in trees if tree.group is not None},
            {tree.marks[0]: tree for tree in trees if tree.marks},
            {output: tree for tree in trees for output in tree.outputs},
        )


def processes_of(trees: Sequence[Tree]) -> dict[Tree, list[int]]:
    """Return the living processes of each tree, from one look at all there are.

    Without /proc nobody can be asked; a group can still be signalled as a whole.
    """
    found: dict[Tree, list[int]] = {tree: [] for tree in trees}
    signs = _Signs.of(trees)
    if not any(signs) or not can_list_processes():
        return found
    mine = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != mine:
            tree = _tree_of(int(name), signs)
            if tree is not None:
                found[tree].append(int(name))
    return found


def group_lives(group: int) -> bool:
    """Tell whether a process of a group runs, whose leader has ended and is not reaped.

    For where processes cannot be listed; False on Linux, whose killpg finds that leader too.
    """
    if sys.platform == "linux":
        return False
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # only zombies: EPERM on macOS
        return False
    return True


def signal_process(pid: int, number: signal.Signals, tree: Tree) -> None:
    """Signal a process if it still is of that tree."""
    signs = _Signs.of([tree])
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if not has_pidfd():
            if _tree_of(pid, signs) is not None:
                os.kill(pid, number)
            return
        from signal import pidfd_send_signal  # the module costs each command line 2 ms

        descriptor = os.pidfd_open(pid)
        try:
            # looked at once the descriptor holds it: from here the pid cannot pass to another
            if _tree_of(pid, signs) is not None:
                pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _tree_of(pid: int, signs: _Signs) -> Tree | None:
    """Return the tree that a living process is of."""
    try:
        stat = _stat(pid)
        if stat[_STATE] in _ENDED:
            return None
        if (group := int(stat[_GROUP])) in signs.groups:
            return signs.groups[group]
        environment = set(_read_bytes(f"/proc/{pid}/environ").split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # gone meanwhile, or somebody else's
    for mark in signs.marks.keys() & environment:
        if environment.issuperset(signs.marks[mark].marks):
            return signs.marks[mark]
    return _writer_of(pid, signs.outputs) if signs.outputs else None


def _writer_of(pid: int, outputs: Mapping[tuple[int, int], Tree]) -> Tree | None:
    for stream in (1, 2):
        with contextlib.suppress(OSError):  # closed, or the process is gone
            status = os.stat(f"/proc/{pid}/fd/{stream}")
            if (tree := outputs.get((status.st_dev, status.st_ino))) is not None:
                return tree
    return None


def _read_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@lru_cache(maxsize=1)
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform)
    if name is None:
        return None
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        path = (ctypes.c_int, ctypes.c_char_p)
        function.argtypes = (*path, *path, ctypes.c_uint)
    return cast("Callable[[int, bytes, int, bytes, int], int] | None", function)


def exchange(one: str, other: str) -> bool:
    """Swap two names atomically; False where the kernel or the file system cannot.

    On macOS it could: but where no lease is granted (`keep_to_ourselves`) no old body is written
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
    if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    import ctypes

    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), target)


# macOS: RENAME_EXCL and its own AT_FDCWD
_AT_FDCWD, _RENAME_NOREPLACE = (-2, 4) if sys.platform == "darwin" else (-100, 1)
_RENAME_EXCHANGE = 2


def keep_to_ourselves(descriptor: int) -> bool:
    """Keep all others from a file until `share_again`; False if one has it open.

    The kernel grants a lease on those terms. Whoever opens the file meanwhile waits for its end,
    and SIGIO tells us: give that a handler, which need do nothing.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:  # EAGAIN, or a file system that knows no leases
        return False
    return True


def share_again(descriptor: int) -> None:
    """Let others open a file that we have kept to ourselves.

    A close would not do: a process that is being started has all our descriptors until it has
    loaded its program, and the lease with them.
    """
    with contextlib.suppress(BlockingIOError):  # who has waited for too long has broken it
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


# of a file system without locks, or of one that locks no directories
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})


def lock(descriptor: int) -> bool:
    """Wait for the lock of a file or a directory, until it is closed; False where there is none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
