"""One line for each thing that happens to a job (spool-layout.md, section "The log")."""

from __future__ import annotations

import json
import os
import select
import stat
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from queuectl.errors import QueuectlError, error_text
from queuectl.units import duration_text, plain, second_text, utc_text

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_PATIENCE_MS = 100  # for whoever reads a pipe or a terminal to make room, once


class WorkLog:
    """Writes lines to a descriptor, each in one write so that several pools may share a file.

    A log that cannot be written never stops a job: its errors are not raised. Lines for which there
    is no room, since nobody reads, are counted, and the count is logged once somebody does.
    """

    def __init__(self, descriptor: int, *, as_json: bool = False) -> None:
        self._descriptor = descriptor
        self._as_json = as_json
        self._waits = _waits_for_a_reader(descriptor)
        self._missing = 0
        self._lock = threading.Lock()

    def event(self, word: str, job_id: str | None = None, **details: object) -> None:
        """Write one line: when, what, which job, and what else there is to say.

        A float is a span in seconds.
        """
        if self._waits:
            with self._lock:  # the threads of a pool share it
                self._write_if_read(word, job_id, details)
        else:
            self._write(word, job_id, details)

    def errors_of(self, step: Callable[[], T]) -> T | None:
        """Do what is done again anyway; return its result, None if it failed: that is logged."""
        try:
            return step()
        except (OSError, QueuectlError) as error:
            self.event("error", detail=error_text(error))
            return None

    def _write_if_read(self, word: str, job_id: str | None, details: dict[str, object]) -> None:
        if not self._has_room():
            self._missing += 1
            return
        if self._missing:
            detail = f"{self._missing} lines are missing here: nobody read the log"
            self._missing = 0
            self._write("warning", None, {"detail": detail})
        self._write(word, job_id, details)

    def _write(self, word: str, job_id: str | None, details: dict[str, object]) -> None:
        form = _json if self._as_json else _text
        line = form(time.time(), word, job_id, details)
        try:
            os.write(self._descriptor, line.encode(errors="backslashreplace"))
        except OSError:
            return  # see the class

    def _has_room(self) -> bool:
        """Tell whether a write would not wait for a reader."""
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        return bool(room.poll(0 if self._missing else _PATIENCE_MS))


def _waits_for_a_reader(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # there is no log
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


def _json(now: float, word: str, job_id: str | None, details: dict[str, object]) -> str:
    fields = {"at": utc_text(now), "event": word, "id": job_id, **details}
    said = {
        key: round(value, 6) if isinstance(value, float) else value
        for key, value in fields.items()
        if value is not None
    }
    return json.dumps(said) + "\n"


def _text(now: float, word: str, job_id: str | None, details: dict[str, object]) -> str:
    line = f"{second_text(int(now))}Z  {word:<9}  {job_id or '-'}"
    for key, value in details.items():
        if isinstance(value, float):
            line += f"  {key}={duration_text(value)}"
        elif value is not None:
            line += f"  {value}" if key in _SPEAK_FOR_THEMSELVES else f"  {key}={value}"
    return plain(line) + "\n"


_SPEAK_FOR_THEMSELVES = ("detail", "command")
