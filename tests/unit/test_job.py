from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl import ids, job
from queuectl.errors import BadJobError, IncompleteJobError
from queuectl.job import Job

NOW = 1_900_000_000.0

any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


# --- ids ------------------------------------------------------------------------------------


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True))
def test_letters_digits_and_dot_underscore_dash_make_an_id(text: str) -> None:
    assert ids.check_id(text) == text


@given(st.text())
def test_nothing_else_does(text: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text) is None:
        assert not ids.is_id(text)
        with pytest.raises(BadJobError, match='"id" must be'):
            ids.check_id(text)


@pytest.mark.parametrize(
    "text", ["../x", "-rf", ".", "..", "a/b", "a\n", "x" * 129, "é", "a b", ""]
)
def test_an_id_can_never_be_a_path_or_an_option(text: str) -> None:
    assert not ids.is_id(text)


def test_new_ids_are_unique_and_sort_as_they_were_made() -> None:
    fresh = [ids.new_id(NOW + number / 1000) for number in range(500)] + [
        ids.new_id(NOW) for _ in range(500)
    ]
    assert fresh == sorted(fresh)
    assert len(set(fresh)) == len(fresh)
    assert all(ids.is_id(made) and len(made) == 15 for made in fresh)


# --- fields ---------------------------------------------------------------------------------

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
    ("history", [1]),
    ("exit_code", "0"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_field_is_refused_by_its_name_and_what_it_must_be(name: str, value: Any) -> None:
    with pytest.raises(BadJobError) as error:
        job.check_fields({"command": "true", name: value})
    assert str(error.value).startswith(f'"{name}" must be ')


def test_the_error_shows_what_was_given() -> None:
    with pytest.raises(BadJobError, match='"priority" must be an integer, got "high"'):
        job.check_fields({"command": "true", "priority": "high"})


def test_a_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(BadJobError) as error:
        job.check_fields({"command": "true", "tags": "x" * 5000})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "echo hi"},
        {"command": ["echo", ""]},
        {"command": "true", "timeout": None, "cwd": None, "run_at": None},
        {"command": "true", "timeout": 0.5, "priority": -(1 << 63), "max_retries": 0},
        {"command": "true", "env": {"A": ""}, "tags": [], "later_codes": [0, 255]},
        {"command": "true", "ours": {"anything": [1, None]}},
    ],
)
def test_right_fields_pass(fields: dict[str, Any]) -> None:
    job.check_fields(fields)


def test_a_missing_command_is_told_with_the_key_that_looks_like_it() -> None:
    with pytest.raises(BadJobError, match='"command" is missing \\(is "comand" a slip'):
        job.check_fields({"comand": "true"})
    with pytest.raises(BadJobError, match='^"command" is missing$'):
        job.check_fields({"priority": 1})


def test_every_field_says_what_it_must_be_and_who_writes_it() -> None:
    for field in job.FIELDS.values():
        assert field.must_be
        assert field.writer in ("user", "queuectl")


# --- reading --------------------------------------------------------------------------------


def test_a_record_is_read_with_its_unknown_fields() -> None:
    read = job.parse(b'{"command": "true", "ours": {"a": [1]}, "priority": 4}', "j")
    assert read.id == "j"
    assert read.record["ours"] == {"a": [1]}
    assert (read.priority, read.attempts, read.state) == (4, 0, "pending")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"command": "tr', b"hello", b"\xff\xfe{}", b"[1]", b'"x"', b"null", b"7"]
)
def test_what_does_not_parse_to_an_object_may_be_half_written(raw: bytes) -> None:
    with pytest.raises(IncompleteJobError):
        job.decode(raw)


