"""`queuectl prune`."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.completing import complete_ids
from queuectl.cli.deleting import delete_jobs
from queuectl.cli.matching import Selection, changed_at
from queuectl.cli.misses import Misses
from queuectl.cli.opening import spool_to_change
from queuectl.cli.params import DURATION, Count
from queuectl.cli.progress import Progress
from queuectl.cli.selection import (
    chosen,
    go_ahead,
    no_selection,
    selects,
    state_option,
    tag_option,
    touch_options,
)
from queuectl.ids import is_id
from queuectl.jobs import housekeeping
from queuectl.states import FINISHED
from queuectl.units import duration_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from queuectl.spool.spool import Spool

_DEFAULT_AGE_S = 7 * 86400


@click.command()
@click.argument("texts", metavar="[ID]...", nargs=-1, shell_complete=complete_ids(*FINISHED))
@click.option(
    "--older-than",
    type=DURATION,
    metavar="DURATION",
    help="Only jobs that ended at least this long ago. Default: 7d, unless --keep is given.",
)
@state_option(FINISHED)
@tag_option
@click.option("--keep", type=Count(0), metavar="N", help="Keep the N newest of each state.")
@touch_options
@click.pass_context
def prune(ctx: click.Context, /, texts: tuple[str, ...], **options: Any) -> None:
    """Delete old completed jobs, or those named, with their output; print their ids.

    With --state dead, delete dead jobs instead; a job that is named may be either, and of any age.
    Jobs that wait or run are never deleted. A person at a terminal is asked first; elsewhere, and
    with --yes, jobs have to be named or selected. Running workers do the same by themselves, as the
    settings `retain-completed` and `retain-dead` say.

    \b
    queuectl prune job1
    queuectl prune --older-than 7d --dry-run
    queuectl prune --state completed --state dead --keep 100
    queuectl prune --tag batch --older-than 1h
    """
    spool = spool_to_change(ctx, dry_run=options["dry_run"])
    selection = Selection.of(options, ("completed",))
    if texts:
        misses = Misses()
        job_ids = chosen(spool, texts, selection, applies_to=FINISHED, misses=misses)
        delete_jobs(spool, job_ids, FINISHED, options, misses)
    else:
        is_asked = render.person_answers() and not options["yes"]
        if not (selects(selection, texts) or options["dry_run"] or is_asked):
            # the ids may have been meant to come from a list that was empty
            raise no_selection("--older-than, --keep, --state, --tag")
        _prune_old(spool, selection, options)


def _prune_old(spool: Spool, selection: Selection, options: dict[str, Any]) -> None:
    older_than_s, tags, keep = selection.older_than_s, selection.tags, options["keep"]
    if older_than_s is None and keep is None:
        older_than_s = _DEFAULT_AGE_S
    doomed = [
        job for state in selection.states for job in _oldest(spool, state, older_than_s, keep, tags)
    ]
    misses = Misses()
    if not doomed and older_than_s is not None and not keep:
        which = "none with these tags" if tags else "none"
        render.note(f"{which} ended more than {duration_text(older_than_s)} ago (--older-than)")
    elif go_ahead([job.job_id for job in doomed], "delete", options, misses, ask_above=0):
        for job_id, was_there in housekeeping.delete_each(spool, doomed, misses):
            if was_there:  # else somebody else deleted or changed it first
                click.echo(job_id)
    if not options["states"] and not tags and any(spool.names("dead")):
        render.note("dead jobs are kept; --state dead deletes them")
    misses.exit()


def _oldest(
    spool: Spool, state: str, older_than_s: float | None, keep: int | None, tags: Collection[str]
) -> list[housekeeping.Doomed]:
    """Return the jobs beyond the newest `keep` that are older than `older_than_s`, oldest first.

    Only jobs that have all these tags count.
    """
    limit = float("inf") if older_than_s is None else time.time() - older_than_s
    jobs = sorted(
        (ended_at, job)
        for ended_at, job in _ends(spool, state, older_than_s)
        if (keep or ended_at <= limit) and (not tags or _has(spool, job, tags))
    )
    beyond = jobs[: max(0, len(jobs) - (keep or 0))]
    return [job for ended_at, job in beyond if ended_at <= limit]


def _has(spool: Spool, job: housekeeping.Doomed, tags: Collection[str]) -> bool:
    found = spool.jobs(job.state, [job.job_id])
    return any(set(tags) <= set(item.job.tags) for item in found)


def _ends(
    spool: Spool, state: str, older_than_s: float | None
) -> Iterator[tuple[float, housekeeping.Doomed]]:
    """Yield when each job ended, by its file or, if that is earlier, its record; and the job."""
    # without an age, read each record: otherwise it is not known which are the newest
    limit = float("-inf") if older_than_s is None else time.time() - older_than_s
    with Progress() as progress:
        for number, (job_id, written_at) in enumerate(spool.written(state), 1):
            progress.tell(partial("{:,} looked at in {}/ ...".format, number, state))
            if not is_id(job_id):  # somebody's copy
                continue
            ended_at = written_at
            if written_at > limit:  # not old by its file; in a copied spool only records tell
                for found in spool.jobs(state, [job_id]):
                    ended_at = min(written_at, changed_at(found))
            yield ended_at, housekeeping.Doomed(state, job_id, written_at)
