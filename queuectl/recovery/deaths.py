"""Who is dead, as far as it can be told from here, and what is to be known for recovering it.

spool-layout.md, section "workers/".
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from queuectl.errors import BadJobError
from queuectl.kernel.processes import Tree
from queuectl.run.commands import mark_of
from queuectl.run.stragglers import Ending
from queuectl.system.scratch import LOCK_SUFFIX, try_lock
from queuectl.workers import owners

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from queuectl.spool.layout import Layout


class Dead(NamedTuple):
    """An owner that is dead."""

    name: str
    local: bool  # whether what it ran ran under this kernel
    by_lock: bool  # whether its lock told, not its silence
    this_boot: bool  # known to have died under this boot: what it wrote is there, synced or not
    copied: bool  # it lives, and works in the spool that this is a copy of
    unseen: str  # where what it ran may live and cannot be seen, in words; "" if nowhere
    only_for: str | None  # who alone can end what it ran, if not we
    ending: Ending  # of what it ran


class Deaths:
    """Tells who is dead, for one owner that is not.

    Args:
        spool: where.
        me: that owner.
        heartbeats: what was seen of owners before.
    """

    def __init__(self, spool: Layout, me: str, heartbeats: owners.Heartbeats) -> None:
        self._spool = spool
        self._me = me
        self._heartbeats = heartbeats

    def found(self, waited_for: Mapping[str, Ending]) -> Iterator[Dead]:
        """Yield each owner that is dead.

        Args:
            waited_for: by name, the ends of what some ran, which goes on.

        Raises:
            OSError, SpoolError: the spool cannot be looked at.
        """
        found = owners.known(self._spool)
        for held in self._spool.held():
            found.setdefault(held.owner, None)
        self._heartbeats.keep(found.keys())
        for name, worker in found.items():
            if name == self._me:
                continue
            seen = owners.look_at(self._spool, name, worker)
            if seen.life is owners.Life.ALIVE:
                continue
            local = seen.life is owners.Life.DEAD
            # a lock may be free that a backup has put in the place of its own, which it takes back
            lives = local and worker is not None and worker.lives_here(self._spool)
            by_lock = seen.known_dead and not lives
            known_dead = by_lock or (name in waited_for and not lives)
            if known_dead or self._is_silent(name):
                ending = waited_for.get(name)
                yield self._dead_one(name, worker, ending, local=local, by_lock=by_lock)

    def _dead_one(
        self,
        name: str,
        worker: owners.Worker | None,
        ending: Ending | None,
        *,
        local: bool,
        by_lock: bool,
    ) -> Dead:
        this_boot = worker is not None and worker.of_this_boot
        copied = worker is not None and worker.lives_elsewhere(self._spool)
        ends_here = local and name != "" and not copied
        only_for = self._only_for(name, worker) if ends_here else None
        if ending is None:
            is_ours = ends_here and only_for is None
            tree = _tree_of(self._spool, name, worker) if is_ours else Tree(None, ())
            ending = Ending(tree, self._spool.config.kill_grace)
        unseen = ""
        if worker is not None and worker.runs_unseen:
            unseen = "in another container"
        elif not local and (worker is None or worker.is_pool):
            unseen = "on another machine"
        return Dead(
            name=name,
            local=local,
            by_lock=by_lock,
            this_boot=this_boot,
            copied=copied,
            unseen=unseen,
            only_for=only_for,
            ending=ending,
        )

    def _only_for(self, name: str, worker: owners.Worker | None) -> str | None:
        try:
            # not simply ours: a file system may name one owner for the files of all
            us = os.lstat(owners.path(self._spool, self._me, owners.RECORD_SUFFIX)).st_uid
        except FileNotFoundError:  # the next heartbeat puts it back
            us = None
        return owners.only_for(self._spool, name, worker, us)

    def _is_silent(self, name: str) -> bool:
        silent = self._heartbeats.silent(self._spool, name)
        if silent:
            self._heartbeats.forget(name)
        return silent


@contextlib.contextmanager
def lock_of(spool: Layout, dead: Dead) -> Iterator[bool]:
    """Hold an owner's lock until its files are gone; tell whether it is dead indeed.

    One that registers late cannot come between.
    """
    lock, is_dead = None, True
    if dead.local and dead.name:
        try:
            lock = try_lock(owners.path(spool, dead.name, LOCK_SUFFIX))
            is_dead = lock is not None
        except FileNotFoundError:
            is_dead = not dead.by_lock  # the lock that told is gone: of a living one, perhaps
    try:
        yield is_dead
    finally:
        if lock is not None:
            os.close(lock)


def _tree_of(spool: Layout, name: str, worker: owners.Worker | None) -> Tree:
    """Return what a dead owner may have left running, in this spool and not one it is a copy of."""
    home = "" if worker is None else worker.directory
    original = "" if home == owners.home_of(spool) else home
    return Tree(None, (mark_of(name),), tuple(_outputs_of(spool, name)), original)


def _outputs_of(spool: Layout, name: str) -> Iterator[tuple[int, int]]:
    """Yield where the commands of an owner write, which may have dropped their environment."""
    for held in spool.held():
        if held.owner != name:
            continue
        try:
            job = spool.read_file(held.path, held.job_id)
        except (OSError, BadJobError):  # told of when it is recovered
            continue
        for path in spool.log_files(job.id, job.run_number + 1):
            with contextlib.suppress(OSError):  # somebody deleted it
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    yield status.st_dev, status.st_ino
