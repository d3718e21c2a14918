"""Who is alive: the record and the lock by which every owner of claims is known.

spool-layout.md, section "workers/".
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from queuectl import kernel
from queuectl.errors import BadJobError
from queuectl.kernel import processes
from queuectl.record.job import decode
from queuectl.record.reading import read_regular
from queuectl.system import moving
from queuectl.system.scratch import LOCK_SUFFIX, is_owner, try_lock, was_named_here
from queuectl.system.users import user_name
from queuectl.workers import requests

if TYPE_CHECKING:
    from collections.abc import Collection

    from queuectl.spool.layout import Layout
    from queuectl.spool.spool import Spool

RECORD_SUFFIX = ".json"
STALLED_SUFFIX = ".stalled"
# in the order of their removal
_SUFFIXES = (RECORD_SUFFIX, requests.STOP_SUFFIX, STALLED_SUFFIX, LOCK_SUFFIX)


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What workers/WORKER.json says of a pool, or of a command line that holds jobs in passing."""

    worker: str
    host: str
    machine_id: str
    boot_id: str
    pid: int
    slots: int  # how many jobs it runs at a time; 0 for a command line
    since: str
    directory: str = ""  # "DEVICE:INODE" of the workers/ that it registered in
    started: int = 0  # with its pid, which process it is: in ticks of the kernel's clock
    pid_namespace: str = ""  # whose processes it can see; empty where that is not known
    version: str = ""  # of queuectl, whose code it keeps until it leaves

    @property
    def is_pool(self) -> bool:
        """Whether it runs jobs: a command line only holds some, while it moves them."""
        return self.slots > 0

    @property
    def of_this_machine(self) -> bool:
        """Whether it was started by this installation, by whichever boot."""
        return (self.host, self.machine_id) == (kernel.host(), kernel.machine_id())

    @property
    def may_be_elsewhere(self) -> bool:
        """Whether only its name says that it ran on this machine, before this boot."""
        return self.of_this_machine and self.machine_id == "" and not self.of_this_boot

    @property
    def of_this_boot(self) -> bool:
        """Whether it was started under the kernel that runs now, by this boot."""
        return self.boot_id == kernel.boot_id()

    @property
    def suspended(self) -> bool:
        """Whether it stands still, and does nothing until it is continued."""
        return self.of_this_boot and processes.is_suspended(self.pid, self.started)

    @property
    def runs_unseen(self) -> bool:
        """Whether what it ran may live in a container of this machine that cannot be seen into.

        With its process 1 a container ends as a whole.
        """
        ours = processes.pid_namespace()
        unseen = self.pid_namespace not in ("", ours) and ours != processes.INITIAL_NAMESPACE
        return unseen and self.is_pool and self.pid != 1 and self.of_this_boot

    def lives_here(self, spool: Layout) -> bool:
        """Tell whether it is a pool of this spool, alive, whatever became of its lock."""
        return self.directory == home_of(spool) and self._lives

    def lives_elsewhere(self, spool: Layout) -> bool:
        """Tell whether it is a pool of another spool, alive, of which this one is a copy."""
        is_another = self.directory not in ("", home_of(spool))
        return is_another and self._lives

    @property
    def _lives(self) -> bool:
        return processes.lives(self.pid, self.started, self.pid_namespace)


def home_of(spool: Layout) -> str:
    """Return the `directory` of those who register here; a spool that is moved about keeps it.

    Raises:
        OSError: workers/ is gone, or cannot be looked at.
    """
    return kernel.inode_name(os.stat(spool.directory("workers")))


class Life(Enum):
    """What can be told of an owner from here."""

    ALIVE = "alive"
    DEAD = "dead"
    AWAY = "away"  # on another machine: only its heartbeat can tell


def path(spool: Layout, name: str, suffix: str) -> str:
    """Return where an owner has a file of its own: `.json`, `.lock`, `.stalled` or `.stop`."""
    return f"{spool.directory('workers')}/{name}{suffix}"


def remove_files(spool: Spool, name: str) -> None:
    """Remove what an owner that holds nothing has in workers/: its lock last, which tells of it.

    Raises:
        OSError: the file system refused.
    """
    asked = requests.cancel_files(spool, name)
    for file in [*asked, *(path(spool, name, suffix) for suffix in _SUFFIXES)]:
        moving.unlink_file(file)


