"""Who is alive: the record and the lock by which every owner of claims is known.

spool-layout.md, section "workers/".
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import TYPE_CHECKING

from queuectl import files, kernel, requests
from queuectl.errors import BadJobError, SpoolError
from queuectl.job import decode
from queuectl.kernel import processes
from queuectl.kernel.users import user_name
from queuectl.reading import read_regular
from queuectl.scratch import LOCK_SUFFIX, is_owner, new_owner, try_lock, was_named_here
from queuectl.units import utc_text

if TYPE_CHECKING:
    from types import TracebackType

    from filelock import BaseFileLock

    from queuectl.layout import Layout
    from queuectl.spool import Spool

RECORD_SUFFIX = ".json"
STALLED_SUFFIX = ".stalled"
# in the order of their removal
_SUFFIXES = (RECORD_SUFFIX, requests.STOP_SUFFIX, STALLED_SUFFIX, LOCK_SUFFIX)
_LOOKED_AT_S = 2.0  # whoever asks whether an owner is alive holds its lock for an instant


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What workers/WORKER.json says. `slots` is 0 for a command line that holds jobs in passing."""

    worker: str
    host: str
    machine_id: str
    boot_id: str
    pid: int
    slots: int
    since: str
    directory: str = ""  # "DEVICE:INODE" of the workers/ that it registered in
    started: int = 0  # with its pid, which process it is: in ticks of the kernel's clock
    pid_namespace: str = ""  # whose processes it can see; empty where that is not known

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
        return unseen and self.slots > 0 and self.pid != 1 and self.of_this_boot

    def lives_here(self, spool: Layout) -> bool:
        """Tell whether it is a pool of this spool, alive, whatever became of its lock."""
        return self.directory == _identity(spool) and processes.lives(self.pid, self.started)

    def lives_elsewhere(self, spool: Layout) -> bool:
        """Tell whether it is a pool of another spool, alive, of which this one is a copy."""
        is_another = self.directory not in ("", _identity(spool))
        return is_another and processes.lives(self.pid, self.started)


def _identity(spool: Layout) -> str:
    """Return what a directory keeps while it is moved about in its file system."""
    return _name_of(os.stat(spool.directory("workers")))


def _name_of(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}"


class Life(Enum):
    """What can be told of an owner from here."""

    ALIVE = "alive"
    DEAD = "dead"
    AWAY = "away"  # on another machine: only its heartbeat can tell


class Registration:
    """This process as an owner of claims, from entering to leaving.

    The lock is taken before the record is there, and goes after it: a record without a held lock
    is a dead owner's at any instant.

    Raises:
        SpoolError: it is entered, and the file system refused.
    """

    def __init__(self, spool: Spool, slots: int = 0) -> None:
        self._spool = spool
        self.record = Worker(
            worker=new_owner(),
            host=kernel.host(),
            machine_id=kernel.machine_id(),
            boot_id=kernel.boot_id(),
            pid=os.getpid(),
            slots=slots,
            since=utc_text(time.time()),
            started=processes.started(),
            pid_namespace=processes.pid_namespace(),
        )
        self.name = self.record.worker
        self._lock: BaseFileLock | None = None
        self._lock_is = ""  # "DEVICE:INODE" of its file
        self._beat_s = time.monotonic()

    def __enter__(self) -> Registration:
        try:
            self._take_lock()
            self._write(self.record)
        except BaseException as error:
            self._clear()
            if isinstance(error, OSError):
                raise SpoolError("register in", self._spool.directory("workers"), error) from error
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear()

    def _clear(self) -> None:
        # What cannot be removed is a dead owner's from here on. The lock goes last, and only if the
        # rest went, and nothing is held: it is by the lock that the next recovery knows at once.
        with contextlib.suppress(OSError, SpoolError):
            if not any(held.owner == self.name for held in self._spool.held()):
                remove_files(self._spool, self.name)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.release()

    def _take_lock(self) -> None:
        """Have the lock appear as a held one: whose lock can be taken is dead."""
        from filelock import FileLock

        draft = f"{self._spool.directory('tmp')}/{self.name}{LOCK_SUFFIX}"
        lock = FileLock(draft, mode=self._spool.config.file_mode, is_singleton=False)
        while True:
            self._spool.create()  # FileLock would make a directory that is gone, open to others
            lock.acquire(timeout=_LOOKED_AT_S)
            try:
                files.move(draft, self._path(LOCK_SUFFIX))
            except FileNotFoundError:  # whoever clears tmp/ was here before it was locked
                lock.release()
            else:
                break
        self._lock = lock  # only now is one let go that guards a removed file
        self._lock_is = _name_of(os.lstat(self._path(LOCK_SUFFIX)))

    def _write(self, record: Worker) -> None:
        draft = f"{self._spool.directory('tmp')}/~worker@{self.name}{RECORD_SUFFIX}"
        record = replace(record, directory=_identity(self._spool))
        raw = json.dumps(asdict(record)).encode() + b"\n"
        mode = self._spool.config.file_mode
        files.replace(self._path(RECORD_SUFFIX), raw, draft, sync=False, mode=mode)
        self.record = record

    def resize(self, slots: int) -> None:
        """Tell those who look how many jobs it runs at a time from here on.

        Raises:
            OSError: the file system refused; the record is as it was.
        """
        self._write(replace(self.record, slots=slots))

    def show_stalled(self, *, stalled: bool) -> None:
        """Show those who look that the system refuses something, or that it does so no more."""
        path = self._path(STALLED_SUFFIX)
        with contextlib.suppress(OSError):  # it may refuse this too: the log tells all the same
            if stalled:  # empty: on a full disk there is room for a name
                files.write_new(path, b"", sync=False, mode=self._spool.config.file_mode)
            else:
                files.unlink_quietly(path)

    def beat(self) -> None:
        """Show that this owner lives.

        Raises:
            OSError: the file system refused.
        """
        self.keep()
        with contextlib.suppress(FileNotFoundError):  # the spool is away
            os.utime(self._path(RECORD_SUFFIX))

    def beat_if_due(self) -> None:
        """Do that if a third of the lease has passed since the last time.

        Raises:
            SpoolError: the file system refused.
        """
        now_s = time.monotonic()
        if now_s < self._beat_s + self._spool.config.lease / 3:
            return
        self._beat_s = now_s
        try:
            self.beat()
        except OSError as error:
            raise SpoolError("keep up", self._path(RECORD_SUFFIX), error) from error

    def keep(self) -> None:
        """Put back what was taken away of its files, or replaced from a backup.

        Not while the whole spool is away: made anew it would be in the way of what comes back.

        Raises:
            OSError: the file system refused.
        """
        if not os.path.isdir(self._spool.path):
            return
        if not self._has_its_lock():
            self._take_lock()
        is_here = self.record.directory == _identity(self._spool)
        if not is_here or not files.is_there(self._path(RECORD_SUFFIX)):
            self._write(self.record)

    def _has_its_lock(self) -> bool:
        try:
            return _name_of(os.lstat(self._path(LOCK_SUFFIX))) == self._lock_is
        except FileNotFoundError:
            return False

    def _path(self, suffix: str) -> str:
        return path(self._spool, self.name, suffix)


