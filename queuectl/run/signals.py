"""Signals as commands are to find them, all at their default, none of them blocked; and SIGHUP."""

from __future__ import annotations

import os
import signal

from queuectl.kernel import OUT_OF_RESOURCES
from queuectl.run.spawn import resets_signals


def prepare_signals() -> None:
    """Have our own signals be no hindrance to commands, or to learning how these end."""
    # Inherited as ignored it would make exit 7 look like 0.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # a program that waits for its signals may have started us with them blocked
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if not resets_signals():
        _ignore_for_ourselves()
    # Sent to the holder of a lease, and deadly without a handler (kernel.take_lease).
    # One that does nothing: what is ignored is inherited by commands, and a handler is not.
    signal.signal(signal.SIGIO, lambda *_: None)


def _ignore_for_ourselves() -> None:
    """Have commands begin with no signal ignored, where nobody does that for them.

    What is ignored is inherited, and a handler is not. Not those that a terminal sends to whoever
    writes to it in the background: with a handler the write would be begun anew for ever.
    """
    of_terminals = {signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP}
    of_python = {signal.SIGPIPE, signal.SIGXFSZ}  # which subprocess restores
    for number in signal.valid_signals() - of_terminals - of_python:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


class HangUp:
    """What SIGHUP means: that our terminal is gone, wherever our output goes, or something else."""

    def __init__(self) -> None:
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup
        self._can_come = not ignored and _has_terminal()
        self._was_gone = False

    def has_come(self) -> bool:
        """Tell, at a SIGHUP, whether the terminal that we were started in is gone."""
        return self._can_come and not _has_terminal()

    def look(self) -> None:
        """Expect none any more of a terminal that has been gone for two looks: we were disowned."""
        is_gone = self.has_come()
        self._can_come = self._can_come and not (is_gone and self._was_gone)
        self._was_gone = is_gone


def _has_terminal() -> bool:
    """Tell whether there is a terminal that can hang up on us, wherever our output goes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:  # ENXIO: none, or no more
        return error.errno in OUT_OF_RESOURCES
    return True