def known(spool: Layout) -> dict[str, Worker | None]:
    """Return every owner that has a record or a lock in workers/; None where there is no record.

    Raises:
        OSError: workers/ cannot be read.
    """
    names = set()
    for name in os.listdir(spool.directory("workers")):
        stem, suffix = os.path.splitext(name)
        ours = is_owner(stem) and requests.CANCEL_MARK not in name
        if suffix in (RECORD_SUFFIX, LOCK_SUFFIX) and ours:
            names.add(stem)
    return {name: read_worker(spool, name) for name in sorted(names)}


_FIELDS = {item.name: item.type for item in fields(Worker)}
# by what it is judged; what else a record says may be written otherwise by another version
_OF_ITS_LIFE = {"worker", "host", "boot_id", "pid"}
_UNKNOWN = {"str": "", "int": 0}


def read_worker(spool: Layout, name: str) -> Worker | None:
    """Return an owner's record, None if there is none, it is not one of ours or not for us."""
    try:
        found = decode(read_regular(path(spool, name, RECORD_SUFFIX)))
    except (FileNotFoundError, PermissionError, BadJobError):
        return None
    sound = {key for key, kind in _FIELDS.items() if type(found.get(key)).__name__ == kind}
    if not sound >= _OF_ITS_LIFE or found["worker"] != name:
        return None
    unknown = {key: _UNKNOWN[str(kind)] for key, kind in _FIELDS.items()} | {"slots": 1}
    return Worker(**{**unknown, **{key: found[key] for key in sound}})


def life(spool: Layout, name: str, worker: Worker | None) -> Life:
    """Return what can be told of an owner at this instant, changing nothing.

    Raises:
        OSError: nothing can be told: there are no locks, or no descriptors.
    """
    if worker is None:
        # Registered, it would have a record; the name begins with the host it ran on.
        local = name == "" or was_named_here(name)
        return _locked(spool, name) if local else Life.AWAY
    # after a reboot too: who holds a lock lives, whatever a record says
    is_here = worker.of_this_boot or worker.of_this_machine
    return _locked(spool, name) if is_here else Life.AWAY


class Seen(NamedTuple):
    """What can be told of an owner."""

    worker: Worker | None  # its record, if it has one
    life: Life
    by_silence: bool  # see `is_judged_by_silence`

    @property
    def known_dead(self) -> bool:
        """Whether it is dead for certain: no lease has to pass first."""
        return self.life is Life.DEAD and not self.by_silence


def look_up(spool: Layout, name: str) -> Seen:
    """Return what can be told of an owner.

    Raises:
        OSError: see `life`.
    """
    return look_at(spool, name, read_worker(spool, name))


def look_at(spool: Layout, name: str, worker: Worker | None) -> Seen:
    """Do what `look_up` does, of an owner whose record was read."""
    # in this order: a living owner may put its lock back between the two looks
    by_silence = is_judged_by_silence(spool, name, worker)
    return Seen(worker, life(spool, name, worker), by_silence)


def _locked(spool: Layout, name: str) -> Life:
    """Tell by the lock, which the kernel frees at death, with no pid to be reused."""
    try:
        descriptor = try_lock(path(spool, name, LOCK_SUFFIX), shared=True)
    except FileNotFoundError:
        return Life.DEAD
    except PermissionError:
        return Life.ALIVE  # a reader who may not open it cannot tell
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            return Life.DEAD  # no lock that an owner of ours ever made
        raise
    if descriptor is None:
        return Life.ALIVE
    os.close(descriptor)
    return Life.DEAD


def is_traceless(spool: Layout, name: str) -> bool:
    """Tell whether the lock that would tell is gone: removed under a living owner, perhaps.

    Such an owner puts its files back with its next heartbeat; until the lease has passed without
    one, nobody can tell it from a dead one.
    """
    return name != "" and not moving.is_there(path(spool, name, LOCK_SUFFIX))


def is_judged_by_silence(spool: Layout, name: str, worker: Worker | None) -> bool:
    """Tell of an owner that seems to be dead whether that counts only once the lease has passed."""
    if is_traceless(spool, name):
        return True
    # without an id two machines may have one name, and no locks between them
    return worker is not None and (worker.runs_unseen or worker.may_be_elsewhere)


