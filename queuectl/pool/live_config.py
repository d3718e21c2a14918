"""Follows config.json, so that a setting changed while a pool runs takes effect.

spool-layout.md, section "config.json".
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from queuectl.errors import QueuectlError, SpoolError
from queuectl.settings import config

if TYPE_CHECKING:
    from queuectl.settings.config import Config
    from queuectl.spool.spool import Spool
    from queuectl.workers.worklog import WorkLog

_UNKNOWN = (0, 0)  # of no file, so that the next `follow` reads what is there, even if nothing is
_SAVING_S = 1.0  # an editor that moves config.json away writes it again within this


class LiveConfig:
    """Keeps the settings of a spool in step with its config.json.

    Args:
        spool: its `config` is replaced.
        log: where changes and faults are logged.
    """

    def __init__(self, spool: Spool, log: WorkLog) -> None:
        self._spool = spool
        self._log = log
        self._stamp: tuple[int, int] | None = _UNKNOWN
        self._gone_at: float | None = None

    def forget(self) -> None:
        """Make the next `follow` read the file, whether it has changed or not."""
        self._stamp = _UNKNOWN

    @property
    def wait_s(self) -> float | None:
        """Seconds until `follow` must be called even if no event comes, None if it need not be."""
        if self._gone_at is None:
            return None
        return self._gone_at + _SAVING_S - time.monotonic()

    def follow(self) -> bool:
        """Read the file if it is not the one last read; tell whether a setting has changed.

        Faults in the file are logged.

        Raises:
            SpoolError: the file system refused to tell which file is there.
        """
        gone_at, self._gone_at = self._gone_at, None
        stamp = config.stamp(self._spool.path)
        if stamp is None and not os.path.isdir(self._spool.path):
            return False  # the whole spool is gone: keep its settings
        if stamp == self._stamp or (stamp is None and self._is_being_saved(gone_at)):
            return False
        self._stamp = stamp
        new = self._load()
        if new is None or new == self._spool.config:
            return False
        self._spool.config = new
        self._log.event("config", detail="settings changed")
        return True

    def _load(self) -> Config | None:
        """Return the settings in the file; log any fault in it and return None instead."""
        try:
            new, faults = config.load(self._spool.path)
            fault: QueuectlError | None = faults[0] if faults else None
        except SpoolError as error:
            fault = error
        if fault is None:
            return new
        self._log.event("warning", detail=f"keeping the settings as they were: {fault}")
        return None

    def _is_being_saved(self, gone_at: float | None) -> bool:
        """Tell whether config.json has been gone so briefly that an editor may be saving it.

        Args:
            gone_at: when it was first found to be gone (monotonic clock), None if that is now.
        """
        now = time.monotonic()
        gone_at = now if gone_at is None else gone_at
        if now >= gone_at + _SAVING_S:
            return False
        self._gone_at = gone_at
        return True
