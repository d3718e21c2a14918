"""Follows config.json: what is set while a pool runs holds from then on.

spool-layout.md, section "config.json".
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from queuectl import config
from queuectl.errors import BadSettingError, SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.spool import Spool
    from queuectl.worklog import WorkLog

_UNKNOWN = (0, 0)  # of no file: what is there now is read, also if there is none
_SAVING_S = 1.0  # an editor that moves config.json away and writes it anew takes less


class LiveConfig:
    """Keeps the settings of a spool as its config.json says.

    Args:
        spool: whose `config` is replaced.
        log: where a change is told, and what cannot be read.
        ask_again: is called to have `follow` called again after so many seconds.
        changed: is called after a change.
    """

    def __init__(
        self,
        spool: Spool,
        log: WorkLog,
        ask_again: Callable[[float], None],
        changed: Callable[[], None],
    ) -> None:
        self._spool = spool
        self._log = log
        self._ask_again = ask_again
        self._changed = changed
        self._stamp: tuple[int, int] | None = _UNKNOWN
        self._gone_at: float | None = None

    def forget(self) -> None:
        """Have the next `follow` read the file, changed or not."""
        self._stamp = _UNKNOWN

    def follow(self) -> None:
        """Read the file if it is another than the last time; what is wrong in it is told.

        Raises:
            OSError: the file system refused to say which file it is.
        """
        try:
            status = os.stat(f"{self._spool.path}/{config.FILE_NAME}")
            stamp = (status.st_ino, status.st_mtime_ns)
        except FileNotFoundError:
            stamp = None
        if stamp is not None or stamp == self._stamp:
            self._gone_at = None
        if stamp == self._stamp or (stamp is None and self._is_being_saved()):
            return
        self._stamp = stamp
        try:
            new = config.load(self._spool.path)
        except (BadSettingError, SpoolError) as error:
            self._log.event("warning", detail=f"keeping the settings as they were: {error}")
            return
        if new != self._spool.config:
            self._spool.config = new
            self._changed()
            self._log.event("config", detail="settings changed")

    def _is_being_saved(self) -> bool:
        """Tell whether config.json is gone for so short a time that an editor may bring it back."""
        now = time.monotonic()
        if self._gone_at is None:
            self._gone_at = now
            self._ask_again(_SAVING_S)
        return now < self._gone_at + _SAVING_S
