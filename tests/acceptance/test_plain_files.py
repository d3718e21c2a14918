"""Any program that can write a file can queue a job, and any that can move one can steer it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from queuectl.units import parse_time, utc_text
from tests.support import tick, wait_until, waiting_for, with_code_at_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support import Pool, SpoolDir

HOUR_S = 3600


@pytest.fixture
def deaf(spool: SpoolDir) -> SpoolDir:
    """Return a spool that pools look at once an hour, so what runs sooner was woken by an event."""
    spool.configure(poll_interval=HOUR_S)
    return spool


@contextmanager
def busy_pool(spool: SpoolDir) -> Iterator[Pool]:
    """Run a pool whose one slot a job holds until the block ends, then wait for the other jobs."""
    go = f"{spool.path}.go"
    spool.drop("blocker", waiting_for(go))
    with spool.pool(1) as pool:
        pool.wait_for("started", "blocker")
        yield pool
        # events come in order: a pool that knows of the pause knows of all that came before it
        spool.run("pause")
        pool.wait_for("paused")
        spool.run("resume")
        pool.wait_for("unpaused")
        with open(go, "x"):
            pass
        wait_until(lambda: not spool.ids("pending") and not spool.ids("processing"), pool.log)


def started(pool: Pool) -> list[str]:
    """Return the ids of the jobs that a pool started, in order."""
    return [event["id"] for event in pool.events("started")]


# --- how a file may arrive ------------------------------------------------------------------


def by_mv(draft: str, target: str) -> None:
    subprocess.run(["mv", draft, target], check=True)


def by_cp(draft: str, target: str) -> None:
    subprocess.run(["cp", draft, target], check=True)


def by_ln(draft: str, target: str) -> None:
    subprocess.run(["ln", draft, target], check=True)


def by_redirection(draft: str, target: str) -> None:
    subprocess.run(f'cat "{draft}" > "{target}"', shell=True, check=True)


def by_a_slow_writer(draft: str, target: str) -> None:
    with open(draft, "rb") as source, open(target, "wb", buffering=0) as file:
        for byte in source.read():
            file.write(bytes([byte]))
            time.sleep(0.02)  # the writer is slow: the test does not wait for anything here


@pytest.mark.parametrize("way", [by_mv, by_cp, by_ln, by_redirection, by_a_slow_writer])
def test_a_file_is_run_as_soon_as_it_is_whole_however_it_comes(
    deaf: SpoolDir, way: Callable[[str, str], None]
) -> None:
    draft = f"{deaf.path}.draft"
    with open(draft, "w") as file:
        json.dump({"command": "echo ran >> ../ran", "cwd": f"{deaf.path}/logs"}, file)
    with deaf.pool() as pool:
        # once a job has run, the first look is over: from here on only events report files
        deaf.drop("first")
        deaf.wait_for("completed", "first")
        way(draft, deaf.file("pending", "job"))
        deaf.wait_for("completed", "job")
        assert started(pool) == ["first", "job"]
    with open(f"{deaf.path}/ran") as file:
        assert file.read() == "ran\n"


def test_a_file_that_is_linked_keeps_its_other_name_as_it_was(spool: SpoolDir) -> None:
    body = b'{"command": "true"}'
    spool.create()
    with open(f"{spool.path}.mine", "wb") as file:
        file.write(body)
    os.link(f"{spool.path}.mine", spool.file("pending", "job"))
    spool.drain()
    assert spool.states("job") == ["completed"]
    with open(f"{spool.path}.mine", "rb") as file:
        assert file.read() == body


def test_names_that_are_not_ours_are_left_alone(spool: SpoolDir) -> None:
    spool.create()
    names = (".hidden.json", "job.json.tmp", "notes.txt", "README")
    for name in names:
        with open(f"{spool.path}/pending/{name}", "w") as file:
            file.write('{"command": "touch ran"}')
    os.mkdir(f"{spool.path}/pending/directory")
    spool.drop("job")
    spool.drain()
    assert spool.ids("completed") == ["job"]
    assert sorted(os.listdir(f"{spool.path}/pending")) == sorted([*names, "directory"])


def test_unknown_fields_are_kept_to_the_end(spool: SpoolDir) -> None:
    spool.drop("job", "true", ticket={"nr": 7, "who": ["é", None]})
    spool.drain()
    assert spool.record("completed", "job")["ticket"] == {"nr": 7, "who": ["é", None]}


def test_a_slip_in_a_dropped_job_is_told_once(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0)
    spool.drop("job", "exit 1", delay="1h", max_retries=2, ticket=7)
    pool = spool.drain()
    told = [event["detail"] for event in pool.events("warning", "job")]
    assert told == ['"delay" is kept, but means nothing here; did you mean "run_at"?']


# --- order ----------------------------------------------------------------------------------


def test_lower_priority_runs_first_then_who_came_first(spool: SpoolDir) -> None:
    with busy_pool(spool) as pool:
        # the names sort in the reverse order of arrival
        for job_id, priority in (("z", 0), ("y", 5), ("x", 0), ("w", -1), ("v", 5), ("u", 0)):
            spool.drop(job_id, priority=priority)
            tick(spool)
    assert started(pool) == ["blocker", "w", "z", "x", "u", "y", "v"]


# without it, a pool on a machine that stalls would begin with what it has read by then
PATIENT = "from queuectl.pool import pool\npool._FIRST_SCAN_S = 60\n"


def test_jobs_that_were_queued_at_once_run_in_the_order_of_their_lines(
    spool: SpoolDir, tmp_path: Path
) -> None:
    ids = spool.run("enqueue", "--commands", "-", stdin="true\n" * 200).lines
    assert started(spool.drain(1, env=with_code_at_start(tmp_path, PATIENT))) == ids


def test_what_waited_before_the_pool_came_runs_in_the_same_order(
    spool: SpoolDir, tmp_path: Path
) -> None:
    for job_id, priority in (("z", 0), ("y", 5), ("x", 0), ("w", -1)):
        spool.drop(job_id, priority=priority)
        tick(spool)
    pool = spool.drain(1, env=with_code_at_start(tmp_path, PATIENT))
    assert started(pool) == ["w", "z", "x", "y"]


def test_a_file_that_was_written_long_ago_arrives_when_it_is_moved_in(spool: SpoolDir) -> None:
    spool.create()
    old = f"{spool.path}.old"
    with open(old, "w") as file:
        file.write('{"command": "true"}')
    tick(spool)
    with busy_pool(spool) as pool:
        spool.drop("a-first")
        tick(spool)
        os.rename(old, spool.file("pending", "a"))
    assert started(pool) == ["blocker", "a-first", "a"]


def test_what_is_moved_by_hand_arrives_anew_and_what_was_given_back_has_its_place(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("first")
    for job_id, state in (("moved", "failed"), ("given-back", "pending")):
        tick(spool)
        spool.drop(job_id, state=state, arrived_at="2001-01-01T00:00:00Z")
    pool = spool.drain(1, env=with_code_at_start(tmp_path, PATIENT))
    assert started(pool) == ["given-back", "first", "moved"]


# --- when -----------------------------------------------------------------------------------


def test_run_at_in_the_future_waits_and_lets_others_pass(deaf: SpoolDir) -> None:
    with deaf.pool() as pool:
        due = time.time() + 1.5
        deaf.drop("later", run_at=utc_text(due))
        deaf.drop("now")
        deaf.wait_for("completed", "later")
        assert started(pool) == ["now", "later"]
    assert parse_time(deaf.record("completed", "later")["started_at"]) >= due - 1e-6


def test_run_at_in_the_past_runs_at_once(deaf: SpoolDir) -> None:
    deaf.drop("job", run_at="2001-01-01T00:00:00+02:00")
    deaf.drain()
    assert deaf.states("job") == ["completed"]


def test_a_job_for_next_year_does_not_keep_a_pool_that_stops_when_empty(spool: SpoolDir) -> None:
    spool.drop("later", run_at=utc_text(time.time() + 366 * 86400))
    spool.drop("now")
    spool.drain()
    assert (spool.states("later"), spool.states("now")) == (["pending"], ["completed"])


def test_a_scheduled_job_that_is_replaced_runs_by_its_new_time(spool: SpoolDir) -> None:
    with spool.pool():
        spool.drop("job", "echo old", run_at=utc_text(time.time() + HOUR_S))
        spool.drop("mark")
        spool.wait_for("completed", "mark")
        spool.drop("job", "echo new")
        spool.wait_for("completed", "job")
    assert spool.output("job") == "new\n"


# --- moves by hand --------------------------------------------------------------------------


def test_mv_from_dead_to_pending_is_a_retry(deaf: SpoolDir) -> None:
    go = f"{deaf.path}.go"
    deaf.drop("job", f"[ -e {go} ]", max_retries=1)
    with deaf.pool():
        deaf.wait_for("dead", "job")
        with open(go, "x"):
            pass
        os.rename(deaf.file("dead", "job"), deaf.file("pending", "job"))
        deaf.wait_for("completed", "job")
    record = deaf.record("completed", "job")
    assert record["attempts"] == 1
    assert record["error_message"] is None
    assert [entry["number"] for entry in record["history"]] == [1, 2]


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_mv_from_any_state_to_pending_runs_again_from_the_start(
    spool: SpoolDir, state: str
) -> None:
    spool.configure(backoff_base=500)
    spool.drop("job", f"test -e {spool.path}.go || exit {0 if state == 'completed' else 1}")
    with spool.pool() as pool:
        spool.wait_for(state, "job")
        with open(f"{spool.path}.go", "x"):
            pass
        os.rename(spool.file(state, "job"), spool.file("pending", "job"))
        wait_until(lambda: len(pool.events("completed", "job")) == 1 + (state == "completed"))
        spool.wait_for("completed", "job")
    record = spool.record("completed", "job")
    assert (record["attempts"], len(record["history"])) == (1, 2)


def test_rm_from_pending_is_a_cancel(spool: SpoolDir) -> None:
    with busy_pool(spool) as pool:
        spool.drop("gone")
        spool.drop("stays")
        os.unlink(spool.file("pending", "gone"))
    assert spool.states("gone") == []
    assert spool.states("stays") == ["completed"]
    assert pool.events(job_id="gone") == []


def test_a_job_that_is_edited_in_place_while_it_waits_runs_as_it_is_then(spool: SpoolDir) -> None:
    with busy_pool(spool):
        spool.drop("job", "echo old")
        spool.drop("job", "echo new")
    assert spool.output("job") == "new\n"


def test_a_job_that_was_put_into_processing_by_hand_is_seen_by_all(spool: SpoolDir) -> None:
    spool.drop("a")
    os.rename(spool.file("pending", "a"), f"{spool.path}/processing/a.json")
    (job,) = spool.run("list", "--json").json
    assert (job["id"], job["state"]) == ("a", "processing")
    assert spool.run("show", "a", "--json").json["state"] == "processing"
    assert "held by nobody" in spool.run("doctor", "a", status=1).out
    assert spool.run("cancel", "a").lines == ["a"]
    assert spool.states("a") == ["dead"]
