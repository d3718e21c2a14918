"""Who is alive: the record and the lock by which every owner of claims is known.

spool-layout.md, section "workers/".
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from queuectl import files, kernel
from queuectl.errors import SpoolError
from queuectl.scratch import Scratch, new_owner, try_lock
from queuectl.units import utc_text

if TYPE_CHECKING:
    from types import TracebackType

    from filelock import BaseFileLock

    from queuectl.spool import Spool

RECORD_SUFFIX, LOCK_SUFFIX, STOP_SUFFIX = ".json", ".lock", ".stop"


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


class Life(Enum):
    """What can be told of an owner from here."""

    ALIVE = "alive"
    DEAD = "dead"
    AWAY = "away"  # on another machine: only its heartbeat can tell


class Registration:
    """This process as an owner of claims, from entering to leaving.

    The lock is taken before the record is there, and goes after it: a record without a held lock
    is a dead owner's at any instant.
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
        )
        self.name = self.record.worker
        self._lock: BaseFileLock | None = None

    def __enter__(self) -> Registration:
        self._register()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for suffix in (RECORD_SUFFIX, STOP_SUFFIX, LOCK_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(suffix))
        assert self._lock is not None
        self._lock.release()

    def _register(self) -> None:
        from filelock import FileLock

        self._lock = FileLock(self._path(LOCK_SUFFIX), mode=0o600, is_singleton=False)
        self._lock.acquire(blocking=False)
        draft = f"{self._spool.directory('tmp')}/worker@{self.name}{RECORD_SUFFIX}"
        files.write_new(draft, json.dumps(asdict(self.record)).encode() + b"\n", sync=False)
        files.move(draft, self._path(RECORD_SUFFIX))

    def beat(self) -> None:
        """Show that this owner lives; register anew if its files were taken away."""
        try:
            os.utime(self._path(RECORD_SUFFIX))
            os.stat(self._path(LOCK_SUFFIX))
        except FileNotFoundError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(RECORD_SUFFIX))
            self._register()

    def asked_to_stop(self) -> str | None:
        """Return what workers/WORKER.stop says, None if it is not there."""
        try:
            with open(self._path(STOP_SUFFIX), encoding="utf-8") as file:
                return file.read().strip()
        except FileNotFoundError:
            return None

    def _path(self, suffix: str) -> str:
        return f"{self._spool.directory('workers')}/{self.name}{suffix}"


def known(spool: Spool) -> dict[str, Worker | None]:
    """Return every owner that has a record or a lock in workers/; None where there is no record."""
    names = set()
    for name in os.listdir(spool.directory("workers")):
        stem, suffix = os.path.splitext(name)
        if suffix in (RECORD_SUFFIX, LOCK_SUFFIX) and stem != RECOVERY:
            names.add(stem)
    return {name: read_worker(spool, name) for name in sorted(names)}


RECOVERY = "recovery"


def read_worker(spool: Spool, name: str) -> Worker | None:
    """Return an owner's record, None if there is none or it is not one of ours."""
    try:
        with open(f"{spool.directory('workers')}/{name}{RECORD_SUFFIX}", "rb") as file:
            fields: Any = json.loads(file.read())
        return Worker(**fields)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def life(spool: Spool, name: str, worker: Worker | None) -> Life:
    """Return what can be told of an owner at this instant, changing nothing."""
    here = kernel.host()
    if worker is None:
        # Registered, it would have a record; the name begins with the host it ran on.
        local = name == "" or name.startswith(f"{here}-")
        return _locked(spool, name) if local else Life.AWAY
    if worker.boot_id == kernel.boot_id():
        return _locked(spool, name)
    same_machine = worker.host == here and worker.machine_id == kernel.machine_id()
    return Life.DEAD if same_machine else Life.AWAY


def _locked(spool: Spool, name: str) -> Life:
    """Tell by the lock, which the kernel frees at death, with no pid to be reused."""
    try:
        descriptor = try_lock(f"{spool.directory('workers')}/{name}{LOCK_SUFFIX}")
    except FileNotFoundError:
        return Life.DEAD
    except PermissionError:
        return Life.ALIVE  # a reader who may not open it cannot tell
    if descriptor is None:
        return Life.ALIVE
    os.close(descriptor)
    return Life.DEAD


class Heartbeats:
    """Watches owners on other machines: no change for `lease` seconds of our own clock is death."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def silent(self, spool: Spool, name: str, lease_s: float, monotonic_s: float) -> bool:
        """Tell whether an owner has not been seen to change for the lease."""
        try:
            beat = os.stat(f"{spool.directory('workers')}/{name}{RECORD_SUFFIX}").st_mtime_ns
        except FileNotFoundError:
            beat = 0
        last, since = self._seen.setdefault(name, (beat, monotonic_s))
        if last != beat:
            self._seen[name] = (beat, monotonic_s)
            return False
        return monotonic_s - since >= lease_s

    def forget(self, name: str) -> None:
        """Drop what is remembered of an owner that is gone."""
        self._seen.pop(name, None)


def workers(spool: Spool) -> list[Worker]:
    """Return the pools that are alive, or on another machine and not known to be dead."""
    try:
        found = known(spool)
    except FileNotFoundError:
        return []
    return [
        worker
        for name, worker in found.items()
        if worker and worker.slots and life(spool, name, worker) is not Life.DEAD
    ]


def ask_to_stop(spool: Spool, name: str, *, now: bool) -> None:
    """Ask a pool to stop: after what it runs, or at once.

    Raises:
        SpoolError: the file that asks could not be written.
    """
    target = f"{spool.directory('workers')}/{name}{STOP_SUFFIX}"
    try:
        with Scratch(spool.directory("tmp")) as me:
            draft = f"{spool.directory('tmp')}/stop@{me.owner}{RECORD_SUFFIX}"
            files.write_new(draft, b"now\n" if now else b"", sync=False)
            files.move(draft, target)
    except OSError as error:
        raise SpoolError("write", target, error) from error


def withdraw_stop(spool: Spool, name: str) -> None:
    """Take back what nobody is there to read any more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{spool.directory('workers')}/{name}{STOP_SUFFIX}")
