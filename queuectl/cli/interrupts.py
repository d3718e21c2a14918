"""Handling SIGTERM and SIGHUP like Ctrl-C: a command undoes or reports what it has begun."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# An interrupt is repeated after this time, since Python loses one that is raised in a destructor.
# Undoing what was begun takes milliseconds.
_LOST_S = 3.0
_told: list[int] = []


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise KeyboardInterrupt meanwhile, where they would end us."""
    ending = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) == signal.SIG_DFL
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
    """Tell whether SIGTERM or SIGHUP has interrupted us."""
    return bool(_told)


def end_as_told() -> None:
    """Die of the signal that interrupted us, if one has, so that whoever sent it sees that."""
    for number in _told:
        os.kill(os.getpid(), number)


def _interrupt(number: int, _frame: object) -> None:
    if not _told:  # `timeout` sends two, a shell that exits several: count them as one
        _told.append(number)
        signal.setitimer(signal.ITIMER_REAL, _LOST_S, _LOST_S)
        raise KeyboardInterrupt


def _interrupt_again(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
