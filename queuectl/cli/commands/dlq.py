"""`queuectl dlq`: the dead letter queue."""

from __future__ import annotations

from typing import Any

import click

from queuectl.cli import render
from queuectl.cli.commands.look import listing_options, print_job, print_selected
from queuectl.cli.completing import complete_ids
from queuectl.cli.groups import SuggestingGroup
from queuectl.cli.matching import Selection
from queuectl.cli.misses import Misses
from queuectl.cli.naming import resolve_id
from queuectl.cli.opening import spool_to_change, spool_to_read
from queuectl.cli.params import json_option
from queuectl.cli.selection import (
    NOT_RETRIED,
    all_option,
    chosen,
    select_options,
    touch_options,
)
from queuectl.errors import WrongStateError
from queuectl.spool.joblogs import record_here

_DEAD = ("dead",)


@click.group(cls=SuggestingGroup)
def dlq() -> None:
    """List dead jobs (the dead letter queue), queue them again, or delete them.

    \b
    queuectl dlq list
    """


@dlq.command("list", short_help="List dead jobs, and files that were set aside.")
@select_options(*_DEAD)
@listing_options
@click.pass_context
def list_dead(ctx: click.Context, /, **options: Any) -> None:
    """List dead jobs, out of retries or cancelled, and files set aside that could not be jobs.

    \b
    queuectl dlq list
    queuectl dlq list --older-than 1d --command-matches rsync
    """
    print_selected(spool_to_read(ctx), Selection.of(options, _DEAD), options)


@dlq.command(short_help="Show one dead job, and why it is dead.")
@click.argument("text", metavar="ID", shell_complete=complete_ids(*_DEAD))
@json_option
@click.pass_context
def show(ctx: click.Context, /, text: str, *, as_json: bool) -> None:
    """Show one dead job: why it is dead, its runs, and where its output is.

    \b
    queuectl dlq show job1
    """
    spool = spool_to_read(ctx)
    found = spool.find(resolve_id(spool, text, _DEAD))
    if found.state != "dead":
        msg = f'job "{found.job.id}" is {found.state}, not dead; `queuectl show` shows any job'
        raise WrongStateError(msg)
    if as_json:
        render.json_document(record_here(spool, found))
    else:
        print_job(spool, found)


@dlq.command(short_help="Queue dead jobs again; print their ids.")
@click.argument("texts", metavar="[ID]...", nargs=-1, shell_complete=complete_ids(*_DEAD))
@all_option
@select_options(*_DEAD)
@touch_options
@click.pass_context
def retry(ctx: click.Context, /, texts: tuple[str, ...], **options: Any) -> None:
    """Queue dead jobs again, their attempts at 0, their history kept; print their ids.

    A cancelled job has to be named, or selected by --error-matches.

    \b
    queuectl dlq retry job1 job2
    queuectl dlq retry --all
    queuectl dlq retry --tag nightly --dry-run
    """
    from queuectl.cli.retrying import retry_jobs

    spool = spool_to_change(ctx, dry_run=options["dry_run"])
    selection = Selection.of(options, _DEAD)
    misses = Misses(named=bool(texts))
    job_ids = chosen(spool, texts, selection, applies_to=_DEAD, leaving=NOT_RETRIED, misses=misses)
    retry_jobs(spool, job_ids, _DEAD, options, misses)


@dlq.command(short_help="Delete dead jobs for good, with their output.")
@click.argument("texts", metavar="[ID]...", nargs=-1, shell_complete=complete_ids(*_DEAD))
@all_option
@select_options(*_DEAD)
@touch_options
@click.pass_context
def purge(ctx: click.Context, /, texts: tuple[str, ...], **options: Any) -> None:
    """Delete dead jobs for good, with their output and the bytes of files set aside.

    A person at a terminal is asked first, unless --yes is given.

    \b
    queuectl dlq purge job1
    queuectl dlq purge --older-than 30d --dry-run
    queuectl dlq purge --all --yes
    """
    from queuectl.cli.deleting import delete_jobs

    spool = spool_to_change(ctx, dry_run=options["dry_run"])
    selection = Selection.of(options, _DEAD)
    misses = Misses(named=bool(texts))
    job_ids = chosen(spool, texts, selection, applies_to=_DEAD, misses=misses)
    delete_jobs(spool, job_ids, _DEAD, options, misses)
