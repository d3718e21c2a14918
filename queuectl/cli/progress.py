"""One line on a person's terminal that tells how far a command is, and goes away again."""

from __future__ import annotations

import os
import sys
import time
from math import inf
from typing import TYPE_CHECKING

import click

from queuectl.cli.columns import fit

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_S = 1.0  # what takes no longer tells nothing
_EVERY_S = 0.2
_CLEAR = "\r\x1b[K"


class Progress:
    """A line on standard error that is rewritten in place, for as long as a `with` lasts.

    There is none where no person sees it, or if it is not `wanted`.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._is_seen = wanted and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._next_s = time.monotonic() + _PATIENCE_S
        self._in_line = self._has_told = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_line()

    @property
    def begins_s(self) -> float:
        """When the first text is to be told (monotonic clock); never, once it has been."""
        return self._next_s if self._is_seen and not self._has_told else inf

    def tell(self, text: Callable[[], str]) -> None:
        """Show a text instead of the last one, unless that was a moment ago."""
        now = time.monotonic()
        if self._is_seen and now >= self._next_s:
            self._next_s = now + _EVERY_S
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            self._write(_CLEAR + fit(text(), columns - 1, ascii_only=True))
            self._in_line = self._has_told = True

    def end_line(self) -> None:
        """Take the line away: what is said next begins where it stood."""
        if self._in_line:
            self._write(_CLEAR)
            self._in_line = False

    def _write(self, text: str) -> None:
        click.echo(text, nl=False, err=True)
