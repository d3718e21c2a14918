"""Counts the steps of a process on a spool, and kills or stops the process at the n-th.

A step is a call that changes the file system below one directory, or starts a program. Python's
audit events report most of them. Calls without an event, such as write, fsync, close and renameat2,
are wrapped, in this process only.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import queuectl
from queuectl import kernel
from queuectl.kernel import events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

PACKAGE = str(Path(queuectl.__file__).parent)
_CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.utime", "os.truncate", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Step:
    """One call: what it does to which file, and the line of queuectl that makes it."""

    what: str
    path: str
    site: str

    def __str__(self) -> str:
        return f"{self.what} {self.path} ({self.site})"


class Steps:
    """The steps of this process below `root`. Before step `at` (from 1) it gets a signal."""

    def __init__(
        self, root: Path, at: int | None = None, number: signal.Signals = signal.SIGKILL
    ) -> None:
        self.seen: list[Step] = []
        self._root = f"{root}/"
        self._at = at
        self._signal = number

    def begin(self) -> None:
        """Count from here on, to the end of the process: an audit hook cannot be removed."""
        sys.addaudithook(self._on_audit)
        self._wrap_descriptors()
        self._wrap_renames()
        begin_syncs = events.Syncs.begin

        def begin_in_steps(syncs: events.Syncs, asked: Sequence[tuple[int, bool]]) -> int:
            for descriptor, _ in asked:
                self._step("begin sync", _path_of(descriptor))
            return begin_syncs(syncs, asked)

        events.Syncs.begin = begin_in_steps  # type: ignore[method-assign, assignment]

    def _wrap_renames(self) -> None:
        def stepped(name: str, call: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
            def wrapped(source: str, target: str) -> bool:
                self._step(name, target)
                done = call(source, target)
                self._step(f"after {name}", target)
                return done

            return wrapped

        for name in ("exchange", "move_new"):
            setattr(kernel, name, stepped(name, getattr(kernel, name)))

    def _wrap_descriptors(self) -> None:
        write, fsync, close, pidfd_open = os.write, os.fsync, os.close, os.pidfd_open

        def write_in_two(descriptor: int, data: bytes) -> int:
            if not self._is_ours(descriptor):
                return write(descriptor, data)
            self._step("write", _path_of(descriptor))
            half = write(descriptor, data[: len(data) // 2])
            self._step("torn write", _path_of(descriptor))
            return half + write(descriptor, data[half:])

        def stepped(name: str, call: Any) -> Any:
            def wrapped(descriptor: int) -> None:
                if self._is_ours(descriptor):
                    self._step(name, _path_of(descriptor))
                call(descriptor)

            return wrapped

        def pidfd_open_in_steps(pid: int, flags: int = 0) -> int:
            self._step("started", f"{self._root}a program")
            return pidfd_open(pid, flags)

        wrapped = {
            "write": write_in_two,
            "fsync": stepped("fsync", fsync),
            "close": stepped("close", close),
            "pidfd_open": pidfd_open_in_steps,
        }
        for name, call in wrapped.items():
            setattr(os, name, call)
        kernel.sync_data = stepped("sync data", kernel.sync_data)

    def _on_audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[2], int) and args[2] & _WRITING:
            self._step("create", args[0])
        elif event == "subprocess.Popen":
            self._step("start", f"{self._root}a program")
        elif event in _CHANGES:
            target = args[1] if event in ("os.rename", "os.link") else args[0]
            path = _path_of(target) if isinstance(target, int) else target
            self._step(event.removeprefix("os."), path)

    def _is_ours(self, descriptor: int) -> bool:
        return _path_of(descriptor).startswith(self._root)

    def _step(self, what: str, path: object) -> None:
        text = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
        if not f"{text}/".startswith(self._root):
            return
        relative = text.removeprefix(self._root)
        self.seen.append(Step(what, relative, _site(sys._getframe(1))))
        if len(self.seen) == self._at:
            os.kill(os.getpid(), self._signal)


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")
    except OSError:
        return ""


def _site(frame: FrameType | None) -> str:
    """Return the line of queuectl nearest to the call."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{name.removeprefix(PACKAGE + '/')}:{frame.f_lineno}"
        frame = frame.f_back
    return "-"
