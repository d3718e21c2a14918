"""What people do to jobs that are there: each is the three steps of every move, by an owner.

spool-layout.md, section "The moves".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from queuectl.errors import BadJobError, NoSuchJobError, QueuectlError, SpoolError, WrongStateError
from queuectl.owners import Registration
from queuectl.spool import Claim, Spool, again
from queuectl.units import utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from queuectl.job import Job


def retry(spool: Spool, job_ids: Iterable[str], states: Sequence[str]) -> Iterator[str]:
    """Queue jobs of these states again, attempts at 0; yield each id once it is pending for good.

    Raises:
        QueuectlError: one could not be; those yielded are queued.
    """

    def anew(job: Job) -> Job:
        return again(job).changed(updated_at=utc_text(time.time()))

    return change(spool, job_ids, states, anew, "retried")


def change(
    spool: Spool,
    job_ids: Iterable[str],
    states: Sequence[str],
    new_body: Callable[[Job], Job],
    done: str,
) -> Iterator[str]:
    """Take, rewrite and release jobs, each to where its new body says; yield each id once there.

    Raises:
        NoSuchJobError, WrongStateError: a job is not (or no longer) in one of `states`.
        SpoolError: the file system refused.
    """
    spool.create()
    with Registration(spool) as me:
        for job_id in job_ids:
            claim = _take(spool, job_id, states, me.name, done)
            try:
                _carry_out(spool, claim, new_body, me.name)
            except OSError as error:
                raise SpoolError("move", claim.path, error) from error
            yield job_id


def _take(spool: Spool, job_id: str, states: Sequence[str], owner: str, done: str) -> Claim:
    for _ in range(10):
        state, path = spool.locate(job_id)
        if state not in states:
            msg = f'job "{job_id}" is {state}; only {" or ".join(states)} jobs can be {done}'
            raise WrongStateError(msg)
        try:
            return spool.take(job_id, state, owner)
        except FileNotFoundError:
            continue  # it moved on meanwhile: look again
        except OSError as error:
            raise SpoolError("take", path, error) from error
    msg = f'job "{job_id}" moves faster than it can be taken; try again'
    raise NoSuchJobError(msg)


def _carry_out(spool: Spool, claim: Claim, new_body: Callable[[Job], Job], owner: str) -> None:
    try:
        job = new_body(spool.read_file(claim.path, claim.job_id))
    except (BadJobError, QueuectlError) as error:
        spool.release(claim, claim.origin)
        msg = f'job "{claim.job_id}" cannot be run: {error}'
        raise WrongStateError(msg) from None
    spool.settle(claim, job.changed(worker=owner))
