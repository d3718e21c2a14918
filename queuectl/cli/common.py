"""What several commands share: opening the spool, naming a job, values of options."""

from __future__ import annotations

import heapq
import os
import sys
import time
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import STATUS_TELLS, render
from queuectl.errors import NoSuchJobError, QueuectlError
from queuectl.ids import first_of, is_id, is_made
from queuectl.spool import Spool
from queuectl.states import OUTCOMES, STATES
from queuectl.units import parse_duration, parse_time, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuectl.layout import Found, Layout

    _FloatType = click.ParamType[float]
else:
    _FloatType = click.ParamType  # generic only in the newest click


def say_faults(spool: Spool) -> None:
    """Say what is wrong in config.json, for a command that does not depend on it."""
    for fault in spool.faults:
        render.note(f"queuectl: {plain(str(fault))}; going on without it")


def spool_to_write(ctx: click.Context, *, strict: bool = True) -> Spool:
    """Return the spool, made if there is none."""
    spool = spool_to_be(ctx, strict=strict)
    spool.create()
    return spool


def spool_to_be(ctx: click.Context, *, strict: bool = True) -> Spool:
    """Return the spool for a command that makes it, but not before all that was asked is right."""
    ctx.meta[STATUS_TELLS] = True
    return Spool(ctx.find_root().obj, strict=strict)


def spool_to_change(ctx: click.Context, *, writes: bool = True, dry_run: bool = False) -> Spool:
    """Return the spool that is there; what is wrong in its config.json is said.

    Args:
        ctx: of the command.
        writes: it puts job files there: then all directories of the spool are there.
        dry_run: it only says what it would do.

    Raises:
        QueuectlError: there is none, or we may not change it.
    """
    spool = spool_there(ctx)
    if not dry_run:
        spool.refuse_root()
    if writes and not dry_run:
        spool.create()  # a directory of it may be gone
    ctx.meta[STATUS_TELLS] = True
    return spool


def spool_to_read(ctx: click.Context, *, strict: bool = False) -> Layout:
    """Do what `spool_there` does, for a command that changes nothing."""
    return spool_there(ctx, strict=strict)


def spool_there(ctx: click.Context, *, strict: bool = False) -> Spool:
    """Return the spool that is there; what is wrong in its config.json is said, and no hindrance.

    Raises:
        QueuectlError: there is none; looking does not make one.
    """
    spool = Spool(ctx.find_root().obj, strict=strict)
    say_faults(spool)
    if not spool.exists():
        msg = f"no spool at {spool.path}: `queuectl enqueue` makes one, --spool DIR names another"
        raise QueuectlError(msg)
    return spool


def resolve_id(spool: Layout, text: str, states: Sequence[str] = STATES) -> str:
    """Return the id that `text` is, or the only one that begins so: which, is said.

    Raises:
        NoSuchJobError: no job is, or several are.
    """
    return _said(text, _only_one(spool, text, states))


def _newest_that_ran(spool: Layout, state: str, looked_at: int = sys.maxsize) -> list[Found]:
    """Return the jobs of a state that were written last, of those looked at that ever ran."""
    newest = heapq.nlargest(looked_at, spool.written(state), key=itemgetter(1))
    found = spool.jobs(state, [job_id for job_id, _ in newest])
    return list(islice((item for item in found if item.job.run_number), _NEWEST))


_NEWEST = 100  # jobs, of which that which began last may have been written a while ago


def last_begun(spool: Layout) -> str:
    """Return the id of the job whose command began last, as far as can be told: which, is said.

    Raises:
        NoSuchJobError: none has begun.
    """
    begun = list(spool.running())
    for state in OUTCOMES:
        begun += _newest_that_ran(spool, state, _NEWEST) or _newest_that_ran(spool, state)
    times = ((found.job.instant("started_at") or 0.0, found.job.id) for found in begun)
    _, job_id = max(times, default=(0.0, ""))
    if not job_id:
        raise NoSuchJobError("no job has begun yet; `queuectl list` shows what there is")
    render.note(f'queuectl: the last that began is "{job_id}"')
    return job_id


def _said(text: str, job_id: str) -> str:
    if job_id != text:
        render.note(f'queuectl: "{text}" is the beginning of "{job_id}"')
    return job_id


def _only_one(spool: Layout, text: str, states: Sequence[str]) -> str:
    try:
        spool.locate(text)
    except NoSuchJobError:
        found = {name for state in states for name in spool.names(state) if name.startswith(text)}
        if not text or not is_id(text) or not found:
            raise
        if len(found) > 1:
            few = first_of(sorted(found))
            msg = f'"{text}" is the beginning of {len(found)} ids ({few}); give more of it'
            raise NoSuchJobError(msg) from None
        return found.pop()
    return text


def id_to_change(spool: Layout, text: str, states: Sequence[str] = STATES) -> str:
    """Do what `resolve_id` does, but take only ids that were made by us by their beginning.

    One that a person has given is whole: once job1 is gone, it would be job10 that is changed.

    Raises:
        NoSuchJobError: no job is, or several are.
    """
    job_id = _only_one(spool, text, states)
    if job_id != text and not is_made(job_id):
        msg = f'no job "{text}"; did you mean "{job_id}"?'
        raise NoSuchJobError(msg)
    return _said(text, job_id)


def is_this_job(spool: Layout, job_id: str) -> bool:
    """Tell whether we are a command of that job, or something that one left behind."""
    ours = os.environ.get("QUEUECTL_JOB_ID"), os.environ.get("QUEUECTL_SPOOL")
    return ours == (job_id, spool.path)


class Misses:
    """Says, job by job, what could not be done, and remembers that something could not."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _job_id: str, error: Exception) -> None:
        """Tell one."""
        self.count += 1
        render.note(f"queuectl: {error}")

    def exit(self) -> None:
        """Leave with status 1 if there was one."""
        if self.count:
            click.get_current_context().exit(1)


class Duration(_FloatType):
    """Seconds, or 90s, 15m, 2h, 7d."""

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


def _next(text: str) -> float:
    """Return when it is this time of day next; of another text what `parse_time` makes of it.

    Raises:
        ValueError: it is no time.
    """
    from datetime import datetime, timedelta

    now = datetime.now().astimezone()
    try:
        at = datetime.strptime(text.strip(), "%H:%M")  # noqa: DTZ007 - only its hour and minute count
    except ValueError:
        return parse_time(text, local=True)
    today = now.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0, tzinfo=None)
    later = today if today.timestamp() > now.timestamp() else today + timedelta(days=1)
    return later.timestamp()


class Time(_FloatType):
    """ISO 8601, local where it names no zone, 08:00 or `now`; seconds since the epoch."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, (int, float)):
            return value
        if value == "now":
            return time.time()
        try:
            return _next(value)
        except ValueError as error:
            self.fail(f"{error}, or 08:00 for the next time that it is that", param, ctx)


DURATION = Duration()
TIME = Time()

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
