"""Which owners are alive, by the record and the lock that each has in workers/.

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
    """The record in workers/WORKER.json of a pool, or of a command line that holds jobs."""

    worker: str
    host: str
    machine_id: str
    boot_id: str
    pid: int
    slots: int  # how many jobs it runs at a time; 0 for a command line
    since: str
    directory: str = ""  # "DEVICE:INODE" of the workers/ that it registered in
    started: int = 0  # in ticks of the kernel's clock; together with the pid it names one process
    pid_namespace: str = ""  # names the processes that it can see; empty if not known
    version: str = ""  # of queuectl, as loaded at its start

    @property
    def is_pool(self) -> bool:
        """Whether it runs jobs; a command line only holds jobs while it moves them."""
        return self.slots > 0

    @property
    def of_this_machine(self) -> bool:
        """Whether it was started on this installation, under this boot or an earlier one."""
        return (self.host, self.machine_id) == (kernel.host(), kernel.machine_id())

    @property
    def may_be_elsewhere(self) -> bool:
        """Whether only its host's name says that it ran on this machine, under an earlier boot."""
        return self.of_this_machine and self.machine_id == "" and not self.of_this_boot

    @property
    def of_this_boot(self) -> bool:
        """Whether it was started under the current boot of this kernel."""
        return self.boot_id == kernel.boot_id()

    @property
    def suspended(self) -> bool:
        """Whether its process is suspended, and does nothing until it is continued."""
        return self.of_this_boot and processes.is_suspended(self.pid, self.started)

    @property
    def runs_unseen(self) -> bool:
        """Whether its commands may be running in a container that we cannot see into.

        False if it was process 1 of its container, which ends with it.
        """
        ours = processes.pid_namespace()
        unseen = self.pid_namespace not in ("", ours) and ours != processes.INITIAL_NAMESPACE
        return unseen and self.is_pool and self.pid != 1 and self.of_this_boot

    def lives_here(self, spool: Layout) -> bool:
        """Tell whether it registered in this spool and is alive, whatever became of its lock."""
        return self.directory == home_of(spool) and self._lives

    def lives_elsewhere(self, spool: Layout) -> bool:
        """Tell whether it is alive, and registered in a spool that this one is a copy of."""
        is_another = self.directory not in ("", home_of(spool))
        return is_another and self._lives

    @property
    def _lives(self) -> bool:
        return processes.lives(self.pid, self.started, self.pid_namespace)


def home_of(spool: Layout) -> str:
    """Return the `directory` of those who register here; a spool keeps it when it is renamed.

    Raises:
        OSError: workers/ is gone, or cannot be looked at.
    """
    return kernel.inode_name(os.stat(spool.directory("workers")))


class Life(Enum):
    """Whether an owner is alive, as far as this process can know."""

    ALIVE = "alive"
    DEAD = "dead"
    AWAY = "away"  # on another machine, where only its heartbeat can tell


def path(spool: Layout, name: str, suffix: str) -> str:
    """Return the path of an owner's file in workers/: `.json`, `.lock`, `.stalled` or `.stop`."""
    return f"{spool.directory('workers')}/{name}{suffix}"


def remove_files(spool: Spool, name: str) -> None:
    """Remove the files of an owner that holds nothing, and last the lock by which it is judged.

    Raises:
        OSError: the file system refused.
    """
    asked = requests.cancel_files(spool, name)
    for file in [*asked, *(path(spool, name, suffix) for suffix in _SUFFIXES)]:
        moving.unlink_file(file)


def known(spool: Layout) -> dict[str, Worker | None]:
    """Return every owner that has a record or a lock in workers/, with its record or None.

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
# what an owner is judged by; another version may write the other fields differently
_OF_ITS_LIFE = {"worker", "host", "boot_id", "pid"}
_UNKNOWN = {"str": "", "int": 0}


def read_worker(spool: Layout, name: str) -> Worker | None:
    """Return an owner's record; None if there is none, it is not valid, or we may not read it."""
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
    """Return whether an owner is alive at this instant; change nothing.

    Raises:
        OSError: its lock cannot be tested, because there are no locks or no descriptors.
    """
    if worker is None:
        # without a record, only the name tells the host that it ran on
        local = name == "" or was_named_here(name)
        return _locked(spool, name) if local else Life.AWAY
    # of an earlier boot too: an owner that holds its lock is alive, whatever the record says
    is_here = worker.of_this_boot or worker.of_this_machine
    return _locked(spool, name) if is_here else Life.AWAY


class Seen(NamedTuple):
    """What is known about an owner."""

    worker: Worker | None  # its record, if it has one
    life: Life
    by_silence: bool  # see `is_judged_by_silence`

    @property
    def known_dead(self) -> bool:
        """Whether it is certainly dead, so that no lease has to pass first."""
        return self.life is Life.DEAD and not self.by_silence


