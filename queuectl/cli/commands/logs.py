"""`queuectl logs`."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.completing import complete_ids
from queuectl.cli.following import Printer, Remarks, changes_of, print_new
from queuectl.cli.misses import Misses
from queuectl.cli.naming import is_this_job, last_begun, resolve_id
from queuectl.cli.opening import spool_to_read
from queuectl.cli.params import Count
from queuectl.errors import QueuectlError
from queuectl.spool import joblogs, tailing
from queuectl.spool.filenames import ERR, OUT, STREAMS
from queuectl.states import FINISHED
from queuectl.system import files, moving
from queuectl.units import plain, plural, size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuectl.spool.layout import Found, Layout

_SILENT_S = 1.0  # without output, before a hint that a followed job writes to standard error


@click.command()
@click.argument("texts", metavar="[ID]...", nargs=-1, shell_complete=complete_ids())
@click.option(
    "--follow", "-f", is_flag=True, help="Follow the output, through retries, until all have ended."
)
@click.option("--stderr", "only_stderr", is_flag=True, help="Print standard error instead.")
@click.option("--all", "both", is_flag=True, help="Print both, each piece under a heading.")
@click.option(
    "--run",
    "--attempt",
    "run",
    type=Count(1),
    metavar="N",
    help="Print run N, as `show` counts them, instead of the last.",
)
@click.option("--lines", "-n", type=Count(0), metavar="N", help="Print only the last N lines.")
@click.pass_context
def logs(ctx: click.Context, /, texts: tuple[str, ...], *, follow: bool, **options: Any) -> None:
    """Print what a job printed: the standard output of its last run.

    Runs are numbered as `queuectl show` lists them; a retry by hand goes on counting. With -f, a
    job that has not begun is waited for. Of several jobs, each comes under its id; without ID, it
    is the job that began last.

    \b
    queuectl logs job1
    queuectl logs -f --all
    queuectl logs -f job1 job2
    queuectl logs --stderr --run 1 --lines 20 job1
    """
    if options["only_stderr"] and options["both"]:
        raise click.UsageError("--stderr and --all cannot be combined")
    spool = spool_to_read(ctx)
    misses = Misses()
    if follow:
        _follow(spool, texts or (last_begun(spool),), options, misses)
    elif len(texts) < 2:
        _print_job(spool, resolve_id(spool, texts[0]) if texts else last_begun(spool), options)
    else:
        _print_each(spool, texts, options, misses)
    misses.exit()


def _print_each(
    spool: Layout, texts: Sequence[str], options: dict[str, Any], misses: Misses
) -> None:
    gap = ""
    for text in texts:
        with misses.noted():
            job_id = resolve_id(spool, text)
            click.echo(f"{gap}==> {plain(job_id)} <==")
            gap = "\n"
            _print_job(spool, job_id, options)


def _print_job(spool: Layout, job_id: str, options: dict[str, Any]) -> None:
    found = spool.find(job_id)
    _check_not_fed_to_itself(spool, found, options, follow=False)
    _print_run(spool, found, options)


def _streams(options: dict[str, Any]) -> Sequence[str]:
    if options["both"]:
        return STREAMS
    return (ERR if options["only_stderr"] else OUT,)


def _check_not_fed_to_itself(
    spool: Layout, found: Found, options: dict[str, Any], *, follow: bool
) -> None:
    """Refuse to print the output of a job into that same output, which would have no end."""
    number = options["run"] or joblogs.last_run(found)
    paths = [joblogs.log_file(spool, found.job, number, stream) for stream in _streams(options)]
    with contextlib.suppress(OSError):  # standard output is closed
        ours = os.fstat(sys.stdout.fileno())
        is_pipe = stat.S_ISFIFO(ours.st_mode) or stat.S_ISSOCK(ours.st_mode)
        if follow and is_pipe and joblogs.current_run(found) and is_this_job(spool, found.job.id):
            msg = f'this is a command of "{found.job.id}": what it follows might be its own output'
            raise QueuectlError(msg)
        if any(moving.is_there(path) and os.path.samestat(ours, os.lstat(path)) for path in paths):
            raise QueuectlError(f'standard output is the output of "{found.job.id}" itself')


def _follow(spool: Layout, texts: Sequence[str], options: dict[str, Any], misses: Misses) -> None:
    """Print what jobs print until all have ended.

    Jobs that are gone, or cannot be followed, are reported.
    """
    jobs = _to_follow(spool, texts, options, misses)
    printer = Printer(names_jobs=len(jobs) > 1, names_streams=options["both"])
    followers = [_follower(spool, found, options) for found in jobs]

    def missed(job_id: str, error: QueuectlError) -> None:
        printer.end_line()
        misses(job_id, error)

    for follower in followers if printer.names_jobs else ():
        follower.missed = partial(missed, follower.job_id)
    remarks = Remarks(spool, printer)
    if followers:
        _print_until_ended(spool, followers, options, printer, remarks)
    for follower in followers:
        with misses.noted():
            _tell_of_end(spool, follower, options, printer, remarks)


def _to_follow(
    spool: Layout, texts: Sequence[str], options: dict[str, Any], misses: Misses
) -> list[Found]:
    jobs: dict[str, Found] = {}
    for text in texts:
        with misses.noted():
            found = spool.find(resolve_id(spool, text))
            _check_not_fed_to_itself(spool, found, options, follow=True)
            if found.state in FINISHED:
                _run_number(spool, found, options["run"])
            jobs[found.job.id] = found
    return list(jobs.values())


def _follower(spool: Layout, found: Found, options: dict[str, Any]) -> tailing.Follower:
    return tailing.Follower(
        spool,
        found.job.id,
        _streams(options),
        first_run=options["run"] or joblogs.last_run(found) or 1,
        lines=options["lines"],
    )


def _print_until_ended(
    spool: Layout,
    followers: Sequence[tailing.Follower],
    options: dict[str, Any],
    printer: Printer,
    remarks: Remarks,
) -> None:
    unhinted = [] if options["both"] or options["only_stderr"] else list(followers)
    hint_at_s = time.monotonic() + _SILENT_S
    with changes_of(spool, [follower.job_id for follower in followers]) as changes:
        while not print_new(followers, changes, printer):
            remarks.of_runs(followers)
            remarks.of_hindrances(lambda: [item.job_id for item in followers if not item.over])
            if time.monotonic() > hint_at_s:
                unhinted = [item for item in unhinted if not _hint_at_stderr(spool, item, printer)]
                hint_at_s = time.monotonic() + _SILENT_S if unhinted else inf
            changes.wait(hint_at_s)
    remarks.of_runs(followers)


def _hint_at_stderr(spool: Layout, follower: tailing.Follower, printer: Printer) -> bool:
    """Print a hint if all output so far is on standard error; tell whether none is due any more."""
    if follower.over or follower.job_id in printer.printed:
        return True
    found = follower.found
    number = None if found is None else joblogs.current_run(found)
    if found is None or number is None:
        return False
    size = files.size(joblogs.log_file(spool, found.job, number, ERR))
    if size:
        what = f"nothing on standard output so far; {size_text(size)} on standard error"
        _note_of(found, f"{what} (--stderr or --all prints it)", printer)
    return size > 0


def _tell_of_end(
    spool: Layout,
    follower: tailing.Follower,
    options: dict[str, Any],
    printer: Printer,
    remarks: Remarks,
) -> None:
    found = follower.found
    if found is None:
        printer.end_line()
        raise QueuectlError(f"{follower.job_id} is gone: somebody deleted it")
    number = _run_number(spool, found, options["run"])
    said = _remark_on_the_rest(spool, found, number, options, printer)
    if not found.job.error or found.job.error not in said:
        remarks.of_end(found.job.id, found)


def _note_of(found: Found, text: str, printer: Printer) -> None:
    """Print a note on a job, on a line of its own; with the id, if there are several jobs."""
    printer.end_line()
    render.note(f"{found.job.id}: {text}" if printer.names_jobs else text)


def _print_run(spool: Layout, found: Found, options: dict[str, Any]) -> None:
    number = _run_number(spool, found, options["run"])
    paths = {
        stream: joblogs.log_file(spool, found.job, number, stream) for stream in _streams(options)
    }
    if not any(map(moving.is_there, paths.values())):
        msg = f'the output of run {number} of "{found.job.id}" is not in {spool.directory("logs")}'
        raise QueuectlError(msg)
    printer = Printer(names_streams=options["both"])
    for stream, path in paths.items():
        output = tailing.Output(path, spool.config.log_max_size)
        if options["lines"] is not None:
            output.start_at_last(options["lines"])
        for data in output.read():
            printer(found.job.id, stream, data)
        output.close()
    _remark_on_the_rest(spool, found, number, options, printer)


def _remark_on_the_rest(
    spool: Layout, found: Found, number: int, options: dict[str, Any], printer: Printer
) -> str:
    """Print a note on other output if the user may be looking for it; return its text."""
    text = ""
    if options["lines"] == 0:
        return text
    if found.job.id not in printer.printed:
        text = _nothing(spool, found, number, options)
    elif not options["both"] and not options["only_stderr"] and _wants_to_know(found):
        path = joblogs.log_file(spool, found.job, number, ERR)
        if size := files.size(path):
            text = f"also {size_text(size)} on standard error (--stderr or --all prints it)"
    if text:
        _note_of(found, text, printer)
    return text


def _wants_to_know(found: Found) -> bool:
    """Tell whether the user may want more than was printed: a script does not if all went well."""
    return found.state != "completed" or sys.stderr.isatty()


def _has_failed(found: Found, number: int) -> bool:
    """Tell whether run `number` is the last one of a job, and ended with an error."""
    ended = joblogs.current_run(found) is None and number == joblogs.last_run(found)
    return ended and found.job.error != ""


def _nothing(spool: Layout, found: Found, number: int, options: dict[str, Any]) -> str:
    """Return what to say if nothing was printed; the other stream may have something."""
    if number == joblogs.current_run(found):
        nothing = f"run {number} has printed nothing yet"
    else:
        nothing = f"run {number} printed nothing"
    if _has_failed(found, number):
        nothing += f": {found.job.error}"
    if options["both"]:
        return nothing
    other = OUT if options["only_stderr"] else ERR
    count = files.size(joblogs.log_file(spool, found.job, number, other))
    if not count:
        return nothing
    size = size_text(count)
    if options["only_stderr"]:
        return f"nothing on standard error; {size} on standard output (printed without --stderr)"
    return f"nothing on standard output; {size} on standard error (--stderr prints it)"


def _run_number(spool: Layout, found: Found, wanted: int | None) -> int:
    """Return the number of the run that was asked for: the `wanted` one, or the last.

    Raises:
        QueuectlError: the job has had no such run.
    """
    last, state = joblogs.last_run(found), found.state
    if joblogs.current_run(found) is not None and not spool.has_begun(found.job):
        last, state = last - 1, "claimed"
    if not last and found.job.is_reason:
        job_id = found.job.id
        msg = f'"{job_id}" was set aside and never ran; `queuectl doctor {job_id}` says why'
        raise QueuectlError(msg)
    if not last and found.state in FINISHED:
        why = plain(found.job.error or found.state)
        raise QueuectlError(f'job "{found.job.id}" never ran: {why}')
    if not last:
        msg = f'job "{found.job.id}" is {state} and has not run yet; -f waits for it'
        raise QueuectlError(msg)
    if wanted is not None and wanted > last:
        msg = f'job "{found.job.id}" has had {last} {plural("run", last)}, not {wanted}'
        raise QueuectlError(msg)
    return wanted or last
