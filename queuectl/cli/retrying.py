"""Retrying jobs that a person named or selected, for `queuectl retry` and `dlq retry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from queuectl.cli.interrupts import heeded
from queuectl.cli.selection import go_ahead, possible
from queuectl.jobs import verbs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuectl.cli.misses import Misses
    from queuectl.spool.spool import Spool


def retry_jobs(
    spool: Spool,
    job_ids: Sequence[str],
    states: Sequence[str],
    options: dict[str, Any],
    misses: Misses,
) -> None:
    """Queue those of the jobs again that are in these states; print their ids.

    The others are left alone and reported, and the exit status is 1 then. A person at the terminal
    is asked first if there are many.
    """
    job_ids = possible("retried", spool, job_ids, states, misses)
    if go_ahead(job_ids, "retry", options, misses):
        with heeded():
            for job_id in verbs.retry(spool, job_ids, states, misses):
                click.echo(job_id)
    misses.exit()
