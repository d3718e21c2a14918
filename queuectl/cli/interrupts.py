"""SIGTERM and SIGHUP end what a command does as Ctrl-C does: what was begun is undone, or told."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# An interrupt that comes in a destructor is lost. Undoing takes milliseconds.
_LOST_S = 3.0
_told: list[int] = []
_is_ours = False


def take_over() -> None:
    """Say that the process is ours: nobody who calls us as a library has its signals changed."""
    global _is_ours  # noqa: PLW0603 - as signal handlers are
    _is_ours = True


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Have signals that end us interrupt us meanwhile, as Ctrl-C does, unless they are ignored."""
    ending = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if _is_ours and signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in ending:
        signal.signal(number, _interrupt)
    if ending:
        signal.signal(signal.SIGALRM, _interrupt_again)
    try:
        yield
    finally:
        if ending:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def told_to_end() -> bool:
    """Tell whether such a signal has interrupted us."""
    return bool(_told)


def end_as_told() -> None:
    """End by the signal that has interrupted us, if one has: whoever sent it is to see that."""
    for number in _told:
        os.kill(os.getpid(), number)


def _interrupt(number: int, _frame: object) -> None:
    if not _told:  # `timeout` sends two, and a shell that ends several: they are one
        _told.append(number)
        signal.setitimer(signal.ITIMER_REAL, _LOST_S, _LOST_S)
        raise KeyboardInterrupt


def _interrupt_again(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
