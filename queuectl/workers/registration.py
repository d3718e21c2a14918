"""This process as an owner of claims: its lock, its record and its heartbeat.

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
from queuectl.errors import SpoolError
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

_LOOKED_AT_S = 2.0  # whoever asks whether an owner is alive holds its lock for an instant
_TRIES = 100  # whoever clears tmp/ is faster once or twice; what refuses each time never gives in


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
        for tries in count(1):
            self._spool.create()  # FileLock would make a directory that is gone, open to others
            lock.acquire(timeout=_LOOKED_AT_S)
            try:
                moving.move(draft, self._path(LOCK_SUFFIX))
            except FileNotFoundError:  # whoever clears tmp/ was here before it was locked
                lock.release()
                if tries == _TRIES:
                    raise
                if self._lock is not None:
                    # or it is FUSE, which refuses the name of a removed file that is open
                    self._lock.release()
            else:
                break
        self._lock = lock  # only now is one let go that guards a removed file
        self._lock_is = kernel.inode_name(os.lstat(self._path(LOCK_SUFFIX)))

    def _write(self, record: Worker) -> None:
        draft = draft_file(self._spool.directory("tmp"), "~worker", self.name)
        record = replace(record, directory=home_of(self._spool))
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
        sign = self._path(STALLED_SUFFIX)
        with contextlib.suppress(OSError):  # it may refuse this too: the log tells all the same
            if not stalled:
                moving.unlink_quietly(sign)
                return
            files.put_sign(sign, self._path(LOCK_SUFFIX), mode=self._spool.config.file_mode)

    @property
    def beat_every_s(self) -> float:
        """How often it is to show that it lives: a third of the lease, so that two may fail."""
        return self._spool.config.lease / 3

    def beat(self) -> None:
        """Show that this owner lives.

        Raises:
            OSError, SpoolError: the file system refused.
        """
        self.keep()
        with contextlib.suppress(FileNotFoundError):  # the spool is away
            os.utime(self._path(RECORD_SUFFIX))

    def beat_if_due(self) -> None:
        """Do that if it is time.

        Raises:
            SpoolError: the file system refused.
        """
        now_s = time.monotonic()
        if now_s < self._beat_s + self.beat_every_s:
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
        try:
            return kernel.inode_name(os.lstat(self._path(LOCK_SUFFIX))) == self._lock_is
        except FileNotFoundError:
            return False

    def _path(self, suffix: str) -> str:
        return path(self._spool, self.name, suffix)
