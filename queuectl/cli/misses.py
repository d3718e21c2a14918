"""Reporting the jobs for which a command failed, while it goes on with the others."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from queuectl.cli import render
from queuectl.errors import MovedOnError, NoSuchJobError, QueuectlError, TooLateError
from queuectl.ids import first_of
from queuectl.units import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOVED_ON = (MovedOnError, NoSuchJobError, TooLateError)


class Misses:
    """Reports each job for which a command failed, and remembers that there was a failure.

    If jobs were selected rather than named, those that somebody else moved or deleted first are no
    failures. They are counted and reported together at the end.
    """

    def __init__(self, *, named: bool = True) -> None:
        self.count = 0
        self._named = named
        self._moved_on: list[str] = []

    def __call__(self, job_id: str, error: Exception) -> None:
        """Report one job."""
        if not self._named and isinstance(error, _MOVED_ON):
            self._moved_on.append(job_id)
            return
        self.count += 1
        render.note(f"queuectl: {error}")

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Report a failure in the `with` block and go on, so that the other jobs are still done."""
        try:
            yield
        except QueuectlError as error:
            self("", error)

    def exit(self) -> None:
        """Report the jobs that had moved on; exit with status 1 if there was a failure."""
        if self._moved_on:
            few = plain(first_of(self._moved_on))
            render.note(f"left out {len(self._moved_on)} that were gone or in another state: {few}")
        if self.count:
            click.get_current_context().exit(1)
