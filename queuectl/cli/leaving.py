"""Waiting until pools are gone, and reporting what is waited for."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import click

from queuectl.cli import render
from queuectl.errors import QueuectlError
from queuectl.ids import first_of
from queuectl.units import duration_text, plural
from queuectl.workers import hindrances, owners, requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuectl.spool.spool import Spool
    from queuectl.workers.owners import Worker

_LOOK_S = 0.1
_PATIENCE_S = 1.0  # before reporting a wait for pools that run nothing


def wait_until_gone(spool: Spool, pools: list[Worker], *, now: bool) -> None:
    """Wait for pools that were asked to stop; remove each from `pools` once it is gone.

    Args:
        spool: the spool of the pools.
        pools: the pools to wait for.
        now: they were asked to end the commands that run.

    Raises:
        SpoolError: the spool cannot be read.
    """
    _tell_who_stands_still(spool, pools)
    heartbeats = owners.Heartbeats()
    waits = _Waits(spool, now=now)
    while True:
        with contextlib.suppress(QueuectlError):  # pools ignore a wrong config.json too
            spool.follow_config()  # pools send heartbeats by the present lease
        for pool in list(pools):
            if _is_over(spool, pool, heartbeats):
                pools.remove(pool)
        if not pools:
            return
        waits.tell(pools)
        time.sleep(_LOOK_S)


def _tell_who_stands_still(spool: Spool, pools: Sequence[Worker]) -> None:
    for pool in pools:
        for why in hindrances.of_pool(spool, pool, but=(hindrances.STOPPING,)):
            render.note(str(why))


def _is_over(spool: Spool, pool: Worker, heartbeats: owners.Heartbeats) -> bool:
    """Tell whether a pool need not be waited for any longer, and print why."""
    seen = owners.look_up(spool, pool.worker)
    if _is_gone(spool, pool.worker, seen):
        requests.withdraw_stop(spool, pool.worker)
        click.echo(f"{pool.worker} is gone")
        return True
    if seen.life is owners.Life.AWAY and heartbeats.silent(spool, pool.worker):
        lease = duration_text(spool.config.lease)
        what = f"{pool.worker}, on {pool.host}, was silent for {lease} (lease)"
        render.note(f"{what}: it is taken for dead, and stops if it comes back")
        return True
    return False


def _is_gone(spool: Spool, name: str, seen: owners.Seen) -> bool:
    """Tell whether a pool has left or died; on another machine, only leaving can be seen."""
    if seen.life is owners.Life.DEAD:
        return True
    holds = any(held.owner == name for held in spool.held())
    return seen.worker is None and owners.is_traceless(spool, name) and not holds


class _Waits:
    """Reports what is waited for, whenever that has changed.

    Args:
        spool: the spool of the pools.
        now: the commands that run are being ended.
    """

    def __init__(self, spool: Spool, *, now: bool) -> None:
        self._spool = spool
        self._now = now
        self._told: list[str] | None = None
        self._wonders_at_s = time.monotonic() + _PATIENCE_S

    def tell(self, pools: Sequence[Worker]) -> None:
        running = self._running({pool.worker for pool in pools})
        if running != self._told and (running or time.monotonic() > self._wonders_at_s):
            self._told = running
            what = self._jobs(running, pools) if running else "its last steps"
            render.note(f"waiting for {what}")

    def _jobs(self, running: Sequence[str], pools: Sequence[Worker]) -> str:
        which, count = first_of(running, 5), len(running)
        if any(owners.is_stalled(self._spool, pool.worker) for pool in pools):
            # no hint at --now, which would lose the outcomes of jobs that have ended
            return f"{count} {plural('job', count)}, running, or ended and not recorded: {which}"
        how = "" if self._now else f" (--now ends {'it' if count == 1 else 'them'})"
        return f"{count} running {plural('job', count)}: {which}{how}"

    def _running(self, names: set[str]) -> list[str]:
        held = sorted(held.job_id for held in self._spool.held() if held.owner in names)
        if held == self._told:
            return held
        # read the files only now: they tell which jobs are only claimed
        return sorted(found.job.id for found in self._spool.running() if found.owner in names)
