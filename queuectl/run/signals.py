"""Set up signals so that commands start with all at default and none blocked; interpret SIGHUP."""

from __future__ import annotations

import os
import signal

from queuectl.kernel import OUT_OF_RESOURCES
from queuectl.run.spawn import resets_signals


def prepare_signals() -> None:
    """Set our own signals so that they hinder neither commands nor learning how these end."""
    # If it is inherited as ignored, exit status 7 looks like 0.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # a parent that waits for its signals may have started us with them blocked
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if not resets_signals():
        _ignore_for_ourselves()
    # The holder of a lease gets SIGIO, which is deadly without a handler (kernel.take_lease). It is
    # not ignored, since commands would inherit that; they do not inherit a handler.
    signal.signal(signal.SIGIO, lambda *_: None)


def _ignore_for_ourselves() -> None:
    """Replace ignored signals by handlers that do nothing, which commands do not inherit.

    This is for systems where a start does not reset signals. The signals that a terminal sends to a
    background process that writes to it stay ignored: with a handler, the write would restart for
    ever.
    """
    of_terminals = {signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP}
    of_python = {signal.SIGPIPE, signal.SIGXFSZ}  # which subprocess restores
    for number in signal.valid_signals() - of_terminals - of_python:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


class HangUp:
    """Tells whether SIGHUP means that our terminal is gone, wherever our output goes."""

    def __init__(self) -> None:
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup
        self._can_come = not ignored and _has_terminal()
        self._was_gone = False

    def has_come(self) -> bool:
        """Tell, on a SIGHUP, whether the terminal that we were started in is gone."""
        return self._can_come and not _has_terminal()

    def look(self) -> None:
        """Expect no hang-up any more once the terminal was gone for two looks: we were disowned."""
        is_gone = self.has_come()
        self._can_come = self._can_come and not (is_gone and self._was_gone)
        self._was_gone = is_gone


def _has_terminal() -> bool:
    """Tell whether there is a terminal that can hang up on us, wherever our output goes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:  # ENXIO: there is none, or none any more
        return error.errno in OUT_OF_RESOURCES
    return True
