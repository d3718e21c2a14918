"""The job record: how it is read, what it says, and how it is written (pure).

spool-layout.md, section "The record".
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from queuectl.errors import BadJobError, IncompleteJobError
from queuectl.ids import new_id
from queuectl.record.fields import FIELDS, MAX_COUNT, OUR_FIELDS, check_fields, check_new
from queuectl.units import instant, show, utc_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_RECORD_BYTES = 1 << 20
MAX_GROWN_BYTES = MAX_RECORD_BYTES + (1 << 17)  # limit once a worker has written into it
# JSON that others wrote can get longer when we write it: [1,1] gets a space, 1e15 all its zeros,
# and é becomes an escape if the record also holds a lone surrogate. It gets at most _LONGER times
# as long, and may exceed the limit by _FORM_BYTES.
_LONGER, _FORM_BYTES = 8, 1 << 15
_MAX_DEPTH = 64  # far below the recursion limit of the JSON coders; no useful record comes near
MAX_HISTORY = 20


# --- the record -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A job as its file holds it; immutable, so changes are made in copies.

    `record` holds every field of the file, including unknown ones.
    """

    record: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The job's id: the name of its file without `.json` (and without @OWNER while held)."""
        value: str = self.record["id"]
        return value

    @property
    def command(self) -> str | list[str]:
        """A string for the shell, or a list that is run without one."""
        value: str | list[str] = self.record["command"]
        return value

    @property
    def is_reason(self) -> bool:
        """Whether this is not a job but the reason for a file set aside: its command is empty."""
        return self.command == ""

    @property
    def state(self) -> str:
        """The state that the body names; if the directory differs, the directory counts."""
        value: str = self.record.get("state", "pending")
        return value

    @property
    def attempts(self) -> int:
        """How many runs that count have begun since the job was queued or retried by hand."""
        value: int = self.record.get("attempts", 0)
        return value

    @property
    def priority(self) -> int:
        """The priority; lower runs first."""
        value: int = self.record.get("priority", 0)
        return value

    def max_retries(self, usual: int) -> int:
        """Return how many failures make the job dead; `usual` if the job does not say."""
        value: int = self.record.get("max_retries", usual)
        return value

    def tries(self, usual: int) -> str:
        """Return the attempts so far and their limit, such as `1/3`; a job has at least one run."""
        return f"{self.attempts}/{max(1, self.max_retries(usual))}"

    def timeout_s(self, usual_s: float | None) -> float | None:
        """Return how long a run may take, None for no limit; `usual_s` if the job does not say."""
        value: float | None = self.record.get("timeout", usual_s)
        return value

    def later_delay_s(self, usual_s: float) -> float:
        """Return how long it waits if its exit code means later; `usual_s` if it does not say."""
        value: float = self.record.get("later_delay", usual_s)
        return value

    @property
    def created(self) -> int:
        """A number that sorts jobs by `created_at`; 0 if queuectl did not write that."""
        at = self.record.get("created_at") or ""
        try:  # the digits of 2026-01-31T08:00:00.000000Z without the century
            return int(at[2:4] + at[5:7] + at[8:10] + at[11:13] + at[14:16] + at[17:19] + at[20:26])
        except ValueError:
            return 0

    @property
    def tags(self) -> list[str]:
        """Words that the user put on the job."""
        value: list[str] = self.record.get("tags", [])
        return value

    @property
    def error(self) -> str:
        """Why the job failed or is dead; empty if the record does not say."""
        value: str = self.record.get("error_message") or ""
        return value

    @property
    def exit_code(self) -> int | None:
        """The exit status of the last run that ended.

        None if it had none, if no run has ended, and after a cancel or a retry by hand.
        """
        value: int | None = self.record.get("exit_code")
        return value

    @property
    def worker(self) -> str | None:
        """The owner that last held the job."""
        value: str | None = self.record.get("worker")
        return value

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry for each run that ended, oldest first; only the last `MAX_HISTORY` are kept."""
        value: list[dict[str, Any]] = self.record.get("history", [])
        return value

    @property
    def run_number(self) -> int:
        """The number of the last run that ended; a retry by hand does not restart the count."""
        recorded = self.history[-1].get("number") if self.history else 0
        if isinstance(recorded, int) and 0 <= recorded < MAX_COUNT:
            return recorded
        return len(self.history)

    def due(self, state: str) -> str:
        """Return the times before which the job must not run in `state`, as one text to compare."""
        return " ".join([self.record.get(field) or "" for field in _due_fields(state)])

    def not_before(self, state: str, now: float) -> float | None:
        """Return when the job may run in `state`, in seconds since the epoch; None for at once."""
        retry_at = self.retry_at(now) if state == "failed" else None
        times = [at for at in (self.instant("run_at"), retry_at) if at is not None]
        return max(times, default=None)

    def retry_at(self, now: float) -> float | None:
        """Return when a retry is due, in seconds since the epoch; None if no time is set.

        The wait from `now` is at most the span from `finished_at` to `next_retry_at`, because the
        clock may have been set back since.
        """
        due, ended = self.instant("next_retry_at"), self.instant("finished_at")
        return due if due is None or ended is None else min(due, now + max(0.0, due - ended))

    def place(self, state: str, ctime_ns: int) -> tuple[int, int, int]:
        """Return the key that orders waiting jobs: priority, arrival, `created`.

        The arrival is in microseconds since the epoch. It is the ctime of the file, but a job that
        was given back keeps its earlier arrival.
        """
        return self.priority, self._arrived_us(state, ctime_ns), self.created

    def _arrived_us(self, state: str, ctime_ns: int) -> int:
        came_us = ctime_ns // 1000
        before = self.record.get("arrived_at")
        if before is None or self.state != state:  # a job moved by hand arrives anew
            return came_us
        at = instant(before)
        return came_us if at is None else min(came_us, round(at * 1_000_000))

    def instant(self, field: str) -> float | None:
        """Return a time field in seconds since the epoch; None if it is unset or not a time."""
        return instant(self.record.get(field))

    def changed(self, **fields: Any) -> Job:
        """Return a copy with these fields set."""
        return Job({**self.record, **fields})

    def arriving_anew(self) -> Job:
        """Return the job without `arrived_at`, so that its place is given by its file's arrival."""
        if "arrived_at" not in self.record:
            return self
        return Job({name: value for name, value in self.record.items() if name != "arrived_at"})

    def encode(self) -> bytes:
        """Return the file's bytes: one line of JSON, UTF-8."""
        try:
            return _encode_text(self.record).encode() + b"\n"
        except UnicodeEncodeError:
            # a lone surrogate, such as \udc80 for a byte that is not UTF-8, needs an escape
            return json.dumps(self.record).encode() + b"\n"


