"""Finding dead owners, and what recovery has to know about each.

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
from queuectl.system.moving import status_of
from queuectl.system.scratch import LOCK_SUFFIX, try_lock
from queuectl.workers import owners

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from queuectl.spool.layout import Layout


class Dead(NamedTuple):
    """An owner that is dead."""

    name: str
    local: bool  # it ran on this machine
    by_lock: bool  # its lock is free; otherwise it is judged by its silence
    this_boot: bool  # it is known to have died under this boot: even what it did not sync is there
    copied: bool  # it is alive, and works in the spool that this one is a copy of
    unseen: str  # where its commands may be running unseen, in words; "" if nowhere
    only_for: str | None  # who alone can end its commands, if that is not us
    ending: Ending  # of its commands


class Deaths:
    """Finds dead owners on behalf of a living one.

    Args:
        spool: the spool.
        me: the living owner.
        heartbeats: the heartbeats seen so far.
    """

    def __init__(self, spool: Layout, me: str, heartbeats: owners.Heartbeats) -> None:
        self._spool = spool
        self._me = me
        self._heartbeats = heartbeats

    def found(self, waited_for: Mapping[str, Ending]) -> Iterator[Dead]:
        """Yield each owner that is dead.

        Args:
            waited_for: by owner, the endings that are under way.

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
            # a backup may have replaced the lock of a living owner, which will put it back
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
        # not geteuid(): a file system may show everybody's files as one user's
        ours = status_of(owners.path(self._spool, self._me, owners.RECORD_SUFFIX))
        us = None if ours is None else ours.st_uid  # the next heartbeat puts it back
        return owners.only_for(self._spool, name, worker, us)

    def _is_silent(self, name: str) -> bool:
        silent = self._heartbeats.silent(self._spool, name)
        if silent:
            self._heartbeats.forget(name)
        return silent


@contextlib.contextmanager
def lock_of(spool: Layout, dead: Dead) -> Iterator[bool]:
    """Hold an owner's lock while its jobs are recovered; yield whether the owner is really dead.

    An owner that has its lock by now is alive, though it seemed dead when it was looked at.
    """
    lock, is_dead = None, True
    if dead.local and dead.name:
        try:
            lock = try_lock(owners.path(spool, dead.name, LOCK_SUFFIX))
            is_dead = lock is not None
        except FileNotFoundError:
            is_dead = not dead.by_lock  # if its lock was there before, the owner may be alive
    try:
        yield is_dead
    finally:
        if lock is not None:
            os.close(lock)


def _tree_of(spool: Layout, name: str, worker: owners.Worker | None) -> Tree:
    """Return the processes that a dead owner may have left running.

    If this spool is a copy, those of the original are not among them.
    """
    home = "" if worker is None else worker.directory
    original = "" if home == owners.home_of(spool) else home
    return Tree(None, (mark_of(name),), tuple(_outputs_of(spool, name)), original)


def _outputs_of(spool: Layout, name: str) -> Iterator[tuple[int, int]]:
    """Yield the device and inode of the files that an owner's commands write their output to.

    They identify processes that have dropped their environment.
    """
    for held in spool.held():
        if held.owner != name:
            continue
        try:
            job = spool.read_file(held.path, held.job_id)
        except (OSError, BadJobError):  # reported when the job is recovered
            continue
        for path in spool.log_files(job.id, job.run_number + 1):
            with contextlib.suppress(OSError):  # somebody deleted it
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    yield status.st_dev, status.st_ino
