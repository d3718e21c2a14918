from __future__ import annotations

from typing import Any

import pytest

from queuectl.errors import BadJobError
from queuectl.record.fields import FIELDS, check_fields

WRONG = [
    ("command", None),
    ("command", ""),
    ("command", "  "),
    ("command", []),
    ("command", [""]),
    ("command", ["ls", 1]),
    ("command", "a\0b"),
    ("command", ["ls", "a\0b"]),
    ("command", "lone \ud800"),
    ("id", "../x"),
    ("id", 7),
    ("state", "waiting"),
    ("attempts", -1),
    ("attempts", 1.5),
    ("attempts", True),
    ("max_retries", -1),
    ("max_retries", "3"),
    ("priority", "high"),
    ("priority", 1.0),
    ("priority", 1 << 63),
    ("run_at", "tomorrow"),
    ("run_at", "2030-01-31T08:00:00"),
    ("run_at", 1900000000),
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", "5m"),
    ("timeout", True),
    ("cwd", "relative"),
    ("cwd", "/a\0"),
    ("env", {"A": 1}),
    ("env", {"": "x"}),
    ("env", {"A=B": "x"}),
    ("env", {"A": "x\0"}),
    ("env", ["A=B"]),
    ("tags", "nightly"),
    ("tags", [1]),
    ("success_codes", [256]),
    ("fatal_codes", 1),
    ("later_codes", [-1]),
    ("later_delay", -1),
    ("later_delay", 367 * 86400),
    ("later_delay", "5m"),
    ("later_delay", None),
    ("later_delay", True),
    ("history", [1]),
    ("exit_code", "0"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_field_is_refused_by_its_name_and_what_it_must_be(name: str, value: Any) -> None:
    with pytest.raises(BadJobError) as error:
        check_fields({"command": "true", name: value})
    assert str(error.value).startswith(f'"{name}" must be ')


def test_the_error_shows_what_was_given() -> None:
    with pytest.raises(BadJobError, match='"priority" must be an integer, got "high"'):
        check_fields({"command": "true", "priority": "high"})


def test_a_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(BadJobError) as error:
        check_fields({"command": "true", "tags": "x" * 5000})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "echo hi"},
        {"command": ["echo", ""]},
        {"command": "true", "timeout": None, "cwd": None, "run_at": None},
        {"command": "true", "timeout": 0.5, "priority": -(1 << 63), "max_retries": 0},
        {"command": "true", "env": {"A": ""}, "tags": [], "later_codes": [0, 255]},
        {"command": "true", "later_delay": 0},
        {"command": "true", "later_delay": 366 * 86400},
        {"command": "true", "ours": {"anything": [1, None]}},
    ],
)
def test_right_fields_pass(fields: dict[str, Any]) -> None:
    check_fields(fields)


def test_a_missing_command_is_told_with_the_key_that_looks_like_it() -> None:
    with pytest.raises(BadJobError, match='"command" is missing \\(did you write "comand"'):
        check_fields({"comand": "true"})
    with pytest.raises(BadJobError, match='^"command" is missing$'):
        check_fields({"priority": 1})


def test_every_field_says_what_it_must_be_and_who_writes_it() -> None:
    for field in FIELDS.values():
        assert field.must_be
        assert field.writer in ("user", "queuectl")
