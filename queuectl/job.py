"""The job record: its fields, how it is read, and how it is written (pure).

spool-layout.md, section "The record", is the public side of `FIELDS`.
"""

from __future__ import annotations

import json
import math
import os
import re
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from queuectl.errors import BadJobError, IncompleteJobError
from queuectl.ids import check_id, is_id, new_id
from queuectl.units import instant, show, utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STATES = ("pending", "processing", "completed", "failed", "dead")
MAX_RECORD_BYTES = 1 << 20
MAX_GROWN_BYTES = MAX_RECORD_BYTES + (1 << 17)  # of one that has run, for what we write into it
# JSON that others wrote is longer when we write it: [1,1] gets a blank, 1e15 all its zeros, an é an
# escape if half a character stands in the same record. At most 8 times, and so many bytes may be.
_LONGER, _FORM_BYTES = 8, 1 << 15
MAX_DEPTH = 64  # far below what the JSON coders recurse to; no record of use comes near it
MAX_HISTORY = 20

_INT64 = 1 << 63
MAX_COUNT = _INT64 - 1


# --- the fields -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """One field of the record: what it must be, who writes it, and the check that says so."""

    must_be: str
    writer: str
    accepts: Callable[[Any], bool]


def _passable(text: object) -> bool:
    """Tell whether a string can be handed to another process: no NUL, and encodable."""
    if not isinstance(text, str) or "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _command(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip() != "" and _passable(value)
    return _strings(value) and len(value) > 0 and value[0] != "" and all(map(_passable, value))


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64


def _count(value: Any) -> bool:
    return _whole(value) and value >= 0