def _due_fields(state: str) -> Sequence[str]:
    return ("run_at", "next_retry_at") if state == "failed" else ("run_at",)


def command_line(command: object) -> str:
    """Return a command on one line, as it would be typed."""
    if isinstance(command, list):
        import shlex  # few commands are lists, and the import takes 2 ms

        return shlex.join(map(str, command))
    return " ".join(str(command).split())


_encode_text = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def again(job: Job) -> Job:
    """Return a job reset for a fresh start: pending, no attempts, its history kept."""
    return job.arriving_anew().changed(
        state="pending", attempts=0, next_retry_at=None, error_message=None, exit_code=None
    )


# --- reading --------------------------------------------------------------------------------


def _no_constant(text: str) -> None:
    raise BadJobError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadJobError(f"the number {text[:40]} is out of range")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadJobError(f"{show(twice)} appears twice in one object")
    return record


_decode_text = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_duplicates
).decode


def _check_depth(text: str) -> None:
    """Raise BadJobError for deep nesting, before the decoder recurses into it."""
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return
    depth, in_string = 0, False
    for match in _JSON_MARKS.finditer(text):
        mark = match[0]
        if mark == '"':
            in_string = not in_string
        elif not in_string:
            depth += _NESTING.get(mark, 0)
            if depth > _MAX_DEPTH:
                raise BadJobError(f"nested more than {_MAX_DEPTH} deep")


