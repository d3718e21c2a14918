"""`queuectl enqueue`."""

from __future__ import annotations

import contextlib
import gc
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.common import spool_to_be
from queuectl.cli.completing import complete_files
from queuectl.cli.drafting import (
    CommandAfterDashes,
    check_ids,
    command_lines,
    draft,
    given_fields,
    job_options,
    overlaid,
    sources,
    taken_ids,
)
from queuectl.cli.progress import Progress
from queuectl.errors import JobExistsError, QueuectlError
from queuectl.files import from_here
from queuectl.ids import first_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from queuectl.cli.drafting import Drafted
    from queuectl.job import Job
    from queuectl.spool import Spool


@click.command(cls=CommandAfterDashes, context_settings={"allow_interspersed_args": False})
@job_options
@click.option(
    "--commands",
    metavar="FILE",
    shell_complete=complete_files,
    help="A file, or -, of shell commands, one a line; # begins a comment.",
)
@click.option(
    "--skip-existing", is_flag=True, help="Leave out those whose id there is, whatever its state."
)
@click.option(
    "--wait", is_flag=True, help="Return when all have ended; the status is that of a failed one."
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

    A job is JSON, or options, or the words of a command after --. @FILE and - (standard input)
    hold one JSON object a line; all are checked before the first is queued. Options go before it.
    The command itself reads nothing: its standard input is /dev/null.

    \b
    queuectl enqueue '{"id":"job1","command":"sleep 2"}'
    queuectl enqueue --priority -5 --command 'make && make install'
    queuectl enqueue --timeout 2h -- rsync -a "my dir" host:
    queuectl enqueue @jobs.jsonl
    queuectl enqueue --tag night --commands commands.txt
    """
    given = given_fields(options)
    spool = spool_to_be(ctx)
    here = cache(from_here)
    if commands is None:
        found = sources(words, given, dashes=ctx.meta["dashes"])
    else:
        found = command_lines(commands, words, given)
    gc.disable()  # all of them stay, and it would look at each again and again: 2 us a line
    try:
        jobs = [draft(spool, where, overlaid(fields, given, here)) for where, fields in found]
    finally:
        gc.enable()
    skipped: list[str] | None = None
    if skip_existing:
        skipped = taken_ids(spool, jobs)
    else:
        check_ids(spool, jobs)
    known = set(skipped or ())
    new = [drafted for drafted in jobs if drafted.job.id not in known]
    if new:
        _submit(spool, new, skipped)
    if skipped:
        render.note(f"left out {len(skipped)} that {_there(len(skipped))}: {first_of(skipped)}")
    if not wait:
        if jobs and sys.stderr.isatty():
            _say_what_hinders(spool, jobs[-1].job.id)
        return 0
    from queuectl.cli.wait import follow

    return follow(spool, [drafted.job.id for drafted in jobs], tags=given.get("tags", ()))


def _there(count: int) -> str:
    return "is there already" if count == 1 else "are there already"


def _submit(spool: Spool, drafted: list[Drafted], skipped: list[str] | None) -> None:
    given = {job.id for _, job, named in drafted if named}
    queued: list[str] = []
    try:
        with Progress() as progress:
            for batch in _batches(spool, [job for _, job, _ in drafted], given, skipped):
                queued.extend(job.id for job in batch)
                progress.end_line()
                sys.stdout.write("".join(f"{job.id}\n" for job in batch))
                sys.stdout.flush()
                progress.tell(lambda: f"{len(queued):,} of {len(drafted):,} queued")
    except QueuectlError as error:  # who is told that it failed must not try all again
        if not queued:
            raise
        msg = f"{error}; {_queued_text(queued, len(drafted))}"
        raise QueuectlError(msg) from None
    except KeyboardInterrupt:
        if not queued:
            raise
        raise KeyboardInterrupt(_queued_text(queued, len(drafted))) from None
    except BrokenPipeError:
        if len(queued) < len(drafted):
            render.note(f"queuectl: {_queued_text(queued, len(drafted))}")
        raise


def _batches(
    spool: Spool, jobs: Sequence[Job], given: Collection[str], skipped: list[str] | None
) -> Iterator[list[Job]]:
    """Do what `submit_all` does; an id that was taken meanwhile is `skipped`, unless that is None.

    Raises:
        QueuectlError: see there.
    """
    left = jobs
    while left:
        try:
            for batch in spool.submit_all(left, given):
                yield batch
                left = left[len(batch) :]
        except JobExistsError as error:  # noqa: PERF203 - few come just then
            if skipped is None or error.job_id not in given:
                raise
            skipped.append(error.job_id)
            left = [job for job in left if job.id != error.job_id]


def _queued_text(queued: list[str], count: int) -> str:
    if len(queued) == count:
        return f"queued all the same: {first_of(queued)}"
    # of the next, which were taken back, a worker may have had some already
    return f"at least {len(queued)} of {count} are queued, up to {queued[-1]}"


def _say_what_hinders(spool: Spool, job_id: str) -> None:
    """Tell a person that a job just queued will not run as it is."""
    from queuectl.cli.following import hindering

    with contextlib.suppress(OSError, QueuectlError):  # the job is queued, whatever this finds
        for why in hindering(spool, [job_id]):
            render.note(why)
