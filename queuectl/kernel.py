"""What only some kernels offer, with the POSIX way beside it; no other module asks which it is."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import asyncio
    import signal
    from collections.abc import Callable, Mapping

_HAS_PIDFD = sys.platform == "linux" and hasattr(os, "pidfd_open")


def host() -> str:
    """Return this machine's name."""
    return os.uname().nodename


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what names this run of the kernel: one for all containers, another after a boot."""
    if sys.platform == "linux":
        return _read_line("/proc/sys/kernel/random/boot_id")
    import subprocess

    query = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


@lru_cache(maxsize=1)
def machine_id() -> str:
    """Return what names this installation over its reboots; empty where nothing does."""
    with contextlib.suppress(FileNotFoundError):
        return _read_line("/etc/machine-id")
    return ""


def _read_line(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.readline().strip()


class ExitWatch:
    """Calls back, once, in an event loop, when a child has ended; leaves it to be reaped.

    Until it is reaped its pid, and that of its group, cannot become another's.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pid: int, ended: Callable[[], None]
    ) -> None:
        self._ended = ended
        self._loop = loop
        self._descriptor = os.pidfd_open(pid) if _HAS_PIDFD else -1
        if self._descriptor >= 0:
            self._loop.add_reader(self._descriptor, self._readable)
        else:
            from threading import Thread

            Thread(target=self._wait, args=(pid,), daemon=True).start()

    def _readable(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._ended()

    def _wait(self, pid: int) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._loop.call_soon_threadsafe(self._ended)


def can_list_processes() -> bool:
    """Whether it can be told which processes belong to a group or have an environment."""
    return os.path.isdir("/proc/self")


def processes_of(group: int | None, **marks: str) -> list[int]:
    """Return the living processes of a process group, and those with `marks` in their environment.

    Without /proc nobody can be asked; a group can still be signalled as a whole.
    """
    if not can_list_processes():
        return []
    mine, wanted = os.getpid(), _environment_items(marks)
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if pid != mine and _belongs(pid, group, wanted)]


def signal_process(pid: int, number: signal.Signals, group: int | None, **marks: str) -> None:
    """Signal a process if it still is of that group, or has `marks` in its environment."""
    wanted = _environment_items(marks)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if not _HAS_PIDFD:
            os.kill(pid, number)
            return
        from signal import pidfd_send_signal  # the module costs each command line 2 ms

        descriptor = os.pidfd_open(pid)
        try:
            # looked at once the descriptor holds it: from here the pid cannot pass to another
            if _belongs(pid, group, wanted):
                pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _environment_items(marks: Mapping[str, str]) -> list[bytes]:
    return [os.fsencode(f"{name}={value}") for name, value in marks.items()]


def _belongs(pid: int, group: int | None, wanted: list[bytes]) -> bool:
    try:
        status = _read_bytes(f"/proc/{pid}/stat")
        # behind the name, which may hold anything: state, parent, group
        state, _, pgrp = status[status.rindex(b")") + 2 :].split(b" ", 3)[:3]
        if state in b"ZX":
            return False
        if int(pgrp) == group:
            return True
        have = _read_bytes(f"/proc/{pid}/environ").split(b"\0")
        return bool(wanted) and all(item in have for item in wanted)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # gone meanwhile, or somebody else's


def _read_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@lru_cache(maxsize=1)
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        path = (ctypes.c_int, ctypes.c_char_p)
        function.argtypes = (*path, *path, ctypes.c_uint)
    return cast("Callable[[int, bytes, int, bytes, int], int] | None", function)


def exchange(one: str, other: str) -> bool:
    """Swap two names atomically; False where the kernel or the file system cannot.

    Raises:
        OSError: one of them is not there, or the file system refused.
    """
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    import ctypes

    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), other)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
