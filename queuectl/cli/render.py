"""How all commands show records, fields and tables."""

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

    from queuectl.spool.layout import Found, Layout

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
    """Print a JSON array, each element as soon as it comes."""
    separator = "["
    for record in records:
        click.echo(f"{separator}\n{json.dumps(record)}", nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def state_text(state: str) -> str:
    """Return a state in its colour (which click drops if the output is not a terminal)."""
    return click.style(state, fg=COLOURS.get(state))


def width() -> int:
    """Return the columns of the terminal; Python 3.10 gives 0 if a terminal does not know."""
    from shutil import get_terminal_size  # 2 ms of start-up that a queued job does not need

    return get_terminal_size().columns or 80


def cell_limit(share: int) -> int:
    """Return how many characters a cell may have that gets one of `share` parts of a line.

    There is no limit if standard output is not a terminal.
    """
    return width() // share if sys.stdout.isatty() else sys.maxsize


def command_text(command: str | list[str], limit: int = sys.maxsize) -> str:
    """Return a command on one line, cut to `limit` characters."""
    return fit_ends(plain(command_line(command)), limit)


def when_text(text: object) -> str:
    """Return a time field in local time and its distance: `2026-01-31 09:00:00+0100 (in 5m00s)`."""
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
    """Return how long ago a time field was, `-` if it holds no time."""
    at = instant(text)
    return "-" if at is None else duration_text(max(0.0, time.time() - at))


class Table:
    """A table of aligned columns.

    The first rows set the widths; later rows are printed as they come. If `cuts_last`, the last
    column is cut to the room that is left on a terminal. It must be plain text then.
    """

    _SAMPLE = 200
    _LEAST = 16  # columns that the last column keeps, even if lines wrap on a narrow terminal

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
        """Print the rows that are left; print nothing at all if there were none."""
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
        for number, cell in enumerate(cells[:-1]):  # a later row may be wider than the sample
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
    """Print a line for a person that is not the result of the command, on standard error."""
    with contextlib.suppress(OSError):  # stderr may be closed: the command goes on
        click.echo(plain(text), err=True)


def remark(text: str) -> None:
    """Explain something to a person at a terminal; cron would mail it every night."""
    if sys.stderr.isatty():
        note(text)


def person_answers() -> bool:
    """Tell whether a person sees a question and can type an answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, default: bool = False) -> bool:
    """Ask a person a question on standard error; return the answer.

    Raises:
        click.Abort: the answer was Ctrl-C or Ctrl-D; the line has been ended.
    """
    try:
        return click.confirm(question, default=default, err=True)
    except click.Abort:
        note("")
        raise


def person_looks() -> bool:
    """Tell whether standard output is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def limit_is_known(spool: Layout, found: Found) -> bool:
    """Tell whether the time limit from a job's record and the settings is the one its run has.

    A pool keeps its earlier settings if config.json is wrong now. A job that runs keeps its earlier
    limit if the setting is lower now.
    """
    if "timeout" in found.job.record:
        return True
    limit_s, begun = spool.config.job_timeout, found.job.instant("started_at")
    if spool.faults or found.state != "processing" or limit_s is None or begun is None:
        return not spool.faults
    return time.time() <= begun + limit_s
