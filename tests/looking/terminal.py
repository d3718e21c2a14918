"""A real pseudo terminal with a program in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from typing import TYPE_CHECKING, Any

from tests.support import DEADLINE_S, environment, read_text, wait_until

if TYPE_CHECKING:
    from tests.support import SpoolDir

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
END_FRAME = "\x1b[?2026l"
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program on the other side of a pseudo terminal, which is its controlling terminal."""

    def __init__(self, words: list[str], env: dict[str, str], width: int, height: int) -> None:
        self._master, self.slave = pty.openpty()
        self.resize(width, height)
        self.settings: list[Any] = termios.tcgetattr(self.slave)
        self._heard = bytearray()
        self.process = subprocess.Popen(
            words,
            env={**env, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            # one system call: safe in a child whose parent has threads
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is closed
            while data := os.read(self._master, 65536):
                self._heard += data
                if b"end-of-test" in self._heard[-100:]:  # it may come in two reads
                    return

    def resize(self, width: int, height: int) -> None:
        """Change the size of the terminal; the kernel tells the program."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys: str) -> None:
        """Type these keys."""
        os.write(self._master, keys.encode())

    def interrupt(self) -> None:
        """Type Ctrl-C once the program waits for an answer.

        Between its question and the wait, it would not notice the signal: Python looks for signals
        and then begins to read.
        """
        stat = f"/proc/{self.process.pid}/stat"
        wait_until(lambda: read_text(stat).rpartition(") ")[2][:1] == "S")
        self.type("\x03")

    @property
    def raw(self) -> str:
        """Everything that the program has written."""
        return self._heard.decode(errors="replace")

    @property
    def frames(self) -> list[list[str]]:
        """The complete frames, each as lines of text without colours."""
        parts = self.raw.split("\x1b[H")[1:]
        whole = [part.partition(END_FRAME)[0] for part in parts if END_FRAME in part]
        return [re.split("\r*\n", _SEQUENCE.sub("", part)) for part in whole]

    def shows(self, text: str) -> bool:
        """Tell whether the last frame holds a text."""
        frames = self.frames
        return bool(frames) and any(text in line for line in frames[-1])

    def wait_for(self, text: str) -> None:
        """Wait until the last frame holds a text."""
        wait_until(lambda: self.shows(text), lambda: f"{text!r} in {self.frames[-1:]}\n{self.raw}")

    def wait(self) -> int:
        """Wait until the program has ended and all its output was read; return its exit status."""
        status = self.process.wait(DEADLINE_S)
        os.write(self.slave, b"after-the-end")
        wait_until(lambda: b"after-the-end" in self._heard)
        return status

    def is_clean(self) -> bool:
        """Tell whether the terminal is as it was before."""
        raw = self.raw
        screen = raw.rfind(LEAVE) > raw.rfind(ENTER)
        cursor = raw.rfind(SHOW) > raw.rfind(HIDE)
        wrap = raw.rfind("\x1b[?7h") > raw.rfind("\x1b[?7l")
        return screen and cursor and wrap and termios.tcgetattr(self.slave) == self.settings

    def close(self) -> None:
        """End the program and close the terminal."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.write(self.slave, b"end-of-test")  # wakes the reader
        self._reader.join()
        os.close(self._master)
        os.close(self.slave)


def terminal(
    spool: SpoolDir, *words: str, width: int = 80, height: int = 24, **env: str
) -> Terminal:
    """Run queuectl in a terminal until the end of a `with`."""
    return Terminal(spool.command(*words), environment(spool.path, **env), width, height)
