"""Why no job starts, in the same words for `wait`, `top`, `doctor` and whatever else shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from queuectl.workers import owners, requests

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from queuectl.spool.layout import Layout
    from queuectl.workers.owners import Worker

STOPPING, SUSPENDED = "stopping", "suspended"
SEE_LOG = "its log says why"


class Hindrance(NamedTuple):
    """Something that keeps jobs from starting, and what to do about it."""

    word: str  # one word, for where there is no room for more
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.what}; {self.todo}"


PAUSED = Hindrance("paused", "the spool is paused", "`queuectl resume` lets jobs start")
NO_WORKER = Hindrance("none", "no worker is running", "`queuectl worker start` starts one")


def _stopping(who: str) -> Hindrance:
    return Hindrance(STOPPING, f"{who} was told to stop", "`queuectl worker start` starts another")


def of_pool(spool: Layout, pool: Worker, *, but: Collection[str] = ()) -> list[Hindrance]:
    """Return why a pool starts no jobs, or why a command line that holds jobs stands still.

    Args:
        spool: the spool.
        pool: the pool, or the command line.
        but: the words of hindrances that do not count.

    Returns:
        The hindrances; none if the pool starts jobs.
    """
    found = []
    if requests.is_asked_to_stop(spool, pool.worker):
        found.append(_stopping(pool.worker))
    if pool.suspended:
        found.append(suspension(pool))
    if owners.is_stalled(spool, pool.worker):
        what = f"{pool.worker} is stalled: it can record or start nothing"
        found.append(Hindrance("stalled", what, SEE_LOG))
    return [why for why in found if why.word not in but]


def suspension(owner: Worker) -> Hindrance:
    """Return the hindrance of a suspended pool, or suspended command line that may hold jobs."""
    return Hindrance(SUSPENDED, f"{owner.worker} is suspended", continued_by(owner.pid))


def continued_by(pid: int) -> str:
    """Return how to continue a suspended process."""
    return f"`kill -CONT {pid}` lets it go on"


def of_all(
    spool: Layout, pools: Collection[Worker], *, but: Collection[str] = ()
) -> list[Hindrance]:
    """Return why none of these pools starts jobs, one reason for each pool.

    Args:
        spool: the spool.
        pools: the pools that are alive.
        but: the words of hindrances that do not count.

    Returns:
        The hindrances; none if one of the pools starts jobs.
    """
    if not pools:
        return [NO_WORKER]
    found = []
    for pool in pools:
        reasons = of_pool(spool, pool, but=but)
        if not reasons:
            return []
        found.append(reasons[0])
    all_stop = all(reason.word == STOPPING for reason in found)
    return [_stopping("every worker")] if all_stop else found


def that_start(spool: Layout, pools: Iterable[Worker]) -> list[Worker]:
    """Return those of these pools that start jobs."""
    return [pool for pool in pools if not of_pool(spool, pool)]
