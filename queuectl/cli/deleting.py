"""Deleting finished jobs that a person named or selected, for `queuectl dlq purge` and `prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from queuectl.cli.selection import go_ahead
from queuectl.errors import MovedOnError, NoSuchJobError
from queuectl.jobs import housekeeping

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from queuectl.cli.misses import Misses
    from queuectl.spool.spool import Spool


def delete_jobs(
    spool: Spool,
    job_ids: Iterable[str],
    states: Sequence[str],
    options: dict[str, Any],
    misses: Misses,
) -> None:
    """Delete those of the jobs that are in these states, with their output; print their ids.

    The others are left alone and reported, and the exit status is 1 then. A person at the terminal
    is asked first.
    """
    doomed = list(_doomed(spool, job_ids, states, misses))
    asked_for = [job.job_id for job in doomed]
    if go_ahead(asked_for, "delete", options, misses, ask_above=0):
        for job_id, was_there in housekeeping.delete_each(spool, doomed, misses):
            if was_there:
                click.echo(job_id)
            else:
                why = f'job "{job_id}" is not what it was when you asked; it was left alone'
                misses(job_id, MovedOnError(why))
    misses.exit()


def _doomed(
    spool: Spool, job_ids: Iterable[str], states: Sequence[str], misses: Misses
) -> Iterator[housekeeping.Doomed]:
    for job_id in job_ids:
        state = spool.found_in(job_id, states)
        found = list(housekeeping.doomed(spool, state, [job_id])) if state else []
        yield from found
        if not found:
            misses(job_id, _not_there(spool, job_id, states))


def _not_there(spool: Spool, job_id: str, states: Sequence[str]) -> Exception:
    try:
        state, _ = spool.locate(job_id)
    except NoSuchJobError as error:
        return error
    msg = f'job "{job_id}" is {state}, not {" or ".join(states)}; it was left alone'
    return MovedOnError(msg)