def _seconds(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (number and 0 < value < _INT64)


def _time(value: Any) -> bool:
    return value is None or instant(value) is not None


def _env(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key != "" and "=" not in key and _passable(key) and _passable(text)
        for key, text in value.items()
    )


def _cwd(value: Any) -> bool:
    return value is None or (_passable(value) and cast("str", value).startswith("/"))


def are_codes(value: Any) -> bool:
    """Tell whether a value is a list of exit codes."""
    return isinstance(value, list) and all(_whole(code) and 0 <= code <= 255 for code in value)


def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _history(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


_COMMAND = "a string without NUL that is not blank, or a list of such strings"
_WHOLE = "an integer"
_COUNT = "an integer, 0 or more"
_SECONDS = "a number of seconds above 0, or null"
_TIME = 'a time with its zone such as "2030-01-31T08:00:00Z", or null'
_ANY_TIME = "a string or null, such a time where we wrote it"
_CODES = "a list of exit codes, 0 to 255"
_TEXT = "a string or null"

FIELDS: dict[str, Field] = {
    "id": Field("the file's name without .json", "user", is_id),
    "command": Field(_COMMAND, "user", _command),
    "state": Field(f"one of {', '.join(STATES)}", "queuectl", lambda value: value in STATES),
    "attempts": Field(_COUNT, "queuectl", _count),
    "max_retries": Field(_COUNT, "user", _count),
    "priority": Field(_WHOLE, "user", _whole),
    "run_at": Field(_TIME, "user", _time),
    "timeout": Field(_SECONDS, "user", _seconds),
    "cwd": Field("an absolute path, or null", "user", _cwd),
    "env": Field("an object of strings (no NUL, no = in a name)", "user", _env),
    "tags": Field("a list of strings", "user", _strings),
    "success_codes": Field(_CODES, "user", are_codes),
    "fatal_codes": Field(_CODES, "user", are_codes),
    "later_codes": Field(_CODES, "user", are_codes),
    "created_at": Field(_ANY_TIME, "queuectl", _text),
    "updated_at": Field(_ANY_TIME, "queuectl", _text),
    "next_retry_at": Field(_TIME, "queuectl", _time),
    "error_message": Field(_TEXT, "queuectl", _text),
    "exit_code": Field("an integer or null", "queuectl", lambda v: v is None or _whole(v)),
    "worker": Field(_TEXT, "queuectl", _text),
    "started_at": Field(_ANY_TIME, "queuectl", _text),
    "finished_at": Field(_ANY_TIME, "queuectl", _text),
    "stdout_path": Field(_TEXT, "queuectl", _text),
    "stderr_path": Field(_TEXT, "queuectl", _text),
    "history": Field("a list of objects", "queuectl", _history),
}
_OUR_FIELDS = frozenset(name for name, field in FIELDS.items() if field.writer == "queuectl")
USER_FIELDS = tuple(name for name, field in FIELDS.items() if field.writer == "user")


def check_fields(record: Mapping[str, Any]) -> None:
    """Check every field that we know; the others are kept as they are.

    Raises:
        BadJobError: naming the first field that is wrong, and what it must be.
    """
    for name, value in record.items():
        field = FIELDS.get(name)
        if field is not None and not field.accepts(value):
            if name == "id":
                check_id(value)
            msg = f'"{name}" must be {field.must_be}, got {show(value)}'
            raise BadJobError(msg)
    if "command" not in record:
        msg = f'"command" is missing{_meant(record, "command")}'
        raise BadJobError(msg)


def _meant(record: Mapping[str, Any], name: str) -> str:
    from difflib import get_close_matches  # only on the way to an error

    near = get_close_matches(name, [key for key in record if key not in FIELDS], n=1)
    return f' (is "{near[0]}" a slip of the pen?)' if near else ""


# --- the record -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One job, as its file holds it; changed only by copy.

    `record` holds every field of the file, the unknown ones too.
    """

    record: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The file's name without `.json`."""
        value: str = self.record["id"]
        return value

    @property
    def command(self) -> str | list[str]:
        """A string for the shell, or a list that is run without one."""
        value: str | list[str] = self.record["command"]
        return value

    @property
    def state(self) -> str:
        """The state that the body names (the directory wins where they differ)."""
        value: str = self.record.get("state", "pending")
        return value

    @property
    def attempts(self) -> int:
        """Runs started so far, since the job was queued or retried by hand."""
        value: int = self.record.get("attempts", 0)
        return value

    @property
    def priority(self) -> int:
        """Lower runs first."""
        value: int = self.record.get("priority", 0)
        return value

    @property
    def tags(self) -> list[str]:
        """Words that the user put on the job."""
        value: list[str] = self.record.get("tags", [])
        return value

    @property
    def worker(self) -> str | None:
        """Who last held the job."""
        value: str | None = self.record.get("worker")
        return value

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry an attempt, the last `MAX_HISTORY` of them."""
        value: list[dict[str, Any]] = self.record.get("history", [])
        return value

    @property
    def run_number(self) -> int:
        """The number of the last run that has ended, counted over retries by hand too."""
        recorded = self.history[-1].get("number") if self.history else 0
        if isinstance(recorded, int) and 0 <= recorded < _INT64 - 1:
            return recorded
        return len(self.history)

    def due(self, state: str) -> str:
        """Return the times before which it is not to run from a directory, as they are written."""
        return " ".join([self.record.get(field) or "" for field in _due_fields(state)])

    def not_before(self, state: str) -> float | None:
        """Return the latest of those times in seconds since the epoch, None if there is none."""
        times = [at for field in _due_fields(state) if (at := self.instant(field)) is not None]
        return max(times, default=None)

    def instant(self, field: str) -> float | None:
        """Return a time field in seconds since the epoch, None where it is unset or no time."""
        return instant(self.record.get(field))

    def changed(self, **fields: Any) -> Job:
        """Return a copy with these fields set."""
        return Job({**self.record, **fields})

    def encode(self) -> bytes:
        """Return the file's bytes: one line of JSON, UTF-8."""
        try:
            return _encode_text(self.record).encode() + b"\n"
        except UnicodeEncodeError:
            # a lone surrogate in a field that we keep: only \\ud800 holds it
            return json.dumps(self.record).encode() + b"\n"


def _due_fields(state: str) -> Sequence[str]:
    return ("run_at", "next_retry_at") if state == "failed" else ("run_at",)


def command_line(command: object) -> str:
    """Return a command on one line, as one would type it."""
    if isinstance(command, list):
        import shlex  # few commands are lists, and it is 2 ms of each start

        return shlex.join(map(str, command))
    return " ".join(str(command).split())


_encode_text = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def again(job: Job) -> Job:
    """Return a job as one that starts again: no attempts, the history kept."""
    return job.changed(
        state="pending", attempts=0, next_retry_at=None, error_message=None, exit_code=None
    )


# --- reading --------------------------------------------------------------------------------


def _no_constant(text: str) -> None:
    msg = f"{text} is not JSON"
    raise BadJobError(msg)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        msg = f"the number {text[:40]} is out of range"
        raise BadJobError(msg)
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        msg = f"{show(twice)} stands twice in one object"
        raise BadJobError(msg)
    return record


_decode_text = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_duplicates
).decode


def _check_depth(text: str) -> None:
    """Refuse deep nesting before a coder recurses into it."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth, in_string = 0, False
    for match in _JSON_MARKS.finditer(text):
        mark = match[0]
        if mark == '"':
            in_string = not in_string
        elif not in_string:
            depth += _NESTING.get(mark, 0)
            if depth > MAX_DEPTH:
                msg = f"nested more than {MAX_DEPTH} deep"
                raise BadJobError(msg)


_JSON_MARKS = re.compile(r'\\.|["\[\]{}]', re.DOTALL)
_NESTING = {"[": 1, "{": 1, "]": -1, "}": -1}


def decode(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`.

    Raises:
        IncompleteJobError: it does not parse, or not to an object: perhaps not yet.
        BadJobError: it does parse, to something that is not to be kept as a record.
    """
    try:
        text = raw.removeprefix(BOM_UTF8).decode()  # some editors put one before what they save
        _check_depth(text)
        record = _decode_text(text)
    except UnicodeDecodeError:
        msg = "not UTF-8"
        raise IncompleteJobError(msg) from None
    except json.JSONDecodeError as error:
        msg = f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise IncompleteJobError(msg) from None
    except ValueError:  # more digits than int() reads
        msg = "a number has too many digits"
        raise BadJobError(msg) from None
    if not isinstance(record, dict):
        msg = f"not a JSON object but {show(record)}"
        raise IncompleteJobError(msg)
    return record


def check_size(job: Job, more: int = 0) -> None:
    """Check that a job's file will not be too large to be run.

    Args:
        job: which.
        more: how many bytes more than it may have are let pass.

    Raises:
        BadJobError: it will.
    """
    if 6 * len(str(job.record)) > MAX_RECORD_BYTES:  # no character takes more than 6 bytes
        limit = MAX_GROWN_BYTES if "worker" in job.record else MAX_RECORD_BYTES + more
        if len(job.encode()) > limit:
            msg = f"larger than {MAX_RECORD_BYTES} bytes as queuectl writes it"
            raise BadJobError(msg)


def _check_length(raw: bytes, limit: int) -> None:
    if len(raw) > limit:
        msg = f"larger than {MAX_RECORD_BYTES} bytes"
        raise BadJobError(msg)


def parse(raw: bytes, job_id: str) -> Job:
    """Return the job in the file `job_id`.json.

    Raises:
        IncompleteJobError: see `decode`.
        BadJobError: it can never run; the text says which field and why.
    """
    _check_length(raw, MAX_GROWN_BYTES)
    record = decode(raw)
    if "worker" not in record:
        _check_length(raw, MAX_RECORD_BYTES)
    if _LONGER * len(raw) > MAX_RECORD_BYTES:
        check_size(Job(record), _FORM_BYTES)
    check_fields(record)
    if record.setdefault("id", job_id) != job_id:
        msg = f'"id" is {show(record["id"])} but the file is named {job_id}.json'
        raise BadJobError(msg)
    return Job(record)


def draft(fields: Mapping[str, Any], *, max_retries: int, now: float) -> Job:
    """Return a new job of these fields, checked, ready to be queued.

    What queuectl itself writes (state, attempts, times) is set anew, whatever `fields` say.

    Raises:
        BadJobError: a field is wrong, `command` is missing, or it is too large.
    """
    check_fields(fields)
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
        if name not in record and name not in _OUR_FIELDS
    )
    job = Job(record)
    if not fields.keys() <= FIELDS.keys():  # what we do not know may hold anything
        _check_json(job)
    check_size(job)
    return job


def _check_json(job: Job) -> None:
    """Check that what is written of a job can be read again.

    Raises:
        BadJobError: it cannot.
    """
    try:
        decode(job.encode())
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"cannot be written as JSON: {error}"
        raise BadJobError(msg) from None
