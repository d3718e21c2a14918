"""Waiting until pools are gone, and saying for what."""

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
_PATIENCE_S = 1.0  # with pools that run nothing, before it is said that they are waited for


def wait_until_gone(spool: Spool, pools: list[Worker], *, now: bool) -> None:
    """Wait for pools that were asked to stop; each that has left is taken out of `pools`.

    Args:
        spool: theirs.
        pools: who is waited for.
        now: they were asked to end what they run.

    Raises:
        SpoolError: the spool cannot be read.
    """
    _tell_who_stands_still(spool, pools)
    heartbeats = owners.Heartbeats()
    waits = _Waits(spool, now=now)
    while True:
        with contextlib.suppress(QueuectlError):  # of which pools take no notice either
            spool.follow_config()  # they show that they live by the lease as it is now
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
    """Tell whether there is nothing more to wait for with a pool, and say why."""
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
    """Tell whether a pool has left, or has died; of another machine's, only the first is seen."""
    if seen.life is owners.Life.DEAD:
        return True
    holds = any(held.owner == name for held in spool.held())
    return seen.worker is None and owners.is_traceless(spool, name) and not holds


class _Waits:
    """Says what is waited for, whenever that is something else.

    Args:
        spool: the pools'.
        now: what runs is being ended.
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
            # with --now what became of those that have ended would be lost
            return f"{count} {plural('job', count)}, running, or ended and not recorded: {which}"
        how = "" if self._now else f" (--now ends {'it' if count == 1 else 'them'})"
        return f"{count} running {plural('job', count)}: {which}{how}"

    def _running(self, names: set[str]) -> list[str]:
        held = sorted(held.job_id for held in self._spool.held() if held.owner in names)
        if held == self._told:
            return held
        # what is claimed ahead does not run, as its file tells
        return sorted(found.job.id for found in self._spool.running() if found.owner in names)
