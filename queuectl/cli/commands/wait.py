"""`queuectl wait` and `queuectl run`; `enqueue --wait` calls `follow`."""

from __future__ import annotations

import shlex
import time
from math import ceil, inf
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.completing import complete_files, complete_ids
from queuectl.cli.following import Printer, Remarks, changes_of, print_new
from queuectl.cli.interrupts import heeded
from queuectl.cli.job_input import check_ids, draft, sources
from queuectl.cli.job_options import (
    CommandAfterDashes,
    current_directory,
    given_fields,
    job_options,
    overlaid,
)
from queuectl.cli.matching import Selection
from queuectl.cli.naming import is_this_job
from queuectl.cli.opening import create, spool_to_be, spool_to_read
from queuectl.cli.params import DURATION
from queuectl.cli.progress import Progress
from queuectl.cli.selection import all_option, chosen, select_options
from queuectl.cli.streams import STATUS_TELLS, OutputError
from queuectl.errors import QueuectlError
from queuectl.ids import first_of
from queuectl.jobs.verbs import CANCELLABLE
from queuectl.jobs.waiting import Endings
from queuectl.spool.tailing import Follower
from queuectl.units import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queuectl.cli.job_input import Drafted
    from queuectl.spool.layout import Found, Layout
    from queuectl.spool.spool import Spool
    from queuectl.system.changes import Changes

_TIMED_OUT, _INTERRUPTED = 124, 130
_NAMED = 3  # jobs that a hint names at most


@click.command()
@click.argument("texts", metavar="[ID]...", nargs=-1, shell_complete=complete_ids())
@select_options(*CANCELLABLE)
@all_option
@click.option("--any", "any_one", is_flag=True, help="Return once any of the jobs has ended.")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="Give up after this long.")
@click.pass_context
def wait(
    ctx: click.Context,
    /,
    texts: tuple[str, ...],
    *,
    any_one: bool,
    timeout: float | None,
    **options: Any,
) -> None:
    """Wait until jobs have ended; print the id of each as it does.

    Jobs that have ended already count too. But --all, and --any with a selection, take only jobs
    that have not ended. What is queued later is not waited for, even if it would be selected.

    A job that will be retried has not ended. Exit status: 0 if all completed, or none was selected;
    124 if --timeout passed first; else that of the first job (in the order given) that did not
    complete: the exit status of its last run, 128 + N if signal N ended it (143 for its own
    timeout), or 1 if there is no such number: it was cancelled, set aside or deleted, could not
    start, or its worker died.

    \b
    queuectl wait job1 job2 && echo both are done
    queuectl wait --any --timeout 10m job1 job2
    queuectl wait --tag nightly --newer-than 12h
    """
    spool = spool_to_read(ctx)
    ctx.meta[STATUS_TELLS] = True
    # Jobs that are selected by more than states count even if they have ended. Otherwise timing
    # would decide whether a failure is seen.
    selection = Selection.of(options)
    if any_one or not selection.narrow:
        selection = Selection.of(options, CANCELLABLE)
    job_ids = _but_ourselves(spool, chosen(spool, texts, selection), named=bool(texts))
    if not job_ids:
        of_all = options["everything"] and not (selection.narrow or options["states"])
        render.note("nothing waits or runs" if of_all else "no jobs match")
    endings = Endings(spool, job_ids, any_one=any_one)

    if not _wait(spool, endings, click.echo, timeout_s=timeout):
        left = endings.remaining
        jobs = "1 job has" if len(left) == 1 else f"{len(left)} jobs have"
        render.note(f"queuectl: timed out: {jobs} not ended: {first_of(left)}")
        ctx.exit(_TIMED_OUT)
    ctx.exit(endings.status())


def _but_ourselves(spool: Layout, job_ids: list[str], *, named: bool) -> list[str]:
    """Return the ids without that of the job in which we run: it would wait for itself for ever.

    Raises:
        click.UsageError: that job was named.
    """
    others = [job_id for job_id in job_ids if not is_this_job(spool, job_id)]
    if named and others != job_ids:
        raise click.UsageError("this job would wait for itself")
    return others


@click.command(cls=CommandAfterDashes, context_settings={"allow_interspersed_args": False})
@job_options
@click.argument("words", metavar="JSON | [--] COMMAND", nargs=-1, shell_complete=complete_files)
@click.pass_context
def run(ctx: click.Context, /, words: tuple[str, ...], **options: Any) -> None:
    """Queue a job, wait for it, and show what it prints as it comes.

    Takes one job, as `queuectl enqueue` does. The command reads nothing: its standard input is
    /dev/null. The exit status is the job's, as in `queuectl wait`. Ctrl-C and SIGTERM leave the job
    queued, or running, and how to cancel it is printed; --id gives it a name that you know.

    \b
    queuectl run --timeout 1h -- make -j4
    queuectl run --max-retries 1 --command 'make && make install'
    """
    spool = spool_to_be(ctx)
    _, job, named = _one_job(ctx, spool, words, options)
    create(spool)
    with heeded():
        for _ in spool.submit_all([job], given=[job.id] if named else ()):
            pass
        render.remark(f"queued {job.id}")
        status = follow(spool, [job.id], show_output=True)
    ctx.exit(status)


