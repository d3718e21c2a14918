"""A line on a person's terminal that tells how far a command is, and goes away again."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from math import inf
from typing import TYPE_CHECKING

import click

from queuectl.cli.columns import fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE_S = 1.0  # what takes no longer shows no progress
_EVERY_S = 0.2
_CLEAR = "\r\x1b[K"


class Progress:
    """A line on standard error that is rewritten in place while a `with` block runs.

    It is not shown if no person would see it, or if it is not `wanted`.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._is_seen = wanted and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._next_s = time.monotonic() + _PATIENCE_S
        self._in_line = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_line()

    @property
    def due_s(self) -> float:
        """When a line that is not shown yet is due (monotonic clock); `inf` if none is."""
        return self._next_s if self._is_seen and not self._in_line else inf

    def tell(self, text: Callable[[], str]) -> None:
        """Show a text in place of the last one, unless that was shown a moment ago."""
        now = time.monotonic()
        if not self._is_seen or now < self._next_s:
            return
        with self._gone():
            terminal = sys.stderr.fileno()
            # from the background, the line would mix with what others type or print there
            if os.tcgetpgrp(terminal) != os.getpgrp():
                self._next_s = now + _PATIENCE_S
                return
            self._next_s = now + _EVERY_S
            columns = os.get_terminal_size(terminal).columns or 80
            self._in_line = True  # set first: Ctrl-C may come as soon as the line is seen
            self._write(_CLEAR + fit(text(), columns - 1, ascii_only=True))

    def end_line(self) -> None:
        """Remove the line, so that the next message begins in its place."""
        if self._in_line:
            with self._gone():
                self._write(_CLEAR)
            self._in_line = False

    def leave(self) -> None:
        """Remove the line for good."""
        self.end_line()
        self._is_seen = False

    @contextlib.contextmanager
    def _gone(self) -> Iterator[None]:
        """Show nothing more once the terminal is gone: the command itself goes on."""
        try:
            yield
        except OSError:
            self._is_seen = self._in_line = False

    def _write(self, text: str) -> None:
        click.echo(text, nl=False, err=True)
