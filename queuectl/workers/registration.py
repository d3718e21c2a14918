"""Registering this process as an owner of claims: its lock, its record and its heartbeat.

spool-layout.md, section "workers/".
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, replace
from itertools import count
from typing import TYPE_CHECKING

from queuectl import __version__, kernel
from queuectl.errors import SpoolError, refused_to
from queuectl.kernel import processes
from queuectl.system import files, moving
from queuectl.system.scratch import LOCK_SUFFIX, draft_file, new_owner
from queuectl.units import utc_text
from queuectl.workers.owners import (
    RECORD_SUFFIX,
    STALLED_SUFFIX,
    Worker,
    home_of,
    path,
    remove_files,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from queuectl.spool.spool import Spool

_LOOKED_AT_S = 2.0  # a process that asks whether an owner is alive holds its lock for an instant
_TRIES = 100  # a process that clears tmp/ may be faster once or twice; more has another cause


class Registration:
    """A context manager that makes this process an owner of claims.

    The lock is taken before the record is written, and removed after it. So a record without a held
    lock always belongs to a dead owner.

    Raises:
        SpoolError: on entering, if the file system refused.
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
            version=__version__,
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

    def __exit__(self, *_: object) -> None:
        self._clear()

    def _clear(self) -> None:
        # What cannot be removed belongs to a dead owner from here on. The lock goes last, and only
        # if the rest was removed and nothing is held: a free lock tells the next recovery at once
        # that the owner is dead.
        with contextlib.suppress(OSError, SpoolError):
            if not any(held.owner == self.name for held in self._spool.held()):
                remove_files(self._spool, self.name)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.release()

    def _take_lock(self) -> None:
        """Make the lock appear in workers/ already held: an owner whose lock is free is dead."""
        from filelock import FileLock

        draft = f"{self._spool.directory('tmp')}/{self.name}{LOCK_SUFFIX}"
        lock = FileLock(draft, mode=self._spool.config.file_mode, is_singleton=False)
        for tries in count(1):
            self._spool.create()  # FileLock would make a missing directory, open to others
            lock.acquire(timeout=_LOOKED_AT_S)
            try:
                moving.move(draft, self._path(LOCK_SUFFIX))
            except FileNotFoundError:  # a process that clears tmp/ was faster than the lock
                lock.release()
                if tries == _TRIES:
                    raise
                if self._lock is not None:
                    # or FUSE refuses the name of a removed file that is still open
                    self._lock.release()
            else:
                break
        self._lock = lock  # releases the old lock, of a removed file, only now
        self._lock_is = kernel.inode_name(os.lstat(self._path(LOCK_SUFFIX)))

    def _write(self, record: Worker) -> None:
        draft = draft_file(self._spool.directory("tmp"), "~worker", self.name)
        record = replace(record, directory=home_of(self._spool))
        raw = json.dumps(asdict(record)).encode() + b"\n"
        mode = self._spool.config.file_mode
        files.replace(self._path(RECORD_SUFFIX), raw, draft, sync=False, mode=mode)
        self.record = record

    def resize(self, slots: int) -> None:
        """Write into the record how many jobs this pool runs at a time from now on.

        Raises:
            OSError: the file system refused; the record is as it was.
        """
        self._write(replace(self.record, slots=slots))

    def show_stalled(self, *, stalled: bool) -> None:
        """Show in workers/ that the system refuses this pool something, or no longer does."""
        sign = self._path(STALLED_SUFFIX)
        with contextlib.suppress(OSError):  # it may refuse this too; the log says it in any case
            if not stalled:
                moving.unlink_quietly(sign)
                return
            files.put_sign(sign, self._path(LOCK_SUFFIX), mode=self._spool.config.file_mode)

    @property
    def beat_every_s(self) -> float:
        """The seconds between heartbeats: a third of the lease, so that two may fail."""
        return self._spool.config.lease / 3

    def beat(self) -> None:
        """Show that this owner is alive.

        Raises:
            OSError, SpoolError: the file system refused.
        """
        self.keep()
        with contextlib.suppress(FileNotFoundError):  # the spool is gone
            os.utime(self._path(RECORD_SUFFIX))

    def beat_if_due(self) -> None:
        """Show that this owner is alive, if the next heartbeat is due.

        Raises:
            SpoolError: the file system refused.
        """
        now_s = time.monotonic()
        if now_s < self._beat_s + self.beat_every_s:
            return
        self._beat_s = now_s
        with refused_to("keep up", self._path(RECORD_SUFFIX)):
            self.beat()

    def keep(self) -> None:
        """Put back those of this owner's files that were removed, or replaced from a backup.

        Do nothing while the whole spool is gone: a new one would be in the way if it comes back.

        Raises:
            OSError, SpoolError: the file system refused.
        """
        if not os.path.isdir(self._spool.path):
            return
        if not self._has_its_lock():
            self._take_lock()
        is_here = self.record.directory == home_of(self._spool)
        if not is_here or not moving.is_there(self._path(RECORD_SUFFIX)):
            self._write(self.record)

    def _has_its_lock(self) -> bool:
        lock = moving.status_of(self._path(LOCK_SUFFIX))
        return lock is not None and kernel.inode_name(lock) == self._lock_is

    def _path(self, suffix: str) -> str:
        return path(self._spool, self.name, suffix)
