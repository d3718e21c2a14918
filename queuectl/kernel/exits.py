"""Learn when a child process ends: by a pidfd where the system has them, else by a thread."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from queuectl.kernel.processes import has_pidfd

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.system.loop import Loop


def on_exit(loop: Loop, pid: int, ended: Callable[[], None]) -> None:
    """Call `ended` once, in an event loop, when a child has ended; do not reap the child.

    Until it is reaped, neither its pid nor its group id can be reused.

    Raises:
        OSError: neither a descriptor nor a thread is left for this; `ended` is not called.
    """
    try:
        watched = has_pidfd() and _watch_descriptor(loop, pid, ended)
    except OSError:  # no descriptor is left, but the command runs and must not be lost
        watched = False
    if not watched:
        loop.in_thread(partial(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)).on_done(ended)


def _watch_descriptor(loop: Loop, pid: int, ended: Callable[[], None]) -> bool:
    descriptor = os.pidfd_open(pid)

    def readable() -> None:
        loop.unwatch(descriptor)
        os.close(descriptor)
        ended()

    try:
        loop.watch(descriptor, readable)
    except OSError:
        os.close(descriptor)
        raise
    return True
