"""`queuectl logs`."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from queuectl import joblogs, owners
from queuectl.cli import render
from queuectl.cli.common import resolve_id, spool_to_read
from queuectl.cli.completing import complete_ids
from queuectl.cli.selection import Misses
from queuectl.errors import QueuectlError
from queuectl.files import is_there
from queuectl.outcome import ended_text
from queuectl.states import FINISHED
from queuectl.units import plain, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuectl.changes import Changes
    from queuectl.joblogs import Follower
    from queuectl.layout import Found
    from queuectl.spool import Spool

_TITLES = {joblogs.OUT: b"stdout", joblogs.ERR: b"stderr"}


@click.command()
@click.argument("texts", metavar="ID...", nargs=-1, required=True, shell_complete=complete_ids())
@click.option("--follow", "-f", is_flag=True, help="Go on, through its retries, until it ends.")
@click.option("--stderr", "only_stderr", is_flag=True, help="Its standard error instead.")
@click.option("--all", "both", is_flag=True, help="Both, each piece under a heading.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Run N instead of the last.")
@click.option("--lines", "-n", type=click.IntRange(0), metavar="N", help="Only the last N lines.")
@click.pass_context
def logs(ctx: click.Context, /, texts: tuple[str, ...], *, follow: bool, **options: Any) -> None:
    """Print what a job printed: its last run, on standard output.

    Runs are numbered as `queuectl show` lists them, on over retries by hand. With -f a job that
    has not begun is waited for. Of several jobs each comes under its id.

    \b
    queuectl logs job1
    queuectl logs -f --all job1
    queuectl logs --stderr --attempt 1 --lines 20 job1
    """
    if options["only_stderr"] and options["both"]:
        raise click.UsageError("--stderr and --all exclude one another")
    if follow and len(texts) > 1:
        raise click.UsageError("-f follows one job")
    spool = spool_to_read(ctx)
    if len(texts) == 1:
        _print_job(spool, texts[0], options, follow=follow)
        return
    misses = Misses()
    for number, text in enumerate(texts):
        click.echo(f"{chr(10) if number else ''}==> {plain(text)} <==")
        try:
            _print_job(spool, text, options)
        except QueuectlError as error:
            misses(text, error)
    misses.exit()


def _print_job(spool: Spool, text: str, options: dict[str, Any], *, follow: bool = False) -> None:
    found = spool.find(resolve_id(spool, text))
    _check_not_fed_to_itself(spool, found, options)
    (_follow if follow else _print_run)(spool, found, options)


def _streams(options: dict[str, Any]) -> Sequence[str]:
    if options["both"]:
        return joblogs.STREAMS
    return (joblogs.ERR if options["only_stderr"] else joblogs.OUT,)


def _check_not_fed_to_itself(spool: Spool, found: Found, options: dict[str, Any]) -> None:
    """Refuse to print output into the same output, in the job itself: there would be no end."""
    paths = [
        joblogs.log_file(spool, found.job, joblogs.last_run(found), stream)
        for stream in _streams(options)
    ]
    with contextlib.suppress(OSError):  # standard output is closed
        ours = os.fstat(sys.stdout.fileno())
        if any(is_there(path) and os.path.samestat(ours, os.lstat(path)) for path in paths):
            msg = f'standard output is the output of "{found.job.id}" itself'
            raise QueuectlError(msg)


def _follow(spool: Spool, found: Found, options: dict[str, Any]) -> None:
    if found.state in FINISHED:
        _run(found, options["attempt"])
    follower = joblogs.Follower(
        spool,
        found.job.id,
        _streams(options),
        first_run=options["attempt"] or joblogs.last_run(found) or 1,
        lines=options["lines"],
    )
    printer = Printer(headings=options["both"])
    remarks = Remarks(spool, printer)
    with changes_of(spool, [found.job.id]) as changes:
        while not print_new([follower], changes, printer):
            remarks.of_runs([follower])
            remarks.of_hindrances(lambda: [found.job.id])
            changes.wait()
    remarks.of_runs([follower])
    if follower.found is None:
        msg = f"{found.job.id} is gone: somebody deleted it"
        raise QueuectlError(msg)
    number = _run(follower.found, options["attempt"])
    _remark_on_the_rest(spool, follower.found, number, options, printer)


def _print_run(spool: Spool, found: Found, options: dict[str, Any]) -> None:
    number = _run(found, options["attempt"])
    paths = {
        stream: joblogs.log_file(spool, found.job, number, stream) for stream in _streams(options)
    }
    if not any(map(is_there, paths.values())):
        msg = f'the output of run {number} of "{found.job.id}" is not in {spool.directory("logs")}'
        raise QueuectlError(msg)
    printer = Printer(headings=options["both"])
    for stream, path in paths.items():
        output = joblogs.Output(path)
        if options["lines"] is not None:
            output.start_at_last(options["lines"])
        for data in output.read():
            printer(stream, data)
        output.close()
    _remark_on_the_rest(spool, found, number, options, printer)


def _remark_on_the_rest(
    spool: Spool, found: Found, number: int, options: dict[str, Any], printer: Printer
) -> None:
    """Say what else there is, where that is what one may have looked for."""
    if options["lines"] == 0:
        return
    if not printer.has_printed:
        render.note(_nothing(spool, found, number, options))
    elif not options["both"] and not options["only_stderr"] and _has_failed(found, number):
        path = joblogs.log_file(spool, found.job, number, joblogs.ERR)
        if size := _size(path):
            printer.end_line()
            render.note(f"and {size_text(size)} on standard error, with --stderr or --all")


def _has_failed(found: Found, number: int) -> bool:
    """Tell whether this is the last run of a job, and an error was its end."""
    return bool(found.job.record.get("error_message")) and number == joblogs.last_run(found)


def _size(path: str) -> int:
    return os.path.getsize(path) if is_there(path) else 0


def _nothing(spool: Spool, found: Found, number: int, options: dict[str, Any]) -> str:
    """Return what to say where nothing was printed: the other stream may have something."""
    nothing = f"run {number} printed nothing"
    if _has_failed(found, number):
        nothing += f": {plain(str(found.job.record['error_message']))}"
    if options["both"]:
        return nothing
    other = joblogs.OUT if options["only_stderr"] else joblogs.ERR
    count = _size(joblogs.log_file(spool, found.job, number, other))
    if not count:
        return nothing
    size = size_text(count)
    if options["only_stderr"]:
        return f"nothing on standard error; {size} on standard output, without --stderr"
    return f"nothing on standard output; {size} on standard error, with --stderr"


def _run(found: Found, attempt: int | None) -> int:
    """Return the number of the run that is asked for."""
    last = joblogs.last_run(found)
    if not last and "rejected" in found.job.record:
        job_id = found.job.id
        msg = f'"{job_id}" was set aside and never ran; `queuectl doctor {job_id}` says why'
        raise QueuectlError(msg)
    if not last and found.state in FINISHED:
        why = plain(str(found.job.record.get("error_message") or found.state))
        msg = f'job "{found.job.id}" never ran: {why}'
        raise QueuectlError(msg)
    if not last:
        msg = f'job "{found.job.id}" is {found.state} and has not run yet; -f waits for it'
        raise QueuectlError(msg)
    if attempt is not None and attempt > last:
        msg = f'job "{found.job.id}" has had {last} {"run" if last == 1 else "runs"}, not {attempt}'
        raise QueuectlError(msg)
    return attempt or last


class Printer:
    """Writes output as it was printed.

    Args:
        headings: all of it to standard output, with a heading where the stream changes.
        apart: its standard error to ours.
    """

    def __init__(self, *, headings: bool = False, apart: bool = False) -> None:
        self._headings = headings
        self._apart = apart
        self._last = ""
        self._in_line = False
        self.has_printed = False

    def __call__(self, stream: str, data: bytes) -> None:
        """Write one piece, and let it be seen."""
        self.has_printed = True
        target = sys.stderr if self._apart and stream == joblogs.ERR else sys.stdout
        if self._headings and stream != self._last:
            gap = b"\n" if self._last else b""
            target.buffer.write(b"%s==> %s <==\n" % (gap, _TITLES[stream]))
            self._last = stream
        target.buffer.write(data)
        target.buffer.flush()
        self._in_line = not data.endswith(b"\n")

    def end_line(self) -> None:
        """Have what is said next begin a line, where it goes to the same file or terminal."""
        if self._in_line and _is_one_file(1, 2):
            render.note("")
            self._in_line = False


def _is_one_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:  # one of them is closed
        return False


class Remarks:
    """Says on standard error what whoever follows jobs would else wonder at, once each.

    Why nothing happens, as long as it is so; and that a run has failed, and another will follow.
    """

    def __init__(self, spool: Spool, printer: Printer | None = None) -> None:
        self._spool = spool
        self._printer = printer
        self._hindrance = ""
        self._next_look_s = 0.0
        self._told: dict[str, int] = {}

    def of_hindrances(self, job_ids: Callable[[], Sequence[str]], *, any_one: bool = False) -> None:
        """Say why not all of these jobs (or not `any_one`) come to their end, if that is so.

        Which they are is asked for only when it is time to look: there may be thousands.
        """
        if time.monotonic() < self._next_look_s:
            return
        self._next_look_s = time.monotonic() + _REMARK_S
        hindrance = _hindrance(self._spool, job_ids(), any_one=any_one)
        if hindrance and hindrance != self._hindrance:
            self._say(hindrance)
        self._hindrance = hindrance

    def of_runs(self, followers: Sequence[Follower]) -> None:
        """Say of each run that failed how it did, but for the last, whose failure is the job's."""
        for follower in followers:
            found = follower.found
            if found is not None:
                self._tell_of_runs(found, self._told.get(found.job.id, follower.first_run - 1))

    def _tell_of_runs(self, found: Found, told: int) -> None:
        last = found.job.run_number
        # the end of the last run is known once its job is where it goes, and told there if it stays
        is_open = found.state in FINISHED or (
            found.state == "processing" and found.job.state != "processing"
        )
        until = last - 1 if is_open else last
        for entry in found.job.history:
            number = entry.get("number")
            if isinstance(number, int) and told < number <= until:
                text = f"run {number} of {found.job.id} ended: {ended_text(entry)}"
                if number == last and found.state == "failed":
                    text += f"; again {render.in_text(found.job.not_before('failed'))}"
                self._say(text)
        self._told[found.job.id] = max(told, until)

    def of_end(self, job_id: str, found: Found | None) -> None:
        """Say how a job has ended that did not complete."""
        if found is None:
            self._say(f"{job_id} is gone: somebody deleted it")
        elif found.state != "completed":
            why = plain(str(found.job.record.get("error_message")))
            self._say(f"{job_id} is dead: {why}")

    def _say(self, text: str) -> None:
        if self._printer is not None:
            self._printer.end_line()
        render.note(f"queuectl: {text}")


