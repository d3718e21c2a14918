from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support import SpoolDir


@pytest.fixture
def dead(spool: SpoolDir) -> SpoolDir:
    """Return a spool with two dead jobs, one file that was set aside, and one completed job."""
    spool.drop("dead-1", "exit 1", max_retries=1)
    spool.drop("dead-2", "exit 2", max_retries=1)
    spool.drop("done", "true")
    spool.drop_bytes("bad", b'{"command": 7}')
    spool.drain()
    assert spool.ids("dead") == ["bad", "dead-1", "dead-2"]
    return spool


def test_retry_prints_the_ids_it_queued(dead: SpoolDir) -> None:
    assert dead.run("dlq", "retry", "dead-2", "dead-1").lines == ["dead-2", "dead-1"]
    assert dead.ids("pending") == ["dead-1", "dead-2"]
    assert dead.ids("dead") == ["bad"]


def test_retry_all_takes_all_that_can_be_run(dead: SpoolDir) -> None:
    assert sorted(dead.run("dlq", "retry", "--all").lines) == ["dead-1", "dead-2"]
    assert dead.ids("dead") == ["bad"]
    assert dead.run("dlq", "retry", "--all").out == ""


def test_retry_of_no_such_job_is_told(dead: SpoolDir) -> None:
    text = dead.refuse("dlq", "retry", "nope")
    assert 'no job "nope"' in text
    assert "queuectl list" in text


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (("dlq", "retry"), "pending"),
        (("retry",), "pending"),
        (("dlq", "purge"), None),
        (("prune",), None),
    ],
)
def test_a_name_that_is_no_job_holds_up_none_of_the_others(
    dead: SpoolDir, words: tuple[str, ...], state: str | None
) -> None:
    result = dead.run(*words, "dead-1", "nope", "dead-2", status=1)
    assert result.lines == ["dead-1", "dead-2"]
    assert result.err.count('no job "nope"') == 1
    assert dead.states("dead-2") == ([state] if state else [])


def test_retry_of_a_job_that_is_not_dead_is_told(dead: SpoolDir) -> None:
    assert 'job "done" is completed; only dead' in dead.refuse("dlq", "retry", "done")
    assert dead.states("done") == ["completed"]


def test_a_retried_job_is_run_by_a_pool_that_is_up(dead: SpoolDir) -> None:
    dead.configure(poll_interval=3600)
    with dead.pool() as pool:
        dead.run("dlq", "retry", "dead-1")
        pool.wait_for("dead", "dead-1")
    assert len(dead.record("dead", "dead-1")["history"]) == 2


@pytest.mark.parametrize("text", ["../config", "../pending/waits", "..", ".", "/etc/hostname", ""])
@pytest.mark.parametrize("words", [["dlq", "purge", "-y"], ["dlq", "retry"], ["show"], ["cancel"]])
def test_a_path_is_no_id(dead: SpoolDir, words: list[str], text: str) -> None:
    dead.run("config", "set", "poll-interval", "9")
    dead.drop("waits")
    assert "no job" in dead.refuse(*words, text)
    assert dead.ids("pending") == ["waits"]
    assert dead.run("config", "get", "poll-interval").lines == ["9"]


def test_an_id_that_was_dropped_again_can_still_be_retried(spool: SpoolDir) -> None:
    for _ in range(2):
        spool.drop("nightly")
        spool.drain()
    assert spool.ids("dead") == ["nightly.2"]
    assert spool.run("retry", "nightly").lines == ["nightly"]
    spool.drain()
    assert spool.record("completed", "nightly")["attempts"] == 1
    assert spool.ids("dead") == ["nightly.2"]
    assert "exists already" in spool.run("dlq", "show", "nightly.2").out


def test_what_has_the_id_of_another_is_not_moved_over_it(spool: SpoolDir) -> None:
    for state in ("completed", "dead"):
        spool.drop_bytes("twice", b'{"command": "true"}', state)
    assert "is in completed/ and dead/" in spool.refuse("retry", "twice")
    assert spool.states("twice") == ["completed", "dead"]


def test_purge_goes_on_with_the_rest(spool: SpoolDir) -> None:
    spool.create()
    for name in ("a-full", "b-empty"):
        os.mkdir(spool.file("pending", name))
    open(f"{spool.file('pending', 'a-full')}/x", "x").close()
    spool.drop_bytes("c-bad", b'{"command": 7}')
    spool.drain()
    done = spool.run("dlq", "purge", "--all", "-y", status=1)
    assert "dead/a-full.rejected" in done.err
    assert done.lines == ["b-empty", "c-bad"]
    assert spool.ids("dead") == ["a-full"]
    assert sorted(os.listdir(f"{spool.path}/dead")) == ["a-full.json", "a-full.rejected"]


def test_what_was_set_aside_is_not_retried_with_all_and_that_is_said(spool: SpoolDir) -> None:
    spool.drop_bytes("bad", b"[1]")
    spool.drop("fails", "exit 1", max_retries=1)
    spool.configure(poll_interval=0.1)
    with spool.pool():
        spool.wait_for("dead", "bad", "fails")
    done = spool.run("dlq", "retry", "--all")
    assert done.lines == ["fails"]
    assert done.err == "left out 1 set aside: `queuectl dlq list` says why\n"


@pytest.mark.parametrize(
    "body",
    [
        {"rejected": "x"},
        {"id": "a", "rejected": "x", "command": "", "history": 5, "tags": 7, "attempts": "z"},
        {"id": "other", "rejected": "x", "command": ""},
    ],
)
def test_a_reason_that_is_none_of_ours_is_told_and_hinders_nothing(
    spool: SpoolDir, body: dict[str, object]
) -> None:
    spool.drop_bytes("a", json.dumps(body).encode(), state="dead")
    spool.drop_bytes("b", b'{"command": "true", "state": "dead"}', state="dead")
    for words in (["list"], ["dlq", "list"], ["stats"], ["dlq", "list", "--tag", "x"]):
        spool.run(*words)
    assert f"{spool.path}/dead/a.json" in spool.refuse("show", "a")
    assert spool.run("dlq", "purge", "--all", "--yes").lines == ["b"]


def test_purge_of_a_job_that_is_not_dead_is_told(dead: SpoolDir) -> None:
    result = dead.run("dlq", "purge", "done", "nowhere", "dead-1", "--yes", status=1)
    assert result.lines == ["dead-1"]
    assert 'job "done" is completed, not dead; it was left alone' in result.err
    assert 'no job "nowhere"' in result.err
    assert dead.states("done") == ["completed"]


def test_the_beginning_of_an_id_is_looked_for_among_the_dead(dead: SpoolDir) -> None:
    dead.drop("bar")
    shown = dead.run("dlq", "show", "ba")
    assert shown.err == 'queuectl: "ba" is the beginning of "bad"\n'
    assert dead.run("dlq", "purge", "bad", "--yes").lines == ["bad"]
    assert 'no job "ba"' in dead.refuse("dlq", "show", "ba")


def test_show_of_a_job_that_is_not_dead_says_where_it_is_shown(dead: SpoolDir) -> None:
    why = dead.refuse("dlq", "show", "done")
    assert why == 'queuectl: job "done" is completed, not dead; `queuectl show` shows any job'
