"""`queuectl dlq`: the dead letter queue."""

from __future__ import annotations

from itertools import islice

import click

from queuectl.cli import render
from queuectl.cli.common import json_option, resolve_id, spool_to_read, spool_to_write
from queuectl.cli.look import print_jobs, select


@click.group()
def dlq() -> None:
    """Look at dead jobs, and give them another life.

    \b
    queuectl dlq list
    """


@dlq.command("list")
@click.option("--tag", "tags", multiple=True, metavar="WORD", help="Only jobs with all of these.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many.")
@json_option
@click.pass_context
def list_dead(
    ctx: click.Context, *, tags: tuple[str, ...], limit: int | None, as_json: bool
) -> None:
    """List the dead: jobs out of retries, cancelled ones, and files that could not be jobs.

    \b
    queuectl dlq list
    """
    spool = spool_to_read(ctx)
    found = islice(select(spool, ("dead",), tags, limit), limit)
    if as_json:
        render.json_array(item.record() for item in found)
    else:
        print_jobs(found)


@dlq.command()
@click.argument("job_ids", metavar="ID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are dead.")
@click.pass_context
def retry(ctx: click.Context, job_ids: tuple[str, ...], *, everything: bool) -> None:
    """Queue dead jobs again, their attempts at 0, their history kept; print their ids.

    \b
    queuectl dlq retry job1 job2
    queuectl dlq retry --all
    """
    from queuectl import verbs

    if bool(job_ids) == everything:
        msg = "name jobs, or give --all"
        raise click.UsageError(msg)
    spool = spool_to_write(ctx)
    if everything:
        wanted = [found.job.id for found in select(spool, ("dead",), (), None) if found.job.command]
    else:
        wanted = [resolve_id(spool, text, ("dead",)) for text in job_ids]
    for job_id in verbs.retry(spool, wanted, ("dead",)):
        click.echo(job_id)
