"""The whole screen of a terminal while a `with` block runs; restored at its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from typing import Any

# alternate screen, cursor hidden, no wrapping at the right edge
_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = b"\x1b[H", b"\x1b[K", b"\x1b[J"
# terminals that know these show a frame at once; the others draw it as it comes
_BEGIN_FRAME, _END_FRAME = b"\x1b[?2026h", b"\x1b[?2026l"
_LEAVING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


class Screen:
    """Draws lines and reads keys; restores the terminal, also after a signal or an exception.

    Signals only set flags, which are looked at between two frames. So no frame is cut in the
    middle, and the terminal is restored in one place.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._suspend = False
        self._out = sys.stdout.fileno()
        self._in: int | None = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._handlers: dict[int, Any] = {}
        self._settings: list[Any] | None = None

    def __enter__(self) -> Screen:
        self._wakeup_fd = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _LEAVING:
            self._handlers[number] = signal.signal(number, self._asked_to_leave)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._asked_to_suspend)
        # any handler makes the signal wake us; the size is asked for at each frame
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: None)
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        signal.set_wakeup_fd(self._wakeup_fd)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _asked_to_leave(self, number: int, _frame: object) -> None:
        self.signal = number

    def _asked_to_suspend(self, _number: int, _frame: object) -> None:
        self._suspend = True

    def _take(self) -> None:
        if self._in is not None:
            self._settings = termios.tcgetattr(self._in)
            tty.setcbreak(self._in, termios.TCSANOW)
        self._write(_ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone: nothing is left to restore
            self._write(_LEAVE)
        if self._in is not None and self._settings is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._in, termios.TCSANOW, self._settings)

    @property
    def hears_keys(self) -> bool:
        """Whether keys can be read: standard input is a terminal."""
        return self._in is not None

    def size(self) -> tuple[int, int]:
        """Return the number of columns and of lines."""
        try:
            width, height = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        return (width, height) if width and height else (80, 24)

    def draw(self, lines: list[str]) -> None:
        """Show these lines from the top of the screen, and nothing else."""
        *upper, last = (line.encode(errors="replace") for line in lines)
        # clear a line before writing it: after a full line the cursor is on its last character
        body = b"".join(_CLEAR_LINE + line + b"\r\n" for line in upper) + _CLEAR_BELOW + last
        self._write(_BEGIN_FRAME + _HOME + body + _END_FRAME)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._out, data) :]

    def wake(self) -> None:
        """Make `wait` return; any thread may call this."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full: `wait` returns anyway
            os.write(self._wake_write, b"w")

    def wait(self, timeout_s: float) -> str:
        """Return the keys typed; "" once woken or out of time, `q` at the end of the input."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if self._in is not None:
            poll.register(self._in, select.POLLIN)
        ready = dict(poll.poll(max(0, int(timeout_s * 1000))))
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        if self._suspend:
            self._stop_for_a_while()
        if self._in is None or self._in not in ready:
            return ""
        return os.read(self._in, 1024).decode(errors="replace") or "q"

    def _stop_for_a_while(self) -> None:
        self._suspend = False
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns when the shell continues us
        signal.signal(signal.SIGTSTP, self._asked_to_suspend)
        self._take()
