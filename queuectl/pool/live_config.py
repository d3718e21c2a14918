"""Follows config.json: what is set while a pool runs holds from then on.

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

_UNKNOWN = (0, 0)  # of no file: what is there now is read, also if there is none
_SAVING_S = 1.0  # an editor that moves config.json away and writes it anew takes less


class LiveConfig:
    """Keeps the settings of a spool as its config.json says.

    Args:
        spool: whose `config` is replaced.
        log: where a change is told, and what cannot be read.
    """

    def __init__(self, spool: Spool, log: WorkLog) -> None:
        self._spool = spool
        self._log = log
        self._stamp: tuple[int, int] | None = _UNKNOWN
        self._gone_at: float | None = None

    def forget(self) -> None:
        """Have the next `follow` read the file, changed or not."""
        self._stamp = _UNKNOWN

    @property
    def wait_s(self) -> float | None:
        """The seconds until `follow` is to be called though nothing came; None: no hurry."""
        if self._gone_at is None:
            return None
        return self._gone_at + _SAVING_S - time.monotonic()

    def follow(self) -> bool:
        """Read the file if it is another than the last time; tell whether a setting has changed.

        What is wrong in it is told.

        Raises:
            SpoolError: the file system refused to say which file it is.
        """
        gone_at, self._gone_at = self._gone_at, None
        stamp = config.stamp(self._spool.path)
        if stamp is None and not os.path.isdir(self._spool.path):
            return False  # the whole spool is away, and its settings with it
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
        """Return what the file says, None if not all of it counts, which is told."""
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
        """Tell whether config.json is gone for so short a time that an editor may bring it back.

        Args:
            gone_at: when it was first seen to be gone.
        """
        now = time.monotonic()
        gone_at = now if gone_at is None else gone_at
        if now >= gone_at + _SAVING_S:
            return False
        self._gone_at = gone_at
        return True
