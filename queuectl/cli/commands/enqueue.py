"""`queuectl enqueue`."""

from __future__ import annotations

import contextlib
import gc
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.completing import complete_files
from queuectl.cli.interrupts import heeded
from queuectl.cli.job_input import check_ids, check_once, command_lines, draft, sources
from queuectl.cli.job_options import (
    CommandAfterDashes,
    current_directory,
    given_fields,
    job_options,
    overlaid,
)
from queuectl.cli.opening import create, spool_to_be
from queuectl.cli.progress import Progress
from queuectl.errors import QueuectlError
from queuectl.ids import first_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuectl.cli.job_input import Drafted
    from queuectl.spool.spool import Spool


@click.command(cls=CommandAfterDashes, context_settings={"allow_interspersed_args": False})
@job_options
@click.option(
    "--commands",
    metavar="FILE",
    shell_complete=complete_files,
    help="Queue each line of FILE (-: standard input) as a shell command; # begins a comment line.",
)
@click.option(
    "--skip-existing", is_flag=True, help="Leave out jobs whose id exists already, in any state."
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until all have ended; the exit status is as in `queuectl wait`.",
)
@click.argument(
    "words", metavar="JSON | @FILE | - | [--] COMMAND", nargs=-1, shell_complete=complete_files
)
@click.pass_context
def enqueue(
    ctx: click.Context,
    /,
    words: tuple[str, ...],
    *,
    commands: str | None,
    skip_existing: bool,
    wait: bool,
    **options: Any,
) -> int:
    """Queue a job; print its id once it is safe on disk.

    A job is given as JSON, by options, or as the words of a command after --. @FILE and - (standard
    input) hold one JSON object a line; all are checked before the first is queued. Options go
    before the job. The command itself reads nothing: its standard input is /dev/null.

    \b
    queuectl enqueue '{"id":"job1","command":"sleep 2"}'
    queuectl enqueue --priority -5 --command 'make && make install'
    queuectl enqueue --timeout 2h -- rsync -a "my dir" host:
    queuectl enqueue @jobs.jsonl
    queuectl enqueue --tag night --commands commands.txt
    """
    spool, given = spool_to_be(ctx), given_fields(options)
    if commands is None:
        found = sources(words, given, dashes=ctx.meta["dashes"])
    else:
        found = command_lines(commands, words, given)
    jobs = _drafted(spool, found, given)
    if skip_existing:
        _check_named(jobs)
    else:
        check_ids(spool, jobs)
    left_out: list[str] | None = [] if skip_existing else None
    queued = _submit(spool, jobs, left_out) if jobs else []
    if left_out:
        exist = "job that exists" if len(left_out) == 1 else "jobs that exist"
        render.note(f"left out {len(left_out)} {exist} already: {first_of(left_out)}")
    if not wait:
        if queued and sys.stderr.isatty():
            _say_what_hinders(spool, queued[-1])
        return 0
    from queuectl.cli.commands.wait import follow

    return follow(spool, [drafted.job.id for drafted in jobs], tags=given.get("tags", ()))


def _drafted(
    spool: Spool, found: Iterable[tuple[str, dict[str, Any]]], given: dict[str, Any]
) -> list[Drafted]:
    here = cache(current_directory)
    gc.disable()  # all objects stay, and it would look at each again and again: 2 us a line
    try:
        return [draft(spool, where, overlaid(fields, given, here)) for where, fields in found]
    finally:
        gc.enable()


def _check_named(jobs: list[Drafted]) -> None:
    """Check that ids were given to compare, and that none was given twice."""
    if jobs and not check_once(jobs):
        raise click.UsageError("--skip-existing compares ids, and none of these jobs is given one")


def _submit(spool: Spool, drafted: list[Drafted], left_out: list[str] | None) -> list[str]:
    """Queue jobs, print the id of each once it is queued, and return these ids."""
    create(spool)
    given = {job.id for _, job, named in drafted if named}
    queued: list[str] = []

    def count() -> int:
        return len(drafted) - len(left_out or ())

    try:
        with heeded(), Progress() as progress:
            for batch in spool.submit_all([job for _, job, _ in drafted], given, left_out):
                queued.extend(job.id for job in batch)
                progress.end_line()
                sys.stdout.write("".join(f"{job.id}\n" for job in batch))
                sys.stdout.flush()
                progress.tell(lambda: f"{len(queued):,} of {count():,} queued")
    except QueuectlError as error:  # tell what was queued, or the user would queue all again
        if not queued:
            raise
        raise QueuectlError(f"{error}; {_queued_text(queued, count())}") from None
    except KeyboardInterrupt:
        if not queued:
            raise
        raise KeyboardInterrupt(_queued_text(queued, count())) from None
    except BrokenPipeError:
        if len(queued) < count():
            render.note(f"queuectl: {_queued_text(queued, count())}")
        raise
    return queued


def _queued_text(queued: list[str], count: int) -> str:
    if len(queued) == count:
        return f"queued all the same: {first_of(queued)}"
    # the failed batch was withdrawn, but a worker may have taken some of its jobs already
    return f"at least {len(queued)} of {count} are queued, up to {queued[-1]}"


def _say_what_hinders(spool: Spool, job_id: str) -> None:
    """Tell a person why a job that was just queued will not run as things are."""
    from queuectl.cli.following import hindering

    with contextlib.suppress(OSError, QueuectlError):  # the job is queued, whatever this finds
        for why in hindering(spool, [job_id]):
            render.note(why)
