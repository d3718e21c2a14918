"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it has begun is undone, or told."""

from __future__ import annotations

import os
import signal
import time

_SAME_S = 1.0  # a shell that ends sends several signals: they are one
_heeded: list[int] = []
_told: dict[int, float] = {}  # when


def heed_signals() -> None:
    """Have signals that end us interrupt us, as Ctrl-C does, unless they are ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
            _heeded.append(number)


def heed_no_more() -> None:
    """Have the next one end us at once: nothing is left to be undone."""
    if _heeded:
        for number in (signal.SIGINT, *_heeded):
            signal.signal(number, signal.SIG_DFL)


def told_to_end() -> bool:
    """Tell whether such a signal has interrupted us."""
    return bool(_told)


def end_as_told() -> None:
    """End by the signal that has interrupted us, if one has: whoever sent it is to see that."""
    for number in _told:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _interrupt(number: int, _frame: object) -> None:
    now_s = time.monotonic()
    if all(now_s > told_s + _SAME_S for told_s in _told.values()):
        _told[number] = now_s
        raise KeyboardInterrupt
