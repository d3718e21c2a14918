"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it has begun is undone, or told."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

_told: list[int] = []


def heed_signals() -> None:
    """Have signals that end us interrupt us, as Ctrl-C does, unless they are ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def end_as_told() -> None:
    """End by the signal that has interrupted us, if one has: whoever sent it is to see that."""
    for number in _told:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _interrupt(number: int, _frame: object) -> NoReturn:
    _told.append(number)
    raise KeyboardInterrupt