_JSON_MARKS = re.compile(r'\\.|["\[\]{}]', re.DOTALL)
_NESTING = {"[": 1, "{": 1, "]": -1, "}": -1}


def decode(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`.

    Raises:
        IncompleteJobError: it is not a JSON object, perhaps because it is not fully written yet.
        BadJobError: it holds what no record may hold, such as NaN or a key given twice.
    """
    try:
        text = raw.removeprefix(BOM_UTF8).decode()  # some editors write one
        _check_depth(text)
        record = _decode_text(text)
    except UnicodeDecodeError:
        raise IncompleteJobError("not UTF-8") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if "\n" in text.strip() else ""
        # some of Python's messages end in "at" too
        where = f"{error.msg.removesuffix(' at')} at {line}column {error.colno}"
        msg = f"not JSON: {where if text.strip() else 'it is empty'}"
        raise IncompleteJobError(msg) from None
    except ValueError:  # more digits than int() accepts
        raise BadJobError("a number has too many digits") from None
    if not isinstance(record, dict):
        raise IncompleteJobError(f"not a JSON object but {show(record)}")
    return record


def check_size(job: Job, more: int = 0) -> None:
    """Check that a job's file will not be too large for the job to run.

    Args:
        job: the job to check.
        more: bytes by which a job that no worker has written into may exceed the limit.

    Raises:
        BadJobError: the file will be too large.
    """
    if 12 * len(str(job.record)) > MAX_RECORD_BYTES:  # a character becomes at most \ud83d\ude00
        limit = MAX_GROWN_BYTES if _may_have_grown(job.record) else MAX_RECORD_BYTES + more
        if len(job.encode()) > limit:
            raise BadJobError(f"larger than {MAX_RECORD_BYTES} bytes as queuectl writes it")


def _may_have_grown(record: Mapping[str, Any]) -> bool:
    """Tell whether a worker has written into a record since it was queued."""
    return "worker" in record or "arrived_at" in record


def _check_length(raw: bytes, limit: int) -> None:
    if len(raw) > limit:
        raise BadJobError(f"larger than {MAX_RECORD_BYTES} bytes")


def parse(raw: bytes, job_id: str) -> Job:
    """Return the job in `raw`, the contents of the file `job_id`.json.

    Raises:
        IncompleteJobError: see `decode`.
        BadJobError: it can never run; the message says why.
    """
    _check_length(raw, MAX_GROWN_BYTES)
    record = decode(raw)
    if not _may_have_grown(record):
        _check_length(raw, MAX_RECORD_BYTES)
    if _LONGER * len(raw) > MAX_RECORD_BYTES:
        check_size(Job(record), _FORM_BYTES)
    check_fields(record)
    if record.setdefault("id", job_id) != job_id:
        raise BadJobError(f'"id" is {show(record["id"])} but the file is named {job_id}.json')
    return Job(record)


def draft(fields: Mapping[str, Any], *, max_retries: int, now: float) -> Job:
    """Return a new job with these fields, checked and ready to be queued.

    The fields that queuectl itself writes (state, attempts, times) are set anew, whatever `fields`
    says.

    Raises:
        BadJobError: a field is wrong, `command` is missing, or the job is too large.
    """
    check_new(fields)
    at = utc_text(now)
    record: dict[str, Any] = {
        "id": fields.get("id") or new_id(now),
        "command": fields["command"],
        "state": "pending",
        "attempts": 0,
        "max_retries": fields.get("max_retries", max_retries),
        "created_at": at,
        "updated_at": at,
    }
    record.update(
        (name, value)
        for name, value in fields.items()
        if name not in record and name not in OUR_FIELDS
    )
    job = Job(record)
    if not fields.keys() <= FIELDS.keys():  # an unknown field may hold anything
        _check_json(job)
    check_size(job)
    return job


def _check_json(job: Job) -> None:
    """Check that a job can be written as JSON and read back.

    Raises:
        BadJobError: it cannot.
    """
    try:
        decode(job.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise BadJobError(f"cannot be written as JSON: {error}") from None
