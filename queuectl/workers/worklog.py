"""The log of a pool: one line for each event (spool-layout.md, section "The log")."""

from __future__ import annotations

import json
import os
import select
import stat
import threading
import time
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from queuectl.errors import QueuectlError, error_text
from queuectl.units import duration_text, plain, second_text, utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from queuectl.record.job import Job

T = TypeVar("T")

_ERRORS_KEPT = 100  # how many different errors are remembered: those that came last
_AGAIN_S = 60.0  # an error that goes on is logged again after this, then after twice this, ...
_SELDOM_S = 3600.0  # but after this at the latest
_OVER_S = 180.0  # an error not met for so long is over; most steps come each minute or sooner
_PATIENCE_MS = 100  # how long the reader of a pipe or a terminal may take to make room, once
_LAST_PATIENCE_MS = 2_000  # the same for the last line
_ROOM_BYTES = 4096  # that a pipe has at least once poll says that it can be written to (Linux)


class _Repeated(NamedTuple):
    """When an error was logged, for how long it is not logged again, and when it came last."""

    told_s: float
    quiet_s: float
    came_s: float


_NEVER = _Repeated(-inf, 0.0, -inf)


class WorkLog:
    """Writes lines to a descriptor, each in one write so that several pools may share a file.

    A log that cannot be written never stops a job: its errors are not raised. Lines that find no
    room, or no reader, are counted. The count is logged as soon as a line can be written again.
    """

    def __init__(self, descriptor: int, *, as_json: bool = False) -> None:
        self._descriptor = descriptor
        self._as_json = as_json
        self.pool: str | None = None  # the name of the pool that logs, for JSON lines
        self._waits = _waits_for_a_reader(descriptor)
        self._missing = 0
        self._errors: dict[str, _Repeated] = {}
        self._errors_lock = threading.Lock()
        self._is_last = False
        self._cut = False  # the last line was written only in part
        self._lock = threading.Lock()

    def event(self, word: str, job_id: str | None = None, **details: object) -> None:
        """Write one line: the time, the event, the job, and further details.

        A float among the details is a span in seconds.
        """
        self._is_written(word, job_id, details)

    def _is_written(
        self, word: str, job_id: str | None, details: dict[str, object], *, counts: bool = True
    ) -> bool:
        """Write a line; tell whether it was written, and if not, count it if it `counts`."""
        with self._lock:  # the threads of a pool share the log
            room = self._has_room()
            if room and self._missing:
                room = self._tell_of_missing() and self._has_room()
            is_written = room and self._write(word, job_id, details)
            self._missing += counts and not is_written
            return is_written

    def be_patient(self) -> None:
        """Wait longer for a slow reader from the next line on: it may be the last."""
        self._is_last = True

    def errors_of(self, step: Callable[[], T]) -> T | None:
        """Run a step that will be repeated anyway; return its result, or None and log its error.

        An error that goes on is logged less and less often: a disk that is gone must not fill the
        one that the log is on.
        """
        try:
            return step()
        except (OSError, QueuectlError) as error:
            self._error(error_text(error))
            return None

    def _error(self, detail: str) -> None:
        """Log an error, unless it has gone on since it was logged and is not due again."""
        with self._errors_lock:
            now_s = time.monotonic()
            before = self._errors.pop(detail, _NEVER)
            if now_s > before.came_s + _OVER_S:
                before = _NEVER
            # one that found no room is tried again the next time, but counted as missing once only
            is_due = now_s >= before.told_s + before.quiet_s
            is_new = before is _NEVER
            if is_due and self._is_written("error", None, {"detail": detail}, counts=is_new):
                quiet_s = min(max(2 * before.quiet_s, _AGAIN_S), _SELDOM_S)
                before = _Repeated(now_s, quiet_s, now_s)
            self._errors[detail] = before._replace(came_s=now_s)
            if len(self._errors) > _ERRORS_KEPT:
                del self._errors[next(iter(self._errors))]  # the one not met for longest

    def _tell_of_missing(self) -> bool:
        """Log how many lines are missing; False if that cannot be written either."""
        why = "nobody read the log" if self._waits else "the log could not be written"
        lines = "1 line is" if self._missing == 1 else f"{self._missing} lines are"
        detail = f"{lines} missing here: {why}"
        if not self._write("warning", None, {"detail": detail}):
            return False
        self._missing = 0
        return True

    def _write(self, word: str, job_id: str | None, details: dict[str, object]) -> bool:
        """Write a line, after ending one that was cut; tell whether it was written as a whole."""
        data = self._line(word, job_id, details)
        if self._waits and len(data) > _ROOM_BYTES:
            data = self._line(word, job_id, {key: _brief(text) for key, text in details.items()})
        try:
            if self._cut:
                os.write(self._descriptor, b"\n")
                self._cut = False
            written = os.write(self._descriptor, data)
        except OSError:
            return False  # not raised: see the class
        self._cut = 0 < written < len(data)
        return written == len(data)

    def _line(self, word: str, job_id: str | None, details: dict[str, object]) -> bytes:
        if self._as_json:
            line = _json(time.time(), word, job_id, {**details, "pool": self.pool})
        else:
            line = _text(time.time(), word, job_id, details)
        return line.encode(errors="backslashreplace")

    def _has_room(self) -> bool:
        """Give the reader a moment to make room; tell whether a write would not have to wait."""
        if not self._waits:
            return True
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        patience_ms = 0 if self._missing else _PATIENCE_MS
        return bool(room.poll(_LAST_PATIENCE_MS if self._is_last else patience_ms))


def story(job: Job, run: Mapping[str, object], took_s: float) -> dict[str, object]:
    """Return the details to log of a run that has ended; `run` is its entry in the history."""
    if job.state == "completed":
        return {"took": took_s}
    details: dict[str, object] = {"detail": job.error, "took": took_s}
    details |= {name: run.get(name) for name in ("number", "ended", "exit_code", "signal")}
    if job.state == "failed":
        now = time.time()
        details["again_in"] = max(0.0, (job.instant("next_retry_at") or now) - now)
    return details


def _waits_for_a_reader(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # the descriptor is not open: there is no log
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


def _json(now: float, word: str, job_id: str | None, details: dict[str, object]) -> str:
    fields = {"at": utc_text(now), "event": word, "id": job_id, **details}
    if "command" in fields:
        fields["command"] = _shortened(str(fields["command"]), _SHOWN_TO_PROGRAMS)
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
        elif key == "command":
            line += f"  {_shortened(str(value), _SHOWN)}"
        elif value is not None and key not in _FOR_PROGRAMS:
            line += f"  {value}" if key == "detail" else f"  {key}={value}"
    return plain(line) + "\n"


_FOR_PROGRAMS = ("number", "ended", "exit_code", "signal")  # people read it in `detail`


# Characters of a command that are logged. JSON lines have a limit too: an escaped character can
# take 12 bytes, and 300 of these fit into the room that a pipe is asked for.
_SHOWN, _SHOWN_TO_PROGRAMS = 80, 300


def _brief(value: object) -> object:
    return _shortened(value, _SHOWN_TO_PROGRAMS) if isinstance(value, str) else value


def _shortened(text: str, most: int) -> str:
    # keep the end: two commands may differ only there
    tail = most // 3
    return text if len(text) <= most else f"{text[: most - tail - 3]}...{text[-tail:]}"