def _one_job(
    ctx: click.Context, spool: Spool, words: tuple[str, ...], options: dict[str, Any]
) -> Drafted:
    given = given_fields(options)
    found = list(sources(words, given, dashes=ctx.meta["dashes"]))
    if len(found) != 1:
        msg = f"run takes one job, not {len(found)}; `queuectl enqueue --wait` takes many"
        raise click.UsageError(msg)
    where, fields = found[0]
    drafted = draft(spool, where, overlaid(fields, given, current_directory))
    check_ids(spool, [drafted])
    return drafted


def follow(
    spool: Layout, job_ids: Sequence[str], *, tags: Sequence[str] = (), show_output: bool = False
) -> int:
    """Wait until jobs that were just queued have ended; return the exit status.

    If `show_output`, print what they print. An interrupt ends the wait with a note that the jobs
    stay queued. `tags` are the tags that all of them have.
    """
    endings = Endings(spool, job_ids)
    printer = Printer(apart=True) if show_output else None
    try:
        with heeded():
            _wait(spool, endings, printer=printer)
    except OutputError as error:
        left = endings.remaining
        how_they_are = _goes_on(left) if left else f"{first_of(job_ids)} ended"
        raise QueuectlError(f"{error}; {how_they_are}") from None
    except KeyboardInterrupt:
        if printer is not None:
            printer.end_line()
        left = endings.remaining
        if left:
            _tell_of_interrupt(left, tags, show_output=show_output)
        elif show_output:  # the reader of our output was slower than the job
            ids = " ".join(job_ids)
            render.note(f"queuectl: {ids} ended; `queuectl logs --all {ids}` has what it printed")
        return _INTERRUPTED
    is_whole = printer is None or printer.is_whole
    return endings.status() or (0 if is_whole else 1)


def _tell_of_interrupt(left: Sequence[str], tags: Sequence[str], *, show_output: bool) -> None:
    """Tell that jobs go on without being waited for, and how to wait for them or cancel them."""
    ids, which = " ".join(left), "it" if len(left) == 1 else "them"
    if len(left) > _NAMED:
        ids = f"--tag {shlex.quote(tags[0])}" if tags else "ID..."
        which = "all that have that tag" if tags else which  # earlier jobs may have it too
    again = "logs -f --all" if show_output else "wait"
    render.note(
        f"queuectl: {_goes_on(left)}; `queuectl {again} {ids}` waits again,"
        f" `queuectl cancel {ids}` ends {which}"
    )


def _goes_on(left: Sequence[str]) -> str:
    stays = "stays queued, or running" if len(left) == 1 else "stay queued, or running"
    return f"{first_of(left)} {stays}"


def _wait(
    spool: Layout,
    endings: Endings,
    tell: Callable[[str], None] = lambda _job_id: None,
    *,
    printer: Printer | None = None,
    timeout_s: float | None = None,
) -> bool:
    """Wait for jobs; return True once they have ended, False once `timeout_s` has passed."""
    deadline_s = inf if timeout_s is None else time.monotonic() + timeout_s
    job_ids = endings.remaining
    told_of_changes = changes_of(spool, job_ids) if printer else endings.changes()
    of_many = len(job_ids) > 1 and not endings.any_one
    with told_of_changes as changes, Progress(wanted=of_many) as progress:
        names: list[str] = []
        remarks = Remarks(spool, printer or progress)
        followers = [Follower(spool, job_id, first_run=1) for job_id in job_ids if printer]
        for follower in followers:
            follower.missed = remarks.of_unshown
        pace = _Pace(endings)
        while True:
            new: Iterable[tuple[str, Found | None]] = endings.look(names)
            if printer:
                new = list(new)  # before printing: all output of a job that has ended is there
                print_new(followers, changes, printer)
            remarks.of_runs(followers)
            for job_id, found in new:
                progress.end_line()
                tell(job_id)
                remarks.of_end(job_id, found)
            if endings.complete:
                return True
            remarks.of_hindrances(lambda: endings.remaining, any_one=endings.any_one)
            if time.monotonic() >= deadline_s:
                return False
            names = _wait_for_names(changes, deadline_s, progress, pace)


def _wait_for_names(
    changes: Changes, deadline_s: float, progress: Progress, pace: _Pace
) -> list[str]:
    """Return what `changes.wait` does, and show the progress meanwhile."""
    while True:
        progress.tell(pace.text)
        names = changes.wait(min(deadline_s, progress.due_s))
        # if only the progress was due, do not look at all that remain: there may be thousands
        if names or not progress.due_s <= time.monotonic() < deadline_s:
            return names


class _Pace:
    """Tells how many of many jobs have ended, and how long the others will take at this pace."""

    def __init__(self, endings: Endings) -> None:
        self._endings = endings
        self._first: tuple[float, int] | None = None  # time and ended jobs at the first call

    def text(self) -> str:
        """Return the progress for a person: `17 of 30 ended, 1 not completed, about 12s left`."""
        endings, now = self._endings, time.monotonic()
        ended, left = len(endings.statuses), len(endings.remaining)
        parts = [f"{ended:,} of {ended + left:,} ended"]
        if endings.failures:
            parts.append(f"{endings.failures:,} not completed")
        self._first = self._first or (now, ended)
        first_s, before = self._first
        if ended > before:
            left_s = ceil((now - first_s) / (ended - before) * left)
            parts.append(f"about {f'{left_s}s' if left_s < 60 else duration_text(left_s)} left")
        return ", ".join(parts)
