"""What several commands share: opening the spool, reporting failed jobs, types of options."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.groups import STATUS_TELLS
from queuectl.errors import MovedOnError, NoSuchJobError, QueuectlError, TooLateError
from queuectl.ids import first_of
from queuectl.spool.safety import is_open_to_others
from queuectl.spool.spool import Spool
from queuectl.units import parse_duration, parse_number, parse_time_or_clock, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl.spool.layout import Found, Layout

    _FloatType = click.ParamType[float]
else:
    _FloatType = click.ParamType  # generic only in the newest click


def say_faults(spool: Spool) -> None:
    """Print what is wrong in config.json, for a command that goes on without it."""
    for fault in spool.faults:
        render.note(f"queuectl: {fault}; going on without it")


def spool_to_write(ctx: click.Context, *, strict: bool = True) -> Spool:
    """Return the spool, and create it if there is none."""
    spool = spool_to_be(ctx, strict=strict)
    create(spool)
    return spool


def create(spool: Spool) -> None:
    """Create a spool, unless there is one; say so, since its path may be a slip."""
    is_new = not spool.exists()
    spool.create()
    if is_new:
        render.note(f"queuectl: made a new spool: {spool.path}")


def spool_to_be(ctx: click.Context, *, strict: bool = True) -> Spool:
    """Return the spool for a command that creates it later, once its input has been checked."""
    ctx.meta[STATUS_TELLS] = True
    spool = Spool(ctx.find_root().obj, strict=strict)
    spool.tell_of_wait = render.note
    return spool


def spool_to_change(ctx: click.Context, *, dry_run: bool = False) -> Spool:
    """Return the existing spool, for a command that changes it; print the faults of config.json.

    Args:
        ctx: the command's context.
        dry_run: the command only prints what it would do.

    Raises:
        QueuectlError: there is no spool, or we may not change it.
    """
    spool = spool_there(ctx)
    if not dry_run:
        spool.check_trusted()
    ctx.meta[STATUS_TELLS] = True
    return spool


def spool_to_read(ctx: click.Context, *, strict: bool = False) -> Layout:
    """Return what `spool_there` does, as a `Layout`, for a command that changes nothing."""
    return spool_there(ctx, strict=strict)


def spool_there(ctx: click.Context, *, strict: bool = False) -> Spool:
    """Return the existing spool; print what is wrong in its config.json, and go on without it.

    Raises:
        QueuectlError: there is no spool, and this does not create one; or `strict` is true and
            config.json is wrong.
    """
    spool = Spool(ctx.find_root().obj, strict=strict)
    say_faults(spool)
    if not spool.exists():
        msg = f"no spool at {spool.path}: --spool DIR names another, `queuectl enqueue` makes one"
        raise QueuectlError(msg)
    return spool


def remark_on_root(spool: Layout) -> None:
    """Warn a person if root's workers are to serve a spool that other users can write to."""
    pending = spool.directory("pending")
    serves_others = spool.config.shared and os.geteuid() == 0 and os.path.isdir(pending)
    if serves_others and is_open_to_others(os.stat(pending)):
        render.remark(f"whoever may write to {plain(pending)} can run commands as root")


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


class Duration(_FloatType):
    """A duration: a number of seconds, or 90s, 15m, 2h, 7d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, (int, float)):
            return value
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return int(seconds) if seconds == int(seconds) else seconds


class _AsWritten(click.types.IntParamType):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = parse_number(value, int) if isinstance(value, str) else value
        except ValueError:  # for a range, click would complain of an "integer range"
            self.fail(f"{value!r} is not a valid integer.", param, ctx)
        return super().convert(number, param, ctx)


class Integer(_AsWritten):
    """An integer in ASCII digits, without the `_` that Python allows."""


class Count(_AsWritten, click.IntRange):
    """An `Integer` within a range."""


class Time(_FloatType):
    """A time in seconds since the epoch: ISO 8601 (local if it has no zone), 08:00 or `now`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, (int, float)):
            return value
        if value == "now":
            return time.time()
        try:
            return parse_time_or_clock(value, time.time())
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
INTEGER = Integer()
TIME = Time()

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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