def is_lost(spool: Layout, owner: str | None) -> bool:
    """Tell of a job whether who holds it is dead, or nobody; `owner` is None where none is held.

    Raises:
        OSError: see `life`.
    """
    return owner is not None and look_up(spool, owner).life is Life.DEAD


def user_of(spool: Layout, name: str) -> str:
    """Return as which user an owner runs: who made its record; "" if that is gone."""
    with contextlib.suppress(FileNotFoundError):
        return user_name(os.lstat(path(spool, name, RECORD_SUFFIX)).st_uid)
    return ""


def only_for(spool: Layout, name: str, worker: Worker | None, us: int | None = None) -> str | None:
    """Return who alone can see and end what a dead pool ran, as `ann or root`; None: we can too.

    Args:
        spool: where.
        name: the owner's.
        worker: its record.
        us: the user whom files that we make there belong to, if that may not be our own.
    """
    ours = (os.geteuid(), us)
    if ours[0] == 0 or (worker is not None and not (worker.is_pool and worker.of_this_boot)):
        return None
    for suffix in (RECORD_SUFFIX, LOCK_SUFFIX):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path(spool, name, suffix))
            of_this_boot = worker is not None or status.st_ctime >= kernel.booted_at()
            theirs = of_this_boot and status.st_uid not in ours
            return _or_root(user_name(status.st_uid)) if theirs else None
    return None


def recovered_by(spool: Layout, name: str, seen: Seen) -> str:
    """Return who takes back what a dead owner holds, and when."""
    who = only_for(spool, name, seen.worker)
    if who is not None:
        return f"a worker or `queuectl doctor --fix` of {who} takes it back"
    if seen.by_silence:
        return "a worker takes it back after the lease"
    return "the next worker takes it back, `queuectl doctor --fix` at once"


def _or_root(user: str) -> str:
    return user if user == "root" else f"{user} or root"


class Heartbeats:
    """Watches owners on other machines: no change for `lease` seconds of our own clock is death."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def silent(self, spool: Layout, name: str, now_s: float | None = None) -> bool:
        """Tell whether an owner has not been seen to change for the lease.

        Args:
            spool: where.
            name: the owner's.
            now_s: the time of a clock that only goes forward; None: of ours.
        """
        now_s = time.monotonic() if now_s is None else now_s
        try:
            beat = os.stat(path(spool, name, RECORD_SUFFIX)).st_mtime_ns
        except FileNotFoundError:
            beat = 0
        last, since_s = self._seen.setdefault(name, (beat, now_s))
        if last != beat:
            self._seen[name] = (beat, now_s)
            return False
        return now_s - since_s >= spool.config.lease

    def keep(self, names: Collection[str]) -> None:
        """Drop what is remembered of all but these: they have left."""
        for name in self._seen.keys() - names:
            del self._seen[name]

    def forget(self, name: str) -> None:
        """Drop what is remembered of an owner that is gone."""
        self._seen.pop(name, None)


def is_heard(spool: Layout, name: str) -> bool:
    """Tell of an owner on another machine whether it has shown within the lease that it lives.

    As far as the clocks of the file system and of this machine are one: `Heartbeats` needs no clock
    of others, but a lease to watch.
    """
    with contextlib.suppress(FileNotFoundError):
        beat = os.stat(path(spool, name, RECORD_SUFFIX)).st_mtime
        return abs(time.time() - beat) < spool.config.lease
    return False


def is_stalled(spool: Layout, name: str) -> bool:
    """Tell whether a pool says that the system refuses it something."""
    return moving.is_there(path(spool, name, STALLED_SUFFIX))


def workers(spool: Layout) -> list[Worker]:
    """Return the pools that are alive, or on another machine and not known to be dead.

    Raises:
        OSError: workers/ cannot be read, or see `life`.
    """
    return [worker for worker in living(spool) if worker.is_pool]


def living(spool: Layout) -> list[Worker]:
    """Return what `workers` does, and command lines that may hold jobs.

    Raises:
        OSError: see `workers`.
    """
    try:
        found = known(spool)
    except FileNotFoundError:
        return []
    return [
        worker
        for name, worker in found.items()
        if worker and life(spool, name, worker) is not Life.DEAD
    ]
