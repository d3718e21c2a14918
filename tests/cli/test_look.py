"""`status`, `list` and `show`, for people and as JSON; their output always has one shape."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

import queuectl
from queuectl.kernel.processes import can_list_processes
from queuectl.states import STATES
from queuectl.units import utc_text
from tests.cli.support import many_running, put
from tests.support import Child, read_json, read_text, wait_until, waiting_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir


# --- status ----------------------------------------------------------------------------------


def test_status_as_json_has_the_shape_that_is_promised(filled: SpoolDir) -> None:
    document = filled.run("status", "--json").json
    assert [item["id"] for item in document.pop("due")] == ["f1", "p2"]
    assert document == {
        "spool": filled.path,
        "paused": False,
        "jobs": {"pending": 2, "processing": 0, "completed": 1, "failed": 1, "dead": 1},
        "workers": [],
        "lost": [],
    }


def test_status_as_json_tells_what_is_due(spool: SpoolDir) -> None:
    spool.api.submit("true", id="later", run_at="2100-01-01T00:00:00Z")
    due = spool.run("status", "--json").json["due"]
    assert due == [{"id": "later", "state": "pending", "at": "2100-01-01T00:00:00.000000Z"}]


def test_status_says_how_many_more_are_due(spool: SpoolDir) -> None:
    for number in range(7):
        spool.api.submit("true", id=f"job-{number}", run_at=f"2100-01-0{number + 1}T00:00:00Z")
    lines = spool.run("status").lines
    assert [line.split()[-3:-2] for line in lines[-2:-1]] == [["job-4"]]
    assert lines[-1].strip() == "and 2 later"


def test_a_list_of_ids_is_for_other_commands(filled: SpoolDir) -> None:
    assert filled.run("list", "--ids", "--state", "pending").lines == ["p1", "p2"]
    assert "cannot be combined" in filled.refuse("list", "--ids", "--json", status=2)


def test_a_list_of_the_jobs_that_are_named(filled: SpoolDir) -> None:
    assert [job["id"] for job in filled.run("list", "--json", "d1", "c1").json] == ["d1", "c1"]
    newest = filled.run("list", "--newest-first", "--ids", "c1", "d1").lines
    assert newest == ["d1", "c1"]  # the record of d1 does not say when it changed
    told = filled.run("list", "--ids", "p1", "nope", "f1", "p1", status=1)
    assert told.lines == ["p1", "f1"]
    assert 'no job "nope"' in told.err
    assert "not both" in filled.refuse("list", "p1", "--tag", "db", status=2)
    assert filled.run("list", "--ids", "--limit", "1", "p1", "d1", "p1").lines == ["p1"]
    assert filled.run("dlq", "list", "--ids").lines == ["d1"]


def test_status_as_json_shows_who_works_on_what(spool: SpoolDir) -> None:
    spool.drop("job", "sleep 1000")
    with spool.pool(3) as pool:
        pool.wait_for("started", "job")
        document = spool.run("status", "--json").json
        (worker,) = document["workers"]
        assert worker["worker"] == pool.name
        assert worker["host"] == os.uname().nodename
        assert worker["version"] == queuectl.__version__
        assert (worker["pid"], worker["slots"], worker["running"]) == (pool.pid, 3, ["job"])
        assert document["jobs"]["processing"] == 1
        text = spool.run("status").out
        assert f"{pool.name}  1 of 3 busy" in text
        assert re.search(r"^ +job  .*sleep 1000$", text, re.MULTILINE)
        spool.run("worker", "stop", "--now")


def test_status_says_how_many_more_run_than_it_shows(spool: SpoolDir) -> None:
    with many_running(spool, 22) as ids:
        lines = [line.split() for line in spool.run("status").lines if line.startswith(" " * 11)]
        assert [words[0] for words in lines[:-1]] == ids[:20]
        assert lines[-1][:3] == ["and", "2", "more:"]


def test_status_counts_and_says_what_is_due_when(filled: SpoolDir) -> None:
    text = filled.run("status").out
    assert "pending 2  processing 0  completed 1  failed 1  dead 1" in text
    assert re.search(r"p2  in 59m\d\ds", text)
    assert re.search(r"f1  in 59m\d\ds  exit status 1", text)
    assert "`queuectl worker start` starts one" in text


def test_status_says_that_of_very_many_jobs_not_all_were_asked_when_they_are_due(
    filled: SpoolDir,
) -> None:
    assert "read in each" not in filled.run("status").out
    for number in range(1000):
        put(filled, "pending", f"job-{number}")
    assert "(of 1000 read in each of failed/ and pending/)" in filled.run("status").out


def test_a_file_that_is_named_as_the_spool_is_told_to_be_none(spool: SpoolDir) -> None:
    with open(spool.path, "x"):
        pass
    text = spool.refuse("status")
    assert "Not a directory; --spool DIR names another" in text


def test_status_says_that_the_spool_is_paused(filled: SpoolDir) -> None:
    open(f"{filled.path}/paused", "x").close()
    assert "paused" in filled.run("status").out
    assert filled.run("status", "--json").json["paused"] is True


def test_status_tells_what_a_dead_worker_held(spool: SpoolDir) -> None:
    spool.drop("lost", "sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", "lost")
        assert "lost     " not in spool.run("status").out
        pool.kill()
        out = spool.run("status").out
        assert f"lost     lost, held by {pool.name}, which is dead\n" in out
        assert "workers  none" in out
        assert "lost: its worker is dead" in spool.run("list").out
        assert re.search(
            r"^lost +its worker is dead; the next worker", spool.run("show").out, re.MULTILINE
        )
        assert "RUNNING  none  1 lost by dead workers\n" in spool.run("top").out
    spool.run("doctor", "--fix")
    assert "lost     " not in spool.run("status").out


# --- list and show ---------------------------------------------------------------------------


def test_list_as_json_is_an_array_of_records_with_the_directory_as_state(filled: SpoolDir) -> None:
    os.rename(filled.file("dead", "d1"), filled.file("completed", "d1"))
    records = filled.run("list", "--json").json
    assert [(record["id"], record["state"]) for record in records] == [
        ("p1", "pending"),
        ("p2", "pending"),
        ("c1", "completed"),
        ("d1", "completed"),
        ("f1", "failed"),
    ]
    assert records[0]["tags"] == ["nightly", "db"]


def test_list_of_nothing_is_an_empty_array(spool: SpoolDir) -> None:
    spool.create()
    assert spool.run("list", "--json").json == []
    assert spool.run("dlq", "list", "--json").json == []
    assert spool.run("worker", "list", "--json").json == []


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--state", "dead"], ["d1"]),
        (["--state", "dead", "--state", "failed"], ["d1", "f1"]),
        (["--tag", "nightly"], ["p1", "c1"]),
        (["--tag", "nightly", "--tag", "db"], ["p1"]),
        (["--limit", "2"], ["p1", "p2"]),
        (["--limit", "0"], []),
        (["--tag", "nightly", "--limit", "1"], ["p1"]),
    ],
)
def test_list_selects(filled: SpoolDir, words: list[str], ids: list[str]) -> None:
    assert [record["id"] for record in filled.run("list", "--json", *words).json] == ids


def test_newest_first_is_by_the_last_change_whatever_the_state(filled: SpoolDir) -> None:
    for at_s, job_id in enumerate(["p2", "d1", "p1", "f1", "c1"], start=1_700_000_000):
        (state,) = filled.states(job_id)
        os.utime(filled.file(state, job_id), (at_s, at_s))

    def ids(*words: str) -> list[str]:
        return [item["id"] for item in filled.run(*words, "--newest-first", "--json").json]

    assert ids("list") == ["c1", "f1", "p1", "d1", "p2"]
    assert ids("list", "--limit", "2") == ["c1", "f1"]
    assert ids("list", "--state", "pending") == ["p1", "p2"]
    assert ids("list", "--tag", "nightly", "--limit", "1") == ["c1"]
    assert ids("dlq", "list") == ["d1"]


def test_list_for_people_has_a_line_a_job(filled: SpoolDir) -> None:
    lines = filled.run("list").lines
    assert lines[0].split()[:2] == ["ID", "STATE"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["p1", "pending"],
        ["p2", "pending"],
        ["c1", "completed"],
        ["f1", "failed"],
        ["d1", "dead"],
    ]
    assert "exit status 2" in lines[-1]


def test_of_a_long_list_each_line_comes_once_and_in_order(spool: SpoolDir) -> None:
    ids = [f"job-{number}" for number in range(100, 500)]
    for job_id in ids:
        put(spool, "pending", job_id)
    heading, *lines = spool.run("list").lines
    assert heading.startswith("ID ")
    assert [line.split()[0] for line in lines] == ids


def test_dlq_list_has_only_the_dead(filled: SpoolDir) -> None:
    assert [record["id"] for record in filled.run("dlq", "list", "--json").json] == ["d1"]
    assert "exit status 2" in filled.run("dlq", "list").out


def test_show_as_json_is_one_record(filled: SpoolDir) -> None:
    record = filled.run("show", "d1", "--json").json
    assert record == filled.record("dead", "d1")


def test_show_has_the_record_its_runs_and_where_its_output_is(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0)
    spool.drop("job", 'test "$QUEUECTL_ATTEMPT" = 2', tags=["x"], ours={"a": 1})
    spool.drain()
    text = spool.run("show", "job").out
    assert re.search(r"^state +completed$", text, re.MULTILINE)
    assert re.search(r'^tags +\["x"\]$', text, re.MULTILINE)
    assert re.search(r'^ours +{"a": 1}$', text, re.MULTILINE)
    assert re.search(rf"^1 .* exit status 1 +{spool.path}/logs/job.1.out$", text, re.MULTILINE)
    assert re.search(rf"^2 .* exit status 0 +{spool.path}/logs/job.2.out$", text, re.MULTILINE)


def test_an_id_may_be_shortened_as_long_as_it_is_the_only_one(filled: SpoolDir) -> None:
    shown = filled.run("show", "d", "--json")
    assert shown.json["id"] == "d1"
    assert shown.err == 'queuectl: "d" is the beginning of "d1"\n'
    text = filled.refuse("show", "p")
    assert text == 'queuectl: "p" is the beginning of 2 ids (p1, p2); give more of it'


def test_what_a_command_holds_cannot_move_the_cursor(spool: SpoolDir) -> None:
    put(spool, "dead", "evil", command="\x1b[2Jrm", error_message="a\x1b]0;b\x07\nc")
    for words in (["list"], ["show", "evil"], ["dlq", "list"], ["status"]):
        out = spool.run(*words).out
        assert "\x1b" not in out
        assert "\x07" not in out


# --- a look changes nothing ------------------------------------------------------------------

LOOKING = [
    ["status"],
    ["list"],
    ["show", "p1"],
    ["dlq", "list"],
    ["worker", "list"],
    ["config", "get"],
    ["config", "show"],
]


def snapshot(path: str) -> set[tuple[str, int, int]]:
    """Return everything below a directory, each with its path, modification time and size."""
    found = set()
    for top, directories, files in os.walk(path):
        for name in (*directories, *files):
            status = os.stat(f"{top}/{name}")
            found.add((f"{top}/{name}", status.st_mtime_ns, status.st_size))
    return found


@pytest.mark.parametrize("words", LOOKING, ids=" ".join)
def test_looking_changes_nothing(filled: SpoolDir, words: list[str]) -> None:
    before = snapshot(filled.path)
    filled.run(*words)
    filled.run(*words, "--json")
    assert snapshot(filled.path) == before


@pytest.mark.parametrize("words", LOOKING, ids=" ".join)
def test_looking_makes_no_spool_and_says_how_to(spool: SpoolDir, words: list[str]) -> None:
    text = spool.refuse(*words)
    assert f"no spool at {spool.path}" in text
    assert "`queuectl enqueue` makes one" in text
    assert not os.path.exists(spool.path)


def test_all_states_can_be_asked_for(filled: SpoolDir) -> None:
    filled.drop_bytes("held@nobody-1-00000000", b'{"command":"true"}', "processing")
    for state in STATES:
        listed = filled.run("list", "--state", state, "--json").json
        assert {record["state"] for record in listed} == {state}


# --- records that other programs have written ------------------------------------------------

TIMES = ("created_at", "updated_at", "started_at", "finished_at")
ODD: dict[str, dict[str, object]] = {
    "times": dict.fromkeys(TIMES, "soon"),
    "no-times": dict.fromkeys(TIMES, ""),
    "far": {"created_at": "9999-12-31T23:59:59Z", "finished_at": "9999-12-31T23:59:59Z"},
    "empty-run": {"history": [{}]},
    "null-run": {"history": [{"number": 1, "started_at": None, "finished_at": None}]},
    "number-run": {"history": [{"number": "\0", "started_at": 1, "finished_at": 2, "ended": 3}]},
    "odd-run": {"history": [{"number": [1], "exit_code": {}, "signal": [1], "worker": 5}]},
    "paths": {"stdout_path": "\0", "stderr_path": "/a\0.1.err", "history": [{"number": 1}]},
    "texts": {"error_message": "\x1b[31m\0\n", "worker": "\0\n", "tags": ["\0", ""]},
    "surrogate": {"error_message": "\ud800", "note": "\ud800"},
}


@pytest.fixture
def odd(spool: SpoolDir) -> SpoolDir:
    """Return a spool with odd records in every state but processing."""
    for state in ("pending", "completed", "failed", "dead"):
        for name, fields in ODD.items():
            put(spool, state, f"{name}-{state}", **fields)
    return spool


@pytest.mark.parametrize(
    "words",
    [["status"], ["list"], ["list", "--json"], ["list", "--state", "dead"], ["dlq", "list"]],
    ids=" ".join,
)
def test_what_others_have_written_into_records_is_shown_as_it_is(
    words: list[str], odd: SpoolDir
) -> None:
    shown = odd.run(*words).out
    assert shown if words == ["status"] else all(f"{name}-dead" in shown for name in ODD)


@pytest.mark.parametrize(("state", "healthy"), [("completed", True), ("dead", False)])
@pytest.mark.parametrize("name", ODD)
def test_one_record_that_others_have_written_is_shown_as_it_is(
    name: str, state: str, healthy: bool, odd: SpoolDir
) -> None:
    job_id = f"{name}-{state}"
    assert odd.run("show", job_id).out.startswith("id ")
    assert job_id in odd.run("doctor", job_id, status=0 if healthy else 1).out


def test_jobs_with_odd_records_run(spool: SpoolDir) -> None:
    for name, fields in ODD.items():
        put(spool, "pending", name, **fields)
    spool.drain()
    assert spool.ids("completed") == sorted(ODD)


def test_one_file_that_cannot_be_read_does_not_hide_the_others(spool: SpoolDir) -> None:
    spool.drop("good")
    os.mkdir(spool.file("pending", "odd"))
    listed = spool.run("list")
    assert "good" in listed.out
    assert "pending/odd.json cannot be read" in listed.err
    assert spool.run("status").status == 0


@pytest.mark.skipif(not can_list_processes(), reason="needs /proc")
def test_show_names_the_processes_of_a_job_that_runs(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.drop("job", f"echo $$; {waiting_for(go)}")
    with spool.pool():
        wait_until(lambda: spool.output("job", 1, "out"))
        first = spool.output("job").strip()
        shown = spool.run("show", "job").out
        assert re.search(rf"^processes +{first}\b", shown, re.MULTILINE), shown
        open(go, "x").close()
        spool.wait_for("completed", "job")
    assert "\nprocesses" not in spool.run("show", "job").out


@pytest.mark.skipif(not can_list_processes(), reason="needs /proc")
def test_show_names_the_command_before_what_an_earlier_run_has_left(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0)
    go = f"{spool.path}.go"
    left = f"while ! [ -e {go} ]; do sleep 0.01; done & exit 1"
    spool.drop("job", f"echo $$; if [ $QUEUECTL_ATTEMPT = 1 ]; then {left}; fi; {waiting_for(go)}")
    with spool.pool():
        wait_until(lambda: spool.output("job", 2))
        shown = spool.run("show", "job").out
        command = spool.output("job", 2).strip()
        assert re.search(rf"^processes +{command} \d", shown, re.MULTILINE), shown
        open(go, "x").close()
        spool.wait_for("completed", "job")


def test_show_prints_a_command_line_by_line(spool: SpoolDir) -> None:
    spool.drop("a", "set -e\necho 1  # one", tags=["n\u00e9"])
    shown = spool.run("show", "a").out
    assert "set -e\n" in shown
    assert "  echo 1  # one\n" in shown
    assert "n\u00e9" in shown


def test_the_logs_of_what_was_set_aside_are_not_waited_for(spool: SpoolDir) -> None:
    spool.drop_bytes("odd", b'{"command": 7}')
    spool.drain()
    assert "was set aside" in spool.refuse("logs", "odd")


def test_a_failed_job_that_waits_for_its_time_is_not_said_to_run_now(spool: SpoolDir) -> None:
    body = (
        b'{"command": "true", "state": "failed", "attempts": 1, "run_at": "2100-01-01T00:00:00Z"}'
    )
    spool.drop_bytes("job", body, "failed")
    assert "again in" in spool.run("list").out
    due = next(line for line in spool.run("status").lines if line.startswith("due"))
    assert re.fullmatch(r"due      job  in \d+d\d\dh", due)
    with spool.pool():
        assert "scheduled for 2100" in spool.run("doctor", "job").out


def test_what_is_claimed_and_has_not_begun_is_told_so(spool: SpoolDir) -> None:
    body = {"command": "true", "state": "processing", "attempts": 1, "stdout_path": "/q/logs/job.1"}
    spool.drop_bytes("job@far-1-00000001", json.dumps(body).encode(), "processing")
    assert re.search(r"processing +1/3 +claimed", spool.run("list").out)
    assert "claimed      by far-1-00000001; it has not begun" in spool.run("show", "job").out
    assert '"job" is claimed and has not run yet' in spool.refuse("logs", "job")


def test_the_output_of_a_run_is_there_while_the_next_is_only_claimed(spool: SpoolDir) -> None:
    spool.api.submit("echo first; exit 1", id="job", max_retries=2)
    spool.run("config", "set", "backoff-base", "1000")
    with spool.pool() as pool:
        pool.wait_for("failed", "job")
    record = {**spool.record("failed", "job"), "state": "processing", "attempts": 2}
    os.unlink(spool.file("failed", "job"))
    spool.drop_bytes("job@far-1-00000001", json.dumps(record).encode(), "processing")
    assert spool.run("logs", "job").out == "first\n"


def test_the_output_of_a_spool_that_was_moved_is_told_where_it_is(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.api.submit("echo moved", id="job")
    spool.drain()
    there = f"{tmp_path}/elsewhere"
    os.rename(spool.path, there)
    os.rename(f"{there}/completed/job.json", f"{there}/dead/job.json")
    commands = (("show", "job", "--json"), ("list", "--json"), ("dlq", "show", "job", "--json"))
    for words in commands:
        told = json.loads(spool.run("--spool", there, *words).out)
        record = told[0] if words[0] == "list" else told
        with open(record["stdout_path"], encoding="utf-8") as file:
            assert file.read() == "moved\n"
    assert f"stdout_path  {there}/logs/job.1.out" in spool.run("--spool", there, "show", "job").out


def test_what_was_moved_to_completed_by_hand_is_listed_without_a_time(spool: SpoolDir) -> None:
    spool.drop("job")
    os.rename(spool.file("pending", "job"), spool.file("completed", "job"))
    assert re.search(r"completed +0/3 +- +true", spool.run("list").out)


def test_how_long_a_run_may_take_is_shown(spool: SpoolDir) -> None:
    spool.drop("usual", "sleep 600")
    spool.drop("own", "true", timeout=7200)
    assert "timeout  5m00s (job-timeout)" in spool.run("show", "usual").out
    assert "timeout  2h00m" in spool.run("show", "own").out
    with spool.pool():
        wait_until(lambda: " of 5m00s  sleep 600" in spool.run("status").out)
        spool.run("cancel", "usual")


def test_show_names_the_output_that_has_something(spool: SpoolDir) -> None:
    spool.api.submit("echo no >&2", id="loud")
    spool.drain()
    assert spool.run("show", "loud").lines[-1].endswith("/logs/loud.1.err")


def test_two_that_are_held_under_one_id_are_both_listed(spool: SpoolDir) -> None:
    for owner in ("far-1-00000001", "far-2-00000002"):
        body = {"command": f"echo {owner}", "state": "processing", "attempts": 1}
        spool.drop_bytes(f"twice@{owner}", json.dumps(body).encode(), "processing")
    out = spool.run("list").out
    assert "echo far-1" in out
    assert "echo far-2" in out


def test_what_a_record_says_of_its_output_is_no_path_to_anywhere(spool: SpoolDir) -> None:
    for name, path in (("nul", "a\0.1.out"), ("half", "\ud800.1.out"), ("else", "/x/../y.1.out")):
        ended = {"finished_at": "2026-01-01T00:00:00Z", "history": [{"number": 1}]}
        put(spool, "dead", name, stdout_path=path, **ended)
        spool.run("show", name)
        assert "is not in" in spool.refuse("logs", name)
    spool.run("report", "--output", "-", "--since", "9999d")


def test_a_reason_that_says_nothing_is_shown_all_the_same(spool: SpoolDir) -> None:
    spool.drop_bytes("x", b'{"command": "", "rejected": "x.json"}', "dead")
    spool.drop_bytes("y", b'{"command": "", "rejected": "y", "error_message": null}', "dead")
    assert "y was set aside: no reason is recorded" in spool.run("doctor").out
    os.unlink(spool.file("dead", "y"))
    assert spool.run("list", "--ids").lines == ["x"]
    assert "no reason is recorded" in spool.run("list").out
    spool.run("top")
    spool.run("report", "--output", "-")
    assert spool.run("dlq", "purge", "--all", "--yes").lines == ["x"]


def test_another_process_that_has_the_number_of_a_pool_and_stands_still_is_not_it(
    spool: SpoolDir,
) -> None:
    with spool.pool() as pool, Child(["sleep", "600"]) as other:
        other.send_signal(signal.SIGSTOP)
        path = f"{spool.path}/workers/{pool.name}.json"
        record = read_json(path)
        with open(path, "w") as file:
            json.dump({**record, "pid": other.pid}, file)
        state = f"/proc/{other.pid}/stat"
        wait_until(lambda: read_text(state).rpartition(")")[2].split()[0] == "T")
        found = spool.run("worker", "list", "--json").json
        other.kill()
        assert found[0]["suspended"] is False


def test_a_pool_that_stands_still_is_told(spool: SpoolDir) -> None:
    with spool.pool() as pool:
        pool.signal(signal.SIGSTOP)
        wait_until(lambda: "suspended" in spool.run("status").out)
        assert spool.run("worker", "list", "--json").json[0]["suspended"]
        assert "0/1 suspended" in spool.run("worker", "list").out
        assert "is suspended" in spool.run("doctor", status=1).out
        spool.drop("job")
        assert "is suspended" in spool.run("doctor", "job", status=1).out
        stop = spool.start("worker", "stop", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert stop.stderr is not None
        assert f"kill -CONT {pool.pid}".encode() in stop.stderr.readline()
        pool.signal(signal.SIGCONT)
        assert stop.wait() == 0
        stop.stderr.close()


def test_of_what_is_scheduled_no_error_of_an_earlier_life_is_told(spool: SpoolDir) -> None:
    put(spool, "pending", "job", run_at="2100-01-01T00:00:00Z", error_message="exit status 7")
    due = next(line for line in spool.run("status").lines if line.startswith("due"))
    assert "job  in " in due
    assert "exit status" not in due


def test_a_name_that_is_no_jobs_is_told_once(spool: SpoolDir) -> None:
    spool.create()
    err = spool.run("list", "nosuch", status=1).err
    assert (
        err == f'queuectl: no job "nosuch" in {spool.path}; `queuectl list` shows what there is\n'
    )


def test_a_list_says_why_a_job_failed_and_of_one_that_means_later_only_when(
    spool: SpoolDir,
) -> None:
    due = utc_text(time.time() + 3600)
    put(spool, "failed", "a", error_message="exit status 4", next_retry_at=due)
    later = "exit status 75 (means later)"
    put(spool, "failed", "b", error_message=later, next_retry_at=due)
    put(spool, "failed", "c", next_retry_at=due)
    rows = spool.run("list").lines[1:]
    assert [re.sub(r"5\dm\d\ds", "TIME", row).split()[3:] for row in rows] == [
        ["again", "in", "TIME:", "exit", "status", "4", "true"],
        ["later", "in", "TIME", "true"],
        ["again", "in", "TIME", "true"],
    ]


def test_a_retry_that_was_written_with_the_clock_ahead_is_shown_as_it_is_waited_for(
    spool: SpoolDir,
) -> None:
    ended, due = (utc_text(time.time() + after_s) for after_s in (7200, 7204))
    put(spool, "failed", "a", finished_at=ended, next_retry_at=due)
    assert "again in 4.0s" in spool.run("list").out
    assert "due      a  in 4.0s" in spool.run("status").out
    assert "in 4.0s (" in spool.run("doctor", "a", status=1).out


def test_a_job_is_shown_with_where_it_runs_and_without_what_only_orders_it(
    spool: SpoolDir,
) -> None:
    put(spool, "pending", "a", cwd="/tmp", arrived_at="2026-01-31T08:00:00Z")
    put(spool, "pending", "b")
    shown = spool.run("show", "a").out
    assert re.search("^cwd +/tmp$", shown, re.MULTILINE)
    assert "arrived_at" not in shown
    assert spool.run("show", "a", "--json").json["arrived_at"] == "2026-01-31T08:00:00Z"
    assert "the home directory of its worker's user\n" in spool.run("show", "b").out


def test_what_was_set_aside_is_shown_with_where_its_bytes_are(spool: SpoolDir) -> None:
    spool.drop_bytes("x", b'{"command": "", "rejected": "x.json"}', "dead")
    assert "rejected\n" not in spool.run("show", "x").out
    open(f"{spool.path}/dead/x.rejected", "x").close()
    shown = spool.run("show", "x").out
    assert f"{spool.path}/dead/x.rejected\n" in shown
    assert "cwd" not in shown


def test_who_waits_for_all_where_nothing_waits_is_told(spool: SpoolDir) -> None:
    spool.create()
    assert spool.run("wait", "--all").err == "nothing waits or runs\n"


def test_who_names_a_state_is_told_how_it_is_listed(spool: SpoolDir) -> None:
    spool.create()
    for command in ("list", "retry"):
        assert "`queuectl list --state dead` shows those" in spool.refuse(command, "dead")


def test_status_says_how_what_failed_is_run_again_where_no_worker_is(spool: SpoolDir) -> None:
    put(spool, "completed", "a")
    assert "workers  none\n" in spool.run("status").out
    put(spool, "failed", "b", next_retry_at=utc_text(time.time() + 3600))
    assert "workers  none; `queuectl worker start` starts one\n" in spool.run("status").out


def test_who_cancelled_a_job_is_not_shown_as_its_worker(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    spool.run("cancel", "job")
    assert spool.record("dead", "job")["worker"]
    assert not re.search("^worker ", spool.run("show", "job").out, re.MULTILINE)


def test_of_a_job_without_an_error_none_is_shown(spool: SpoolDir) -> None:
    put(spool, "completed", "job", error_message=None)
    assert "error_message" not in spool.run("show", "job").out


def test_where_there_is_nothing_to_list_programs_read_nothing(spool: SpoolDir) -> None:
    spool.create()
    result = spool.run("list")
    assert (result.out, result.err) == ("", "")  # cron would mail any output
    assert spool.run("list", "--ids").out == ""
    assert spool.run("list", "--json").out == "[]\n"


def test_of_settings_that_cannot_be_read_no_limit_of_a_run_is_told(spool: SpoolDir) -> None:
    spool.configure(job_timeout=7200)
    spool.drop("job", "sleep 600")
    spool.drop("own", "sleep 600", timeout=3600)
    with spool.pool(2) as pool:
        pool.wait_for("started", "job")
        pool.wait_for("started", "own")
        assert " of 2h00m  sleep" in spool.run("status").out
        with open(f"{spool.path}/config.json", "w") as file:
            file.write('{"job-timeout": 7200, "max-re')
        shown = spool.run("status").out
        assert " of 1h00m  sleep" in shown
        assert shown.count(" of ") == 2  # the second says how many slots are busy
        assert "timeout" not in spool.run("show", "job").out
        os.unlink(f"{spool.path}/config.json")
        pool.kill()


def test_what_nobody_holds_is_said_to_be_lost_so(spool: SpoolDir) -> None:
    spool.drop_bytes("job", b'{"command": "true"}', "processing")
    (line,) = [line for line in spool.run("status").lines if line.startswith("lost")]
    assert line.split() == ["lost", "job,", "held", "by", "nobody"]
    assert "lost: held by nobody" in spool.run("list").out


def test_where_nothing_is_due_it_is_not_said_how_much_was_read(spool: SpoolDir) -> None:
    spool.create()
    for number in range(1001):
        with open(spool.file("pending", f"job{number}"), "w") as file:
            file.write('{"command": "true"}')
    assert "read in each" not in spool.run("status").out
    spool.drop("later", run_at="2100-01-01T00:00:00Z")
    again = b'{"command": "true", "state": "failed", "next_retry_at": "2100-01-01T00:00:00Z"}'
    spool.drop_bytes("retry", again, "failed")
    assert "(of 1000 read in each of failed/ and pending/)" in spool.run("status").out


def test_what_has_been_is_ago_and_what_comes_is_in_a_while(spool: SpoolDir) -> None:
    put(spool, "pending", "job", created_at="2020-01-01T00:00:00Z", run_at="2100-01-01T00:00:00Z")
    lines = {line.split()[0]: line for line in spool.run("show", "job").lines}
    assert re.search(r" 20(19|20)-\S+ \S+ \(\d+d\d\dh ago\)$", lines["created_at"])
    assert re.search(r" 2(099|100)-\S+ \S+ \(in \d+d\d\dh\)$", lines["run_at"])


def test_of_a_completed_job_it_is_listed_how_long_it_took(spool: SpoolDir) -> None:
    times = {"started_at": "2020-01-01T00:00:00Z", "finished_at": "2020-01-01T00:00:01.5Z"}
    put(spool, "completed", "job", **times)
    put(spool, "completed", "unknown", finished_at=times["finished_at"])
    _, job, unknown = spool.run("list").lines
    assert re.search(r" took 1\.5s, \d+d\d\dh ago  true$", job)
    assert re.search(r"  \d+d\d\dh ago  +true$", unknown)


def test_who_had_a_waiting_job_in_hand_last_is_no_worker_of_it(spool: SpoolDir) -> None:
    for state in ("pending", "completed"):
        put(spool, state, state, worker="box-1-00000000")
    assert "box-1-00000000" not in spool.run("show", "pending").out
    assert re.search("^worker +box-1-00000000$", spool.run("show", "completed").out, re.MULTILINE)


def test_ids_alone_move_no_cursor_either(spool: SpoolDir) -> None:
    spool.drop("job")
    os.rename(spool.file("pending", "job"), spool.file("pending", "a\x07"))
    assert spool.run("list", "--ids").out == "a\\x07\n"


def test_of_what_is_due_five_are_shown_and_the_others_counted(spool: SpoolDir) -> None:
    for number in range(5):
        put(spool, "pending", f"job{number}", run_at=f"2100-01-0{number + 1}T00:00:00Z")
    assert "later" not in spool.run("status").out
    put(spool, "pending", "job5", run_at="2101-01-01T00:00:00Z")
    assert spool.run("status").lines[-1].strip() == "and 1 later"


def test_how_long_a_job_may_run_is_shown_while_that_matters(spool: SpoolDir) -> None:
    for state in ("pending", "completed"):
        put(spool, state, state)
    put(spool, "dead", "own", timeout=90)
    shown = spool.run("show", "pending").out
    assert re.search(r"^timeout +5m00s \(job-timeout\)$", shown, re.MULTILINE)
    assert "timeout" not in spool.run("show", "completed").out
    assert re.search(r"^timeout +1m30s$", spool.run("show", "own").out, re.MULTILINE)


def test_a_time_that_is_none_is_shown_as_it_is(spool: SpoolDir) -> None:
    put(spool, "pending", "job", created_at="soon")
    assert re.search("^created_at +soon$", spool.run("show", "job").out, re.MULTILINE)


def test_a_priority_is_shown_whichever_it_is(spool: SpoolDir) -> None:
    for number in (-5, 0, 5):
        put(spool, "pending", f"job{number}", priority=number)
    rows = {line.split()[0]: line.split()[3:] for line in spool.run("list").lines}
    assert rows["job-5"] == ["priority", "-5", "true"]
    assert rows["job0"] == ["true"]
    assert rows["job5"] == ["priority", "5", "true"]
