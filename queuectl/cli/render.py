"""How records, fields and tables are shown by every command."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli.columns import columns, fit_ends
from queuectl.record.job import command_line
from queuectl.units import duration_text, instant, local_text, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COLOURS = {
    "pending": "yellow",
    "processing": "cyan",
    "completed": "green",
    "failed": "magenta",
    "dead": "red",
}


def ascii_only() -> bool:
    """Tell whether standard output takes no more than ASCII."""
    return "utf" not in (sys.stdout.encoding or "").lower()


def json_document(value: Any) -> None:
    """Print one JSON value."""
    click.echo(json.dumps(value, indent=2))


def json_array(records: Iterable[Any]) -> None:
    """Print a JSON array, each element as soon as it is there."""
    separator = "["
    for record in records:
        click.echo(f"{separator}\n{json.dumps(record)}", nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def state_text(state: str) -> str:
    """Return a state in its colour (which click drops where nobody sees it)."""
    return click.style(state, fg=COLOURS.get(state))


def width() -> int:
    """Return the columns of the terminal; Python 3.10 says 0 where a terminal does not know."""
    from shutil import get_terminal_size  # 2 ms of start-up that a queued job does not need

    return get_terminal_size().columns or 80


def cell_limit(share: int) -> int:
    """Return how many characters a cell may have that is to take one of `share` parts of a line.

    All it has, where a program reads and not a person.
    """
    return width() // share if sys.stdout.isatty() else sys.maxsize


def command_text(command: str | list[str], limit: int = sys.maxsize) -> str:
    """Return a command on one line, cut to `limit` characters."""
    return fit_ends(plain(command_line(command)), limit)


def when_text(text: object) -> str:
    """Return a time field in local time and how far away: `2026-01-31 09:00:00+0100 (in 5m)`."""
    at = instant(text)
    if at is None:
        return "-" if text is None else plain(str(text))
    away = at - time.time()
    far = duration_text(abs(away))
    return f"{local_text(at)} ({f'in {far}' if away > 0 else f'{far} ago'})"


def in_text(at: float | None) -> str:
    """Return how far away an instant is: `in 5m00s`, `now`."""
    away = 0.0 if at is None else at - time.time()
    return f"in {duration_text(away)}" if away > 0 else "now"


def since_text(text: object) -> str:
    """Return how long ago a time field was, `-` where it holds no time."""
    at = instant(text)
    return "-" if at is None else duration_text(max(0.0, time.time() - at))


class Table:
    """Aligned columns, printed as they come once the first rows have set the widths.

    If `cuts_last`, the last column has what room a terminal leaves it; it must be plain text.
    """

    _SAMPLE = 200
    _LEAST = 16  # columns of a last column that is cut: on a narrow terminal, lines wrap

    def __init__(self, *headings: str, cuts_last: bool = False) -> None:
        self._headings = headings
        self._cuts_last = cuts_last and sys.stdout.isatty()
        self._rows: list[Sequence[str]] = []
        self._widths: list[int] | None = None

    def row(self, *cells: str) -> None:
        """Add a row."""
        if self._widths is not None:
            self._print(cells)
            return
        self._rows.append(cells)
        if len(self._rows) >= self._SAMPLE:
            self._begin()

    def end(self) -> None:
        """Print what is left; nothing at all if there were no rows."""
        if self._widths is None and self._rows:
            self._begin()

    def _begin(self) -> None:
        rows = [self._headings, *self._rows]
        self._widths = [max(map(_width, cells)) for cells in zip(*rows, strict=True)]
        self._print([click.style(heading, bold=True) for heading in self._headings])
        for row in self._rows:
            self._print(row)

    def _print(self, cells: Sequence[str]) -> None:
        assert self._widths is not None
        for number, cell in enumerate(cells[:-1]):  # one after the sample may be the widest so far
            self._widths[number] = max(self._widths[number], _width(cell))
        if self._cuts_last:
            taken = sum(self._widths[:-1]) + 2 * len(self._widths[:-1])
            room = max(width() - taken, self._LEAST)
            cells = [*cells[:-1], fit_ends(cells[-1], room)]
        padded = [
            cell + " " * (width - _width(cell))
            for cell, width in zip(cells, self._widths, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def _width(cell: str) -> int:
    return columns(click.unstyle(cell))


def note(text: str) -> None:
    """Tell a person in a line something that is not the answer: on standard error."""
    with contextlib.suppress(OSError):  # nobody reads it, and what was asked for goes on
        click.echo(plain(text), err=True)


def remark(text: str) -> None:
    """Tell what a person would else wonder at, where one reads; cron would mail it each night."""
    if sys.stderr.isatty():
        note(text)


def person_answers() -> bool:
    """Whether somebody sees a question and can type."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, default: bool = False) -> bool:
    """Ask a person on standard error; return the answer.

    Raises:
        click.Abort: it was Ctrl-C or Ctrl-D; what is said next begins a line.
    """
    try:
        return click.confirm(question, default=default, err=True)
    except click.Abort:
        note("")
        raise


def person_looks() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
