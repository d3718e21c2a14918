"""Which processes there are, whose they are, and ending them: by /proc and pidfds, where these are.

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


def check_proc() -> None:
    """Check that /proc, if there is one, is that of the processes that we can signal.

    Raises:
        QueuectlError: its numbers are those of another container: we would signal the wrong ones.
    """
    try:
        ours = os.readlink("/proc/self")
    except OSError:  # macOS, or a sandbox
        return
    if ours != str(os.getpid()):
        msg = "/proc is that of other processes: mount one, as `unshare --mount-proc` does"
        raise QueuectlError(msg)


def can_list_processes() -> bool:
    """Whether it can be told which processes belong to a group or have an environment."""
    return os.path.isdir("/proc/self")


def is_suspended(pid: int, started: int) -> bool:
    """Tell whether a process stands still, as Ctrl-Z makes it; False where that cannot be told.

    One that did not start then, unless `started` is 0, only has the number of one in a container.
    """
    try:
        stat = _stat(pid)
    except OSError:
        return False
    return stat[_STATE] == b"T" and started in (0, int(stat[_STARTED]))


def parent_of(pid: int) -> int:
    """Return the parent of a process, 0 if that cannot be told."""
    try:
        return int(_stat(pid)[_PARENT])
    except OSError:
        return 0


def started() -> int:
    """Return when this process started, in ticks of the kernel's clock; 0 where nobody can tell."""
    try:
        return int(_stat("self")[_STARTED])
    except OSError:
        return 0


INITIAL_NAMESPACE = "pid:[4026531836]"  # the kernel's own number: who is in it sees all processes


@lru_cache(maxsize=1)
def pid_namespace() -> str:
    """Return which processes can be seen from here: those of one container; empty if not known."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_in_container() -> bool:
    """Tell whether there are processes that cannot be seen from here."""
    return pid_namespace() not in ("", INITIAL_NAMESPACE)


def lives(pid: int, started: int, namespace: str) -> bool:
    """Tell whether a process lives that has this pid, as seen by itself, and started then.

    It may be in a container, where its pid is another than here.

    Args:
        pid: in its container each is 1.
        started: in ticks of the kernel's clock: two may have started in one.
        namespace: its `pid_namespace`; empty: not known.
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
    except PermissionError:  # somebody else's
        return True


def _stat(pid: int | str) -> list[bytes]:
    """Return what /proc says of a process behind its name, which may hold anything.

    Raises:
        OSError: it is gone, or somebody else's.
    """
    return _read_bytes(f"/proc/{pid}/stat").rpartition(b") ")[2].split()


_OF_A_WORKER = f"{WORKER}=".encode()
_STATE, _PARENT, _GROUP, _STARTED = 0, 1, 2, 19
_ENDED = (b"Z", b"X")


@dataclass(frozen=True)
class Tree:
    """Processes: those of a group, those with all of `marks` (NAME=VALUE) in their environment.

    Also those, since some have dropped their environment, whose standard output or error is one of
    `outputs` (device and inode).
    """

    group: int | None
    marks: tuple[bytes, ...]
    outputs: tuple[tuple[int, int], ...] = ()
    but_of: str = ""  # not those that are marked, and of the spool with this workers/


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
        tree = signs.marks[mark]
        if environment.issuperset(tree.marks):
            return None if tree.but_of and _workers_of(environment) == tree.but_of else tree
    if not signs.outputs or any(item.startswith(_OF_A_WORKER) for item in environment):
        return None  # who has it is another's
    return _writer_of(pid, signs.outputs)


def _workers_of(environment: Iterable[bytes]) -> str:
    """Return the workers/ of the spool that a process is a job of, empty if that is not there."""
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