_REMARK_S = 1.0  # between two looks at whether anything can run


def _hindrance(spool: Spool, job_ids: Sequence[str], *, any_one: bool) -> str:
    """Return why nothing will happen as it is, empty if something may."""
    held = {held.job_id for held in spool.held()} if spool.paused else set()
    enough_run = not held.isdisjoint(job_ids) if any_one else held.issuperset(job_ids)
    if spool.paused and not enough_run:
        return "the spool is paused; `queuectl resume` lets jobs start"
    if not owners.workers(spool):
        return "no worker is running; `queuectl worker start` runs what waits"
    return ""


def print_new(followers: Sequence[Follower], changes: Changes, printer: Printer) -> bool:
    """Print what came since the last time; tell whether all jobs have ended."""
    while True:
        for follower in followers:
            for stream, data in follower.read():
                printer(stream, data)
        files = [path for follower in followers for path in follower.files()]
        # what was written before a watch was armed told nobody: look once more
        if not changes.follow_files(files):
            return all(follower.over for follower in followers)


def changes_of(spool: Spool, job_ids: Sequence[str]) -> Changes:
    """Return what tells of every move of these jobs, and of their output."""
    from queuectl.changes import Changes

    wanted = set(job_ids)

    def of_these(name: str) -> bool:
        # ID.json, ID@OWNER.json, ID.NUMBER.out: an id may hold dots, but no @
        stem = name.rpartition("@")[0] or name.rpartition(".")[0]
        return stem in wanted or stem.rpartition(".")[0] in wanted

    states = ("pending", "processing", "completed", "failed", "dead", "logs")
    directories = [spool.directory(name) for name in states]
    return Changes(directories, of_these, spool.config.poll_interval)