@given(st.dictionaries(st.text(), any_json), st.data())
def test_no_beginning_of_a_record_is_taken_for_a_record(
    record: dict[str, Any], data: st.DataObject
) -> None:
    raw = json.dumps(record).encode()
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(IncompleteJobError):
        job.decode(raw[:cut])


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": Infinity}', "Infinity"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "nested"),
        (b"[" * 100_000, "nested"),
    ],
)
def test_what_parses_to_no_record_is_refused_at_once(raw: bytes, why: str) -> None:
    with pytest.raises(BadJobError, match=why) as error:
        job.decode(raw)
    assert not isinstance(error.value, IncompleteJobError)


def test_brackets_in_strings_do_not_count_as_nesting() -> None:
    text = "[{" * 200 + '\\"'
    assert job.decode(json.dumps({"a": text}).encode()) == {"a": text}


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_bad_job(raw: bytes) -> None:
    with suppress(BadJobError):
        job.parse(raw, "j")


@given(any_json)
def test_any_json_is_a_record_or_a_bad_job(value: Any) -> None:
    with suppress(BadJobError):
        job.parse(json.dumps(value).encode(), "j")


@given(st.sampled_from(sorted(job.FIELDS)), any_json)
def test_any_json_in_any_field_is_a_record_or_a_bad_job(name: str, value: Any) -> None:
    with suppress(BadJobError):
        job.parse(json.dumps({"command": "true", name: value}).encode(), "j")


def test_an_id_in_the_body_must_be_the_files_name() -> None:
    with pytest.raises(BadJobError, match='"id" is "a" but the file is named b.json'):
        job.parse(b'{"id": "a", "command": "true"}', "b")


def test_a_record_over_a_mebibyte_is_refused() -> None:
    raw = json.dumps({"command": "true", "x": "y" * (1 << 20)}).encode()
    with pytest.raises(BadJobError, match="larger"):
        job.parse(raw, "j")


# --- writing --------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), any_json, max_size=5))
def test_a_record_comes_back_as_it_was_written(extra: dict[str, Any]) -> None:
    extra = {key: value for key, value in extra.items() if key not in job.FIELDS}
    written = Job({"id": "j", "command": "true", **extra})
    raw = written.encode()
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    assert job.parse(raw, "j").record == written.record


def test_a_lone_surrogate_in_a_field_of_others_is_kept() -> None:
    raw = b'{"command": "true", "ours": "\\ud800"}'
    assert job.parse(job.parse(raw, "j").encode(), "j").record["ours"] == "\ud800"


def test_a_job_is_changed_only_by_copy() -> None:
    one = Job({"id": "j", "command": "true", "attempts": 1})
    two = one.changed(attempts=2)
    assert (one.attempts, two.attempts) == (1, 2)


# --- drafts ---------------------------------------------------------------------------------


def test_a_draft_has_an_id_a_state_and_times() -> None:
    made = job.draft({"command": "true"}, max_retries=3, now=NOW)
    assert ids.is_id(made.id)
    assert made.record["state"] == "pending"
    assert made.record["attempts"] == 0
    assert made.record["max_retries"] == 3
    assert made.record["created_at"] == made.record["updated_at"] == "2030-03-17T17:46:40.000000Z"


def test_a_draft_keeps_what_the_user_says_and_nothing_that_queuectl_says() -> None:
    said = {
        "id": "mine",
        "command": "true",
        "max_retries": 7,
        "state": "dead",
        "attempts": 9,
        "worker": "w",
        "history": [{}],
        "exit_code": 1,
        "note": "kept",
    }
    record = job.draft(said, max_retries=3, now=NOW).record
    assert (record["id"], record["max_retries"], record["note"]) == ("mine", 7, "kept")
    assert (record["state"], record["attempts"]) == ("pending", 0)
    assert not {"worker", "history", "exit_code"} & set(record)


def test_the_number_of_a_run_counts_on_over_retries_by_hand() -> None:
    fields = {"id": "j", "command": "true", "attempts": 0}
    assert Job(fields).run_number == 0
    assert Job({**fields, "history": [{"number": 41}]}).run_number == 41
    assert Job({**fields, "history": [{"number": "?"}, {}]}).run_number == 2
