from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl import ids
from queuectl.errors import BadJobError, IncompleteJobError
from queuectl.record import job
from queuectl.record.fields import FIELDS, LONGEST_WORD
from queuectl.record.job import Job

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


@given(st.sampled_from(sorted(FIELDS)), any_json)
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
    extra = {key: value for key, value in extra.items() if key not in FIELDS}
    written = Job({"id": "j", "command": "true", **extra})
    raw = written.encode()
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    assert job.parse(raw, "j").record == written.record


def test_what_a_lone_surrogate_makes_too_large_is_refused() -> None:
    fields = {"command": "true", "tags": ["\ud800"], "note": "\U0001f600" * 100_000}
    with pytest.raises(BadJobError, match="larger than"):
        job.draft(fields, max_retries=3, now=0.0)


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


def test_a_job_waits_for_the_latest_of_its_times_and_for_a_retry_in_failed_only() -> None:
    fields = {"id": "j", "command": "true", "next_retry_at": "1970-01-01T00:00:20Z"}
    for run_at, latest in ((10, 20), (30, 30)):
        waits = Job({**fields, "run_at": f"1970-01-01T00:00:{run_at}Z"})
        assert (waits.not_before("failed", 5), waits.not_before("pending", 5)) == (latest, run_at)
    assert Job(fields).not_before("pending", 5) is None
    started_again = job.again(Job({**fields, "attempts": 3}))
    assert started_again.not_before("failed", 5) is None


def test_a_retry_waits_no_longer_than_its_span_where_the_clock_was_set_back() -> None:
    times = {"finished_at": "1970-01-01T02:00:00Z", "next_retry_at": "1970-01-01T02:00:04Z"}
    failed = Job({"id": "j", "command": "false", **times})
    assert [failed.retry_at(now) for now in (0, 7190, 7202, 9000)] == [4, 7194, 7204, 7204]
    assert failed.not_before("failed", 0) == 4
    by_hand = Job({"id": "j", "command": "false", "next_retry_at": "1970-01-01T02:00:04Z"})
    assert by_hand.retry_at(0) == 7204


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "x" * (LONGEST_WORD + 1)},
        {"command": ["echo", "é" * (LONGEST_WORD // 2 + 1)]},
        {"command": "true", "env": {"A": "x" * (LONGEST_WORD - 1)}},
    ],
)
def test_a_job_that_could_never_start_is_not_drafted_but_read(fields: dict[str, Any]) -> None:
    with pytest.raises(BadJobError, match=f"one of more than {LONGEST_WORD}: put it into a file"):
        job.draft(fields, max_retries=3, now=NOW)
    assert job.parse(json.dumps(fields).encode(), "a").command == fields["command"]


def test_a_word_may_be_as_long_as_can_be_started() -> None:
    command, env = ["/bin/true", "x" * LONGEST_WORD], {"A": "x" * (LONGEST_WORD - 2)}
    job.draft({"command": command, "env": env}, max_retries=3, now=NOW)
    subprocess.run(command, env=env, check=True)
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/bin/true", "x" * (LONGEST_WORD + 1)], check=False)


def test_a_job_that_could_never_complete_is_not_drafted_but_read() -> None:
    fields = {"command": "true", "success_codes": []}
    with pytest.raises(BadJobError, match="at least one: with none, the job could never complete"):
        job.draft(fields, max_retries=1, now=NOW)
    assert job.parse(json.dumps(fields).encode(), "j").record["success_codes"] == []
