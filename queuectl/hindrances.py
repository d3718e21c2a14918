"""Why nothing starts, in the same words wherever that is said: by `wait`, `top`, `doctor` ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from queuectl import owners, requests

if TYPE_CHECKING:
    from collections.abc import Collection

    from queuectl.layout import Layout
    from queuectl.owners import Worker

STOPPING = "stopping"
SEE_LOG = "its log says why"


class Hindrance(NamedTuple):
    """What keeps jobs from starting, and what is to be done about it."""

    word: str  # where there is room for one
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.what}; {self.todo}"


PAUSED = Hindrance("paused", "the spool is paused", "`queuectl resume` lets jobs start")
NO_WORKER = Hindrance("none", "no worker is running", "`queuectl worker start` runs what waits")
_ALL_STOPPING = Hindrance(
    STOPPING, "every worker was told to stop", "`queuectl worker start` starts another"
)


def of_pool(spool: Layout, pool: Worker) -> list[Hindrance]:
    """Return why a pool starts nothing, empty if it does."""
    found = []
    if requests.is_asked_to_stop(spool, pool.worker):
        found.append(_ALL_STOPPING._replace(what=f"{pool.worker} was told to stop"))
    if pool.suspended:
        found.append(suspension(pool))
    if owners.is_stalled(spool, pool.worker):
        what = f"{pool.worker} is stalled: it can record or start nothing"
        found.append(Hindrance("stalled", what, SEE_LOG))
    return found


def suspension(owner: Worker) -> Hindrance:
    """Return what is to be said of a pool, or a command that may hold jobs, that stands still."""
    return Hindrance("suspended", f"{owner.worker} is suspended", continued_by(owner.pid))


def continued_by(pid: int) -> str:
    """Return what lets a process go on that stands still."""
    return f"`kill -CONT {pid}` lets it go on"


def of_all(
    spool: Layout, pools: Collection[Worker], *, but: Collection[str] = ()
) -> list[Hindrance]:
    """Return why none of these pools starts anything, empty if one does; one reason of each kind.

    Args:
        spool: whose pools.
        pools: those that are alive.
        but: words of hindrances that are none here.
    """
    if not pools:
        return [NO_WORKER]
    first: dict[str, Hindrance] = {}
    for pool in pools:
        reasons = [found for found in of_pool(spool, pool) if found.word not in but]
        if not reasons:
            return []
        first.setdefault(reasons[0].word, reasons[0])
    return [_ALL_STOPPING] if list(first) == [STOPPING] else list(first.values())