def look_up(spool: Layout, name: str) -> Seen:
    """Return what is known about an owner.

    Raises:
        OSError: see `life`.
    """
    return look_at(spool, name, read_worker(spool, name))


def look_at(spool: Layout, name: str, worker: Worker | None) -> Seen:
    """Do what `look_up` does, for an owner whose record has been read."""
    # in this order: a living owner may put its lock back between the two looks
    by_silence = is_judged_by_silence(spool, name, worker)
    return Seen(worker, life(spool, name, worker), by_silence)


def _locked(spool: Layout, name: str) -> Life:
    """Judge an owner by its lock: the kernel frees it at death, and no other owner reuses it."""
    try:
        descriptor = try_lock(path(spool, name, LOCK_SUFFIX), shared=True)
    except FileNotFoundError:
        return Life.DEAD
    except PermissionError:
        return Life.ALIVE  # we may not open it, so we cannot tell
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            return Life.DEAD  # not a lock that an owner has made
        raise
    if descriptor is None:
        return Life.ALIVE
    os.close(descriptor)
    return Life.DEAD


def is_traceless(spool: Layout, name: str) -> bool:
    """Tell whether an owner's lock file is gone, perhaps removed while the owner is alive.

    A living owner puts its files back with its next heartbeat. Until the lease has passed without
    one, it cannot be told from a dead owner.
    """
    return name != "" and not moving.is_there(path(spool, name, LOCK_SUFFIX))


def is_judged_by_silence(spool: Layout, name: str, worker: Worker | None) -> bool:
    """Tell whether an owner that seems to be dead counts as dead only after the lease."""
    if is_traceless(spool, name):
        return True
    # without a machine id, two machines may share a name, and not see each other's locks
    return worker is not None and (worker.runs_unseen or worker.may_be_elsewhere)


def is_lost(spool: Layout, owner: str | None) -> bool:
    """Tell whether a job is held by a dead owner, or by nobody; `owner` is None if it is at rest.

    Raises:
        OSError: see `life`.
    """
    return owner is not None and look_up(spool, owner).life is Life.DEAD


def user_of(spool: Layout, name: str) -> str:
    """Return the user that an owner runs as, who made its record; "" if that is gone."""
    record = moving.status_of(path(spool, name, RECORD_SUFFIX))
    return "" if record is None else user_name(record.st_uid)


def only_for(spool: Layout, name: str, worker: Worker | None, us: int | None = None) -> str | None:
    """Return who alone can see and end what a dead pool ran: `ann or root`; None if we can too.

    Args:
        spool: the spool.
        name: the owner's name.
        worker: its record.
        us: the user that files which we create there belong to, if that may be another than ours.
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
    """Return in words who takes back what a dead owner holds, and when."""
    who = only_for(spool, name, seen.worker)
    if who is not None:
        return f"a worker or `queuectl doctor --fix` of {who} takes it back"
    if seen.by_silence:
        return "a worker takes it back after the lease"
    return "the next worker takes it back, `queuectl doctor --fix` at once"


def _or_root(user: str) -> str:
    return user if user == "root" else f"{user} or root"


class Heartbeats:
    """Judges owners by their heartbeats, for those whose lock cannot tell.

    One whose record has not changed for `lease` seconds of our own clock is dead.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def silent(self, spool: Layout, name: str, now_s: float | None = None) -> bool:
        """Tell whether an owner's record has not been seen to change for the lease.

        Args:
            spool: the spool.
            name: the owner's name.
            now_s: the time of a monotonic clock; None: `time.monotonic()`.
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
        """Forget all owners but these: the others have left."""
        for name in self._seen.keys() - names:
            del self._seen[name]

    def forget(self, name: str) -> None:
        """Forget an owner that is gone."""
        self._seen.pop(name, None)


def is_heard(spool: Layout, name: str) -> bool:
    """Tell whether an owner on another machine has shown a heartbeat within the lease.

    This relies on the file system's clock and ours being the same. `Heartbeats` does not, but it
    has to watch for a whole lease.
    """
    with contextlib.suppress(FileNotFoundError):
        beat = os.stat(path(spool, name, RECORD_SUFFIX)).st_mtime
        return abs(time.time() - beat) < spool.config.lease
    return False


def is_stalled(spool: Layout, name: str) -> bool:
    """Tell whether a pool shows that the system refuses it something."""
    return moving.is_there(path(spool, name, STALLED_SUFFIX))


def workers(spool: Layout) -> list[Worker]:
    """Return the pools that are alive, or on another machine and not known to be dead.

    Raises:
        OSError: workers/ cannot be read, or see `life`.
    """
    return [worker for worker in living(spool) if worker.is_pool]


def living(spool: Layout) -> list[Worker]:
    """Return what `workers` does, and the command lines that may hold jobs.

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
