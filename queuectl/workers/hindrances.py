"""Why nothing starts, in the same words wherever that is said: by `wait`, `top`, `doctor` ..."""

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
    """What keeps jobs from starting, and what is to be done about it."""

    word: str  # where there is room for one
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.what}; {self.todo}"


PAUSED = Hindrance("paused", "the spool is paused", "`queuectl resume` lets jobs start")
NO_WORKER = Hindrance("none", "no worker is running", "`queuectl worker start` starts one")


def _stopping(who: str) -> Hindrance:
    return Hindrance(STOPPING, f"{who} was told to stop", "`queuectl worker start` starts another")


def of_pool(spool: Layout, pool: Worker, *, but: Collection[str] = ()) -> list[Hindrance]:
    """Return why a pool starts nothing, empty if it does; of a command, why it stands still.

    Args:
        spool: whose pool.
        pool: which.
        but: words of hindrances that are none here.
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
    """Return what is to be said of a pool, or a command that may hold jobs, that stands still."""
    return Hindrance(SUSPENDED, f"{owner.worker} is suspended", continued_by(owner.pid))


def continued_by(pid: int) -> str:
    """Return what lets a process go on that stands still."""
    return f"`kill -CONT {pid}` lets it go on"


def of_all(
    spool: Layout, pools: Collection[Worker], *, but: Collection[str] = ()
) -> list[Hindrance]:
    """Return why none of these pools starts anything, empty if one does; one reason of each.

    Args:
        spool: whose pools.
        pools: those that are alive.
        but: words of hindrances that are none here.
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
