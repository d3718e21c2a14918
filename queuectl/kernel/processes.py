"""Find processes, tell whose they are, and signal them, by /proc and pidfds if there are any.

spool-layout.md, sections "Run", "Recover" and "workers/".
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from queuectl.errors import QueuectlError
from queuectl.kernel import OUT_OF_RESOURCES, inode_name
from queuectl.variables import SPOOL, WORKER

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Mapping, Sequence


@lru_cache(maxsize=1)
def has_pidfd() -> bool:
    """Tell whether pidfds can be used: this Python may lack them, a sandbox may forbid them.

    Raises:
        OSError: that cannot be found out now, for lack of descriptors.
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


def check_proc() -> None:
    """Check that /proc, if there is one, shows the processes that we can signal.

    Raises:
        QueuectlError: its pids are those of another container, so we would signal wrong processes.
    """
    try:
        ours = os.readlink("/proc/self")
    except OSError:  # macOS, or a sandbox
        return
    if ours != str(os.getpid()):
        msg = "/proc is that of other processes: mount one, as `unshare --mount-proc` does"
        raise QueuectlError(msg)


def can_list_processes() -> bool:
    """Tell whether processes can be found by their group or environment."""
    return os.path.isdir("/proc/self")


def is_suspended(pid: int, started: int) -> bool:
    """Tell whether a process is suspended, as by Ctrl-Z; False if that cannot be found out.

    Unless `started` is 0, a process that started at another time does not count: the process meant
    is in a container, and has this pid there.
    """
    try:
        stat = _stat(pid)
    except OSError:
        return False
    return stat[_STATE] == b"T" and started in (0, int(stat[_STARTED]))


def parent_of(pid: int) -> int:
    """Return the pid of the parent of a process, 0 if that cannot be found out."""
    try:
        return int(_stat(pid)[_PARENT])
    except OSError:
        return 0


def started() -> int:
    """Return when this process started, in ticks of the kernel's clock, 0 if that is not known."""
    try:
        return int(_stat("self")[_STARTED])
    except OSError:
        return 0


INITIAL_NAMESPACE = "pid:[4026531836]"  # fixed by the kernel; all processes are visible from it


@lru_cache(maxsize=1)
def pid_namespace() -> str:
    """Return our pid namespace, outside of which we see no process, or "" if that is not known."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_in_container() -> bool:
    """Tell whether we are in a container, from where some processes cannot be seen."""
    return pid_namespace() not in ("", INITIAL_NAMESPACE)


def lives(pid: int, started: int, namespace: str) -> bool:
    """Tell whether the process that had this pid, start time and namespace is alive.

    It may be in a container, where its pid differs from the one that we see.

    Args:
        pid: as the process itself sees it; many containers have a process 1.
        started: in ticks of the kernel's clock; two processes may have started in the same tick.
        namespace: its `pid_namespace`, "" if that is not known.
    """
    if not started or not can_list_processes():
        return False
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # gone meanwhile
            stat = _stat(name)
            if int(stat[_STARTED]) == started and stat[_STATE] not in _ENDED:
                status = _read_bytes(f"/proc/{name}/status").decode(errors="replace")
                own = re.search(r"^NSpid:.*?(\d+)$", status, re.MULTILINE)
                if own is not None and int(own[1]) == pid and _may_be_in(name, namespace):
                    return True
    return False


def _may_be_in(pid: str, namespace: str) -> bool:
    try:
        return namespace in ("", os.readlink(f"/proc/{pid}/ns/pid"))
    except PermissionError:  # somebody else's process
        return True


def _stat(pid: int | str) -> list[bytes]:
    """Return the fields of /proc/PID/stat that follow the name, which may contain anything.

    Raises:
        OSError: the process is gone, or is somebody else's.
    """
    return _read_bytes(f"/proc/{pid}/stat").rpartition(b") ")[2].split()


_OF_A_WORKER = f"{WORKER}=".encode()
_STATE, _PARENT, _GROUP, _STARTED = 0, 1, 2, 19
_ENDED = (b"Z", b"X")


@dataclass(frozen=True)
class Tree:
    """Processes: those of a group, and those with all `marks` (NAME=VALUE) in their environment.

    Some drop their environment. So a process that has no QUEUECTL_WORKER there counts too if its
    standard output or error is one of `outputs` (device and inode).
    """

    group: int | None
    marks: tuple[bytes, ...]
    outputs: tuple[tuple[int, int], ...] = ()
    but_of: str = ""  # leaves out marked processes of the spool with this workers/


class _Signs(NamedTuple):
    """The signs by which a process is found to belong to one of several trees."""

    groups: dict[int, Tree]
    marks: dict[bytes, Tree]  # by the first mark, which no two trees share
    outputs: dict[tuple[int, int], Tree]

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> _Signs:
        return cls(
            {tree.group: tree for tree in trees if tree.group is not None},
            {tree.marks[0]: tree for tree in trees if tree.marks},
            {output: tree for tree in trees for output in tree.outputs},
        )


def processes_of(trees: Sequence[Tree]) -> dict[Tree, list[int]]:
    """Return the pids of the living processes of each tree, from one look at all processes.

    Without /proc none are found, but a group can still be signalled as a whole.
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
    """Tell whether a group still has a running process, while its ended leader is not reaped.

    This is for systems where processes cannot be listed. It is False on Linux, where killpg finds
    the leader too.
    """
    if sys.platform == "linux":
        return False
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # only zombies are left: EPERM on macOS
        return False
    return True


def signal_process(pid: int, number: signal.Signals, tree: Tree) -> None:
    """Signal a process if it still belongs to that tree."""
    signs = _Signs.of([tree])
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if not has_pidfd():
            if _tree_of(pid, signs) is not None:
                os.kill(pid, number)
            return
        from signal import pidfd_send_signal  # the import would cost each command line 2 ms

        descriptor = os.pidfd_open(pid)
        try:
            # checked only now that the descriptor holds the process: its pid cannot be reused
            if _tree_of(pid, signs) is not None:
                pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _tree_of(pid: int, signs: _Signs) -> Tree | None:
    """Return the tree that a living process belongs to, if any."""
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
        tree = signs.marks[mark]
        if environment.issuperset(tree.marks):
            return None if tree.but_of and _workers_of(environment) == tree.but_of else tree
    if not signs.outputs or any(item.startswith(_OF_A_WORKER) for item in environment):
        return None  # it belongs to another worker
    return _writer_of(pid, signs.outputs)


def _workers_of(environment: Iterable[bytes]) -> str:
    """Return the inode name of workers/ in the spool that an environment names, or ""."""
    for item in environment:
        name, _, value = item.partition(b"=")
        if name == os.fsencode(SPOOL):
            with contextlib.suppress(OSError):
                return inode_name(os.stat(value + b"/workers"))
    return ""


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
