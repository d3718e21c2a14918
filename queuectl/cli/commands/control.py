"""`queuectl cancel`, `retry`, `edit`, `pause` and `resume`."""

from __future__ import annotations

import sys
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.completing import complete_ids
from queuectl.cli.interrupts import heeded
from queuectl.cli.job_options import change_options, given_fields
from queuectl.cli.matching import Selection
from queuectl.cli.misses import Misses
from queuectl.cli.naming import id_to_change
from queuectl.cli.opening import spool_to_change
from queuectl.cli.retrying import retry_jobs
from queuectl.cli.selection import (
    NOT_RETRIED,
    all_option,
    chosen,
    go_ahead,
    possible,
    select_options,
    touch_options,
)
from queuectl.errors import QueuectlError, WrongStateError, error_text
from queuectl.jobs import verbs
from queuectl.jobs.verbs import CANCELLABLE, EDITABLE
from queuectl.states import OUTCOMES
from queuectl.workers import owners

if TYPE_CHECKING:
    from queuectl.spool.spool import Spool


@click.command()
@click.argument("texts", metavar="[ID]...", nargs=-1, shell_complete=complete_ids(*CANCELLABLE))
@select_options(*CANCELLABLE)
@all_option
@touch_options
@click.pass_context
def cancel(ctx: click.Context, /, texts: tuple[str, ...], **options: Any) -> None:
    """Cancel jobs: waiting ones never run, running ones are ended; print the id of each once dead.

    A running command is ended, whichever worker runs it: by SIGTERM, and by SIGKILL after
    `kill-grace`. The job goes to dead/, with who cancelled it and when. Selected jobs that end or
    are deleted meanwhile are no failure; `queuectl pause` first keeps more from starting.

    \b
    queuectl cancel job1 job2
    queuectl cancel --tag nightly --dry-run
    queuectl cancel --state pending --command-matches '^rsync '
    """
    from queuectl.jobs.cancelling import Cancelling

    spool = spool_to_change(ctx, dry_run=options["dry_run"])
    selection = Selection.of(options, CANCELLABLE)
    misses = Misses(named=bool(texts))
    job_ids = chosen(spool, texts, selection, misses=misses)
    job_ids = possible("cancelled", spool, job_ids, selection.states, misses)
    if go_ahead(job_ids, "cancel", options, misses):
        log = sys.stderr.fileno()
        cancelling = Cancelling(spool, selection.states, misses, render.note, log)
        try:
            with heeded():
                for job_id in cancelling.cancel(job_ids):
                    click.echo(job_id)
        except KeyboardInterrupt:
            if cancelling.told_to_end:
                render.note("jobs that were told to end may still end; `queuectl list` shows them")
            raise
    misses.exit()


@click.command()
@click.argument("texts", metavar="[ID]...", nargs=-1, shell_complete=complete_ids(*OUTCOMES))
@select_options(*OUTCOMES)
@all_option
@touch_options
@click.pass_context
def retry(ctx: click.Context, /, texts: tuple[str, ...], **options: Any) -> None:
    """Queue jobs again that have ended, or wait for a retry; print their ids.

    Their attempts start at 0 again; their history is kept. Unless --state is given, --all, --tag
    and the like select among failed and dead jobs; a cancelled job has to be named, or selected by
    --error-matches. Selected jobs that are retried or deleted meanwhile are no failure.

    \b
    queuectl retry job1
    queuectl retry --state dead --tag nightly
    queuectl retry --older-than 1d --dry-run
    """
    spool = spool_to_change(ctx, dry_run=options["dry_run"])
    selection = Selection.of(options, ("failed", "dead"))
    misses = Misses(named=bool(texts))
    job_ids = chosen(spool, texts, selection, leaving=NOT_RETRIED, misses=misses)
    # a job that was selected as failed, and has completed meanwhile, must not run again
    states = OUTCOMES if texts else selection.states
    retry_jobs(spool, job_ids, states, options, misses)


@click.command()
@click.argument(
    "texts", metavar="ID...", nargs=-1, required=True, shell_complete=complete_ids(*EDITABLE)
)
@change_options
@click.pass_context
def edit(ctx: click.Context, /, texts: tuple[str, ...], **options: Any) -> None:
    """Change waiting or dead jobs by options, or one of them in $VISUAL or $EDITOR.

    The text is checked; if anything is wrong with it, or a worker took the job meanwhile, the job
    stays as it was, and your text is kept. A field that you delete goes back to its default; --tag
    and --env replace all that the job has. A changed job goes to the end of those with its
    priority. A dead job stays dead until `queuectl retry`.

    \b
    queuectl edit job1 --priority -5 --run-at now
    EDITOR=nano queuectl edit job1
    queuectl list --tag batch --ids | xargs -r queuectl edit --priority 5
    """
    given = given_fields(options)
    spool = spool_to_change(ctx)
    if len(texts) > 1 and not given:
        raise click.UsageError("the editor takes one job; several are changed by options")
    misses = Misses()
    dead = 0
    for text in texts:
        with misses.noted():
            dead += _edit(spool, text, given) == "dead"
    if dead:
        render.note("dead jobs stay dead; `queuectl retry ID` queues one again")
    misses.exit()


def _edit(spool: Spool, text: str, given: dict[str, Any]) -> str | None:
    """Change one job and return its state, or None if it was like that already."""
    from queuectl.cli.editing import can_edit, edited, keep, with_fields

    found = spool.find(id_to_change(spool, text))
    job_id = found.job.id
    if found.job.is_reason:
        raise WrongStateError(f'"{job_id}" is not a job: it was set aside; {spool.mending(job_id)}')
    if found.state not in EDITABLE:
        only = "pending, failed or dead"
        raise WrongStateError(f'job "{job_id}" is {found.state}; only {only} jobs can be edited')
    if not given and not can_edit():
        raise click.UsageError("there is no terminal for an editor: say what to change by options")
    new = with_fields(found.job, given) if given else edited(found.job)
    if new is None:
        render.note(f"{job_id} is like that already: nothing was changed")
        return None
    try:
        verbs.edit(spool, found, new)
    except QueuectlError as error:
        msg = f"{error}" if given else f"{error}; your text is in {keep(new)}"
        raise QueuectlError(msg) from None
    click.echo(job_id)
    return found.state


@click.command()
@click.pass_context
def pause(ctx: click.Context, /) -> None:
    """Keep workers from starting jobs until `queuectl resume`; what runs goes on.

    The pause is a file in the spool, `paused`, so it outlives workers and reboots.

    \b
    queuectl pause
    """
    spool = spool_to_change(ctx)
    if not verbs.pause(spool, verbs.by_whom()):
        click.echo("the spool is paused already")
        return
    is_lost = cache(partial(owners.is_lost, spool))
    try:
        running = f"{sum(not is_lost(found.owner) for found in spool.running())} still running"
    except (OSError, QueuectlError) as error:
        running = f"what still runs cannot be told: {error_text(error)}"
    click.echo(f"paused; {running}; `queuectl resume` lets jobs start again")


@click.command()
@click.pass_context
def resume(ctx: click.Context, /) -> None:
    """Let workers start jobs again.

    \b
    queuectl resume
    """
    spool = spool_to_change(ctx)
    click.echo("resumed" if verbs.resume(spool) else "the spool is not paused")
