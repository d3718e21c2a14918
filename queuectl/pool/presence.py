"""Notices what others move, remove or restore under a running pool, and mends what it can.

spool-layout.md, sections "Waking" and "workers/".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from queuectl.spool.filenames import DIRECTORIES
from queuectl.system.scratch import LOCK_SUFFIX
from queuectl.workers.owners import RECORD_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.spool.spool import Spool
    from queuectl.workers.registration import Registration
    from queuectl.workers.worklog import WorkLog


class Presence:
    """Keeps a pool registered, and the directories of its spool in place.

    Args:
        spool: the spool.
        log: where missing directories are logged.
        registration: the pool's registration.
        returned: called when a directory was made again, since arrivals may have gone unseen.
    """

    def __init__(
        self, spool: Spool, log: WorkLog, registration: Registration, returned: Callable[[], None]
    ) -> None:
        self._spool = spool
        self._log = log
        self._registration = registration
        self._returned = returned
        name = registration.name
        self._files = (f"{name}{RECORD_SUFFIX}", f"{name}{LOCK_SUFFIX}")
        self._was_written = False
        self._was_away = False

    def noticed(self, name: str) -> bool:
        """Note for `follow` that a file came into workers/; tell whether it is this pool's.

        Only the pool's record and lock count. May be called in any thread.
        """
        # Usually others wrote it, from a backup, which may bring one file long after the other.
        self._was_written = self._was_written or name in self._files
        return name in self._files

    def follow(self) -> None:
        """Restore the registration if one of its files was written.

        Raises:
            OSError, SpoolError: the file system refused.
        """
        if self._was_written:
            self._was_written = False
            self._registration.keep()

    def keep(self) -> bool:
        """Make again what is missing; return False while the whole spool is gone (the pool waits).

        Raises:
            OSError: the file system refused.
            SpoolError: a directory could not be made.
        """
        if self._is_away():
            return False
        for name in DIRECTORIES:
            path = self._spool.directory(name)
            if not os.path.isdir(path):
                self._spool.create()
                if os.path.isdir(path):  # logs/ may be a link to what is gone: jobs run without
                    self._log.event("warning", detail=f"{name}/ was gone: made again")
                    self._returned()
        self._registration.keep()
        return True

    def _is_away(self) -> bool:
        """Tell whether the whole spool is gone; it may be moved back, or a submit may make it."""
        is_away = not os.path.isdir(self._spool.path)
        if is_away and not self._was_away:
            self._log.event("warning", detail=f"{self._spool.path} is gone: waiting for it")
        self._was_away = is_away
        return is_away