def path(spool: Layout, name: str, suffix: str) -> str:
    """Return where an owner has its record (`.json`) or its lock (`.lock`)."""
    return f"{spool.directory('workers')}/{name}{suffix}"


def remove_files(spool: Spool, name: str) -> None:
    """Remove what an owner that holds nothing has in workers/: its lock last, which tells of it.

    Raises:
        OSError: the file system refused.
    """
    asked = requests.cancel_files(spool, name)
    for file in [*asked, *(path(spool, name, suffix) for suffix in _SUFFIXES)]:
        files.unlink_file(file)


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


def look_up(spool: Layout, name: str) -> tuple[Worker | None, Life]:
    """Return an owner's record, if it has one, and what can be told of its life.

    Raises:
        OSError: see `life`.
    """
    worker = read_worker(spool, name)
    return worker, life(spool, name, worker)


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
    return name != "" and not files.is_there(path(spool, name, LOCK_SUFFIX))


def is_judged_by_silence(spool: Layout, name: str, worker: Worker | None) -> bool:
    """Tell of an owner that seems to be dead whether that counts only once the lease has passed."""
    if is_traceless(spool, name):
        return True
    # without an id two machines may have one name, and no locks between them
    return worker is not None and (worker.runs_unseen or worker.may_be_elsewhere)


def only_for(spool: Layout, name: str, worker: Worker | None, us: int | None = None) -> str | None:
    """Return who alone can see and end what a dead pool ran, as `ann or root`; None: we can too.

    Args:
        spool: where.
        name: the owner's.
        worker: its record.
        us: the user whom files that we make there belong to, if that may not be our own.
    """
    ours = (os.geteuid(), us)
    if ours[0] == 0 or (worker is not None and not (worker.slots and worker.of_this_boot)):
        return None
    for suffix in (RECORD_SUFFIX, LOCK_SUFFIX):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path(spool, name, suffix))
            of_this_boot = worker is not None or status.st_ctime >= kernel.booted_at()
            theirs = of_this_boot and status.st_uid not in ours
            return _or_root(user_name(status.st_uid)) if theirs else None
    return None


def recovered_by(spool: Layout, name: str, worker: Worker | None) -> str:
    """Return who takes back what a dead owner holds, and when."""
    who = only_for(spool, name, worker)
    if who is not None:
        return f"a worker or `queuectl doctor --fix` of {who} takes it back"
    if is_judged_by_silence(spool, name, worker):
        return "a worker takes it back after the lease"
    return "the next worker takes it back, `queuectl doctor --fix` now"


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

    def forget(self, name: str) -> None:
        """Drop what is remembered of an owner that is gone."""
        self._seen.pop(name, None)


def suspended_text(pid: int) -> str:
    """Return what to say of a process that stands still."""
    return f"suspended (`kill -CONT {pid}` lets it go on)"


def is_stalled(spool: Layout, name: str) -> bool:
    """Tell whether a pool says that the system refuses it something."""
    return files.is_there(path(spool, name, STALLED_SUFFIX))


def stalled_text(name: str) -> str:
    """Return what to say of such a pool."""
    return f"{name} is stalled: it can record or start nothing; its log says why"


def workers(spool: Layout) -> list[Worker]:
    """Return the pools that are alive, or on another machine and not known to be dead.

    Raises:
        OSError: workers/ cannot be read, or see `life`.
    """
    return [worker for worker in living(spool) if worker.slots]


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
