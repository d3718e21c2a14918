"""What the code would be with one of its guards taken out: a test of the tests.

A mutation is applied in a child process only, named by the environment; each makes some fault test
fail, and a test says so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from queuectl import files, recovery

VARIABLE = "CRASH_TEST_MUTATION"
_fsync = os.fsync


def _no_fsync(kind: Callable[[int], bool]) -> Callable[[], None]:
    def fsync(descriptor: int) -> None:
        if not kind(os.fstat(descriptor).st_mode):
            _fsync(descriptor)

    def apply() -> None:
        os.fsync = fsync

    return apply


def _move_by_copy() -> None:
    def move(source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes())
        os.unlink(source)

    files.move = files.move_contended = move


def _publish_by_copy() -> None:
    def publish(source: str, target: str) -> None:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, Path(source).read_bytes())
        os.close(descriptor)

    files.publish = publish


def _leave_tmp() -> None:
    recovery.Recovery._clear_tmp = lambda _self: None  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {
    "no fsync of a directory": _no_fsync(stat.S_ISDIR),
    "no fsync of a file": _no_fsync(stat.S_ISREG),
    "move by copying": _move_by_copy,
    "publish by copying": _publish_by_copy,
    "leave tmp/ as it is": _leave_tmp,
}


def apply_named() -> None:
    """Apply the mutation that the environment names, if it names one."""
    if name := os.environ.get(VARIABLE):
        MUTATIONS[name]()
