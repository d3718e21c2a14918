"""The fields of a job's record: what each must be, and who writes it (pure).

spool-layout.md, section "The record", documents `FIELDS` for users.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from queuectl.errors import BadJobError
from queuectl.ids import MUST_BE as ID_MUST_BE
from queuectl.ids import is_id
from queuectl.states import STATES
from queuectl.units import YEAR_S, are_codes, instant, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_INT64 = 1 << 63
MAX_COUNT = _INT64 - 1
LONGEST_WORD = (32 << 12) - 1  # bytes: Linux allows 32 pages, including the NUL


class Field(NamedTuple):
    """A field of the record: what its value must be, who writes it, and a check of the value."""

    must_be: str
    writer: str
    accepts: Callable[[Any], bool]


def _passable(text: object) -> bool:
    """Tell whether a value is a string that a process can be given: encodable and without NUL."""
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


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _seconds(value: Any) -> bool:
    return value is None or (_number(value) and 0 < value < _INT64)


def _delay(value: Any) -> bool:
    return _number(value) and 0 <= value <= YEAR_S


def _time(value: Any) -> bool:
    return value is None or instant(value) is not None


def _env(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _passable(key) and key != "" and "=" not in key and _passable(text)
        for key, text in value.items()
    )


def _cwd(value: Any) -> bool:
    return value is None or (_passable(value) and cast("str", value).startswith("/"))


def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _history(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


_COMMAND = "a string that is not blank, or a list of strings, the first not empty; no NUL, \
no half character (lone surrogate)"
_WHOLE = "an integer"
_COUNT = "an integer, 0 or more"
_SECONDS = "a number of seconds above 0, or null"
_DELAY = f"a number of seconds from 0 to {YEAR_S}"
_TIME = 'a time with its zone such as "2030-01-31T08:00:00Z", or null'
_ANY_TIME = "a string or null: a time, where queuectl wrote it"
_CODES = "a list of exit codes, 0 to 255"
_TEXT = "a string or null"

FIELDS: dict[str, Field] = {
    "id": Field(ID_MUST_BE, "user", is_id),
    "command": Field(_COMMAND, "user", _command),
    "state": Field(f"one of {', '.join(STATES)}", "queuectl", lambda value: value in STATES),
    "attempts": Field(_COUNT, "queuectl", _count),
    "max_retries": Field(_COUNT, "user", _count),
    "priority": Field(_WHOLE, "user", _whole),
    "run_at": Field(_TIME, "user", _time),
    "timeout": Field(_SECONDS, "user", _seconds),
    "cwd": Field("an absolute path, or null", "user", _cwd),
    "env": Field("an object of strings; no NUL, no empty name, no = in a name", "user", _env),
    "tags": Field("a list of strings", "user", _strings),
    "success_codes": Field(_CODES, "user", are_codes),
    "fatal_codes": Field(_CODES, "user", are_codes),
    "later_codes": Field(_CODES, "user", are_codes),
    "later_delay": Field(_DELAY, "user", _delay),
    "created_at": Field(_ANY_TIME, "queuectl", _text),
    "updated_at": Field(_ANY_TIME, "queuectl", _text),
    "arrived_at": Field(_ANY_TIME, "queuectl", _text),
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
OUR_FIELDS = frozenset(name for name, field in FIELDS.items() if field.writer == "queuectl")
_USER_FIELDS = tuple(name for name, field in FIELDS.items() if field.writer == "user")


def check_fields(record: Mapping[str, Any]) -> None:
    """Check the known fields of a record, and that it has a command; ignore unknown fields.

    Raises:
        BadJobError: a field is wrong or `command` is missing; the message names the first such
            field and what it must be.
    """
    for name, value in record.items():
        field = FIELDS.get(name)
        if field is not None and not field.accepts(value):
            raise BadJobError(f'"{name}" must be {field.must_be}, got {show(value)}')
    if "command" not in record:
        raise BadJobError(f'"command" is missing{_meant(record, "command")}')


def check_new(record: Mapping[str, Any]) -> None:
    """Check fields that a user has just given, more strictly than `check_fields`.

    Raises:
        BadJobError: `check_fields` raises it, or the job could never start or never complete.
    """
    check_fields(record)
    _check_lengths(record)
    if record.get("success_codes") == []:
        msg = '"success_codes" must be a list of exit codes, at least one: '
        raise BadJobError(f"{msg}with none, the job could never complete")


def _check_lengths(record: Mapping[str, Any]) -> None:
    command, env = record["command"], record.get("env", {})
    words = [("command", word) for word in ([command] if isinstance(command, str) else command)]
    words += [("env", f"{name}={text}") for name, text in env.items()]
    for field, word in words:
        size = len(word) if word.isascii() else len(os.fsencode(word))
        if size > LONGEST_WORD:
            raise BadJobError(
                f'"{field}" has a word of {size} bytes, and a program can be given none of more'
                f" than {LONGEST_WORD}: put it into a file"
            )


def slips(names: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each name that is no field but was probably meant as one."""
    for name in names:
        if name not in FIELDS:
            from difflib import get_close_matches

            near = get_close_matches(name, _USER_FIELDS, n=1, cutoff=0.65)
            meant = _ELSEWHERE.get(name, next(iter(near), None))
            if meant is not None:
                hint = f'; did you mean "{meant}"?' if meant else ""
                yield f'"{name}" is kept, but means nothing here{hint}'


# names that our options and other queues use for a field; "" where we have no such field (those of
# options are in cli/usage.py)
_ELSEWHERE = {
    **dict.fromkeys(("depends_on", "dependencies", "at_front", "cron", "retry_delay"), ""),
    "not_before": "run_at",
    "time_limit": "timeout",
    "job_timeout": "timeout",
    "cmd": "command",
    "delay": "run_at",
    "eta": "run_at",
    "countdown": "run_at",
    "job_id": "id",
    "max_attempts": "max_retries",
    "workdir": "cwd",
    "working_dir": "cwd",
    "environ": "env",
}


def _meant(record: Mapping[str, Any], name: str) -> str:
    from difflib import get_close_matches  # needed only for an error message

    near = get_close_matches(name, [key for key in record if key not in FIELDS], n=1)
    return f' (did you write "{near[0]}" for it?)' if near else ""
