"""`queuectl prune`, and the settings `retain-completed` and `retain-dead` that workers apply."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from queuectl.errors import BadSettingError, WrongStateError
from queuectl.jobs import housekeeping
from queuectl.jobs.housekeeping import Doomed
from queuectl.pool import retention
from queuectl.pool.retention import Retention
from queuectl.spool import joblogs
from queuectl.workers.worklog import WorkLog
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl import Spool
    from queuectl.record.job import Job
    from tests.support import SpoolDir

DAY_S = 86400


def put(spool: SpoolDir, state: str, job_id: str, days_old: float = 0) -> None:
    """Put a job with its output into a state, as if it had come there `days_old` days ago."""
    spool.create()
    body = f'{{"id":"{job_id}","command":"true","state":"{state}","history":[{{"number":2}}]}}'
    spool.drop_bytes(job_id, body.encode(), state)
    for number in (1, 2):
        for stream in ("out", "err"):
            open(f"{spool.path}/logs/{job_id}.{number}.{stream}", "w").close()
    at = time.time() - days_old * DAY_S
    os.utime(spool.file(state, job_id), (at, at))


@pytest.fixture
def house(spool: SpoolDir) -> SpoolDir:
    """Return a spool with jobs of many ages in every state but processing."""
    for state in ("pending", "failed", "completed", "dead"):
        for days in (1, 5, 10, 100):
            put(spool, state, f"{state}{days}", days)
    return spool


def logs_of(spool: SpoolDir) -> set[str]:
    return {name.partition(".")[0] for name in os.listdir(f"{spool.path}/logs")}


# --- prune ----------------------------------------------------------------------------------


def test_a_batch_is_pruned_by_its_tag(spool: SpoolDir) -> None:
    for number in range(3):
        spool.api.submit("true", id=f"mine{number}", tags=["batch", "x"])
        spool.api.submit("true", id=f"other{number}", tags=["x"])
    spool.drain()
    words = ("prune", "--tag", "batch", "--tag", "x", "--older-than", "0s", "--yes")
    assert sorted(spool.run(*words).lines) == ["mine0", "mine1", "mine2"]
    assert spool.run("prune", "--tag", "batch", "--keep", "0").lines == []
    assert "none with these tags" in spool.run("prune", "--tag", "batch", "--older-than", "0s").err
    assert spool.ids("completed") == ["other0", "other1", "other2"]


def test_old_completed_jobs_go_with_their_output_and_nothing_else(house: SpoolDir) -> None:
    result = house.run("prune", "--older-than", "7d")
    assert sorted(result.lines) == ["completed10", "completed100"]
    assert "--state dead" in result.err
    assert house.ids("completed") == ["completed1", "completed5"]
    for state in ("pending", "failed", "dead"):
        assert len(house.ids(state)) == 4
    assert len(logs_of(house)) == 14
    assert not logs_of(house) & {"completed10", "completed100"}


def test_what_cannot_be_deleted_is_told_and_the_rest_is_deleted(house: SpoolDir) -> None:
    (log,) = (f for f in os.listdir(f"{house.path}/logs") if f.startswith("completed100.1.o"))
    os.unlink(f"{house.path}/logs/{log}")
    os.mkdir(f"{house.path}/logs/{log}")
    result = house.run("prune", "--older-than", "7d", status=1)
    assert f"cannot delete {house.path}/logs/{log}" in result.err
    assert result.lines == ["completed10"]
    assert "completed100" in house.ids("completed")


def test_a_week_is_what_is_meant_without_a_word(house: SpoolDir) -> None:
    assert sorted(house.run("prune", "--dry-run").lines) == ["completed10", "completed100"]
    assert len(house.ids("completed")) == 4


def test_nothing_is_deleted_that_nobody_selects_or_is_asked_about(house: SpoolDir) -> None:
    for words in ((), ("--yes",)):  # as xargs runs it for an empty list of ids
        result = house.run("prune", *words, status=2)
        assert "which jobs? name them, or select them by --older-than" in result.err
    assert len(house.ids("completed")) == 4


def test_dead_jobs_go_where_their_state_is_named(house: SpoolDir) -> None:
    words = ("--state", "dead", "--state", "completed", "--older-than", "50d")
    assert sorted(house.run("prune", *words).lines) == ["completed100", "dead100"]


def test_the_newest_n_are_kept(house: SpoolDir) -> None:
    assert sorted(house.run("prune", "--keep", "1").lines) == [
        "completed10",
        "completed100",
        "completed5",
    ]
    assert house.run("prune", "--keep", "1").lines == []


@pytest.mark.parametrize("keep", ["4", "5", "1000"])
def test_nothing_goes_where_as_many_are_kept_as_there_are(house: SpoolDir, keep: str) -> None:
    assert house.run("prune", "--keep", keep).lines == []
    assert len(house.ids("completed")) == 4


def test_both_limits_must_be_passed(house: SpoolDir) -> None:
    words = ("--keep", "3", "--older-than", "7d", "--dry-run")
    assert house.run("prune", *words).lines == ["completed100"]


def test_the_record_counts_where_files_were_copied(house: SpoolDir) -> None:
    body = b'{"id":"copied","command":"true","finished_at":"2001-01-01T00:00:00Z"}'
    house.drop_bytes("copied", body, "completed")
    assert "copied" in house.run("prune", "--older-than", "7d").lines


def test_the_newest_by_their_records_are_kept_where_files_were_copied(spool: SpoolDir) -> None:
    for day in (3, 1, 2):
        body = b'{"command":"true","finished_at":"2001-01-0%dT00:00:00Z"}' % day
        spool.drop_bytes(f"day{day}", body, "completed")
    assert spool.run("prune", "--keep", "1").lines == ["day1", "day2"]


@pytest.mark.parametrize("state", ["pending", "failed", "processing"])
def test_no_other_state_can_be_named(house: SpoolDir, state: str) -> None:
    assert state in house.refuse("prune", "--state", state, status=2)


def test_named_jobs_go_whatever_their_age_and_however_they_ended(house: SpoolDir) -> None:
    assert house.run("prune", "completed1", "dead1", "--dry-run").lines == ["completed1", "dead1"]
    result = house.run("prune", "dead1", "completed1", "dead1")
    assert result.lines == ["dead1", "completed1"]
    assert result.err == ""
    assert house.states("completed1") == house.states("dead1") == []
    assert not logs_of(house) & {"completed1", "dead1"}


def test_what_another_deletes_at_the_same_time_is_gone_and_no_error(spool: SpoolDir) -> None:
    put(spool, "dead", "there")
    found = list(housekeeping.doomed(spool.api, "dead", ["gone", "there"]))
    assert [job.job_id for job in found] == ["there"]


def test_what_is_named_and_has_not_ended_is_told_and_the_rest_is_deleted(house: SpoolDir) -> None:
    result = house.run("prune", "pending1", "nowhere", "dead1", "failed1", status=1)
    assert result.lines == ["dead1"]
    told = result.err.splitlines()
    assert len(told) == 3
    for job_id, why in (
        ("pending1", "is pending, not completed or dead; it was left alone"),
        ("nowhere", f"in {house.path}; `queuectl list` shows what there is"),
        ("failed1", "is failed, not completed or dead; it was left alone"),
    ):
        assert any(f'job "{job_id}" {why}' in line for line in told)
    assert house.states("pending1") == ["pending"]
    assert "pending1" in logs_of(house)


def test_what_is_to_be_deleted_is_asked_for_one_by_one(house: SpoolDir) -> None:
    """Jobs are taken one at a time, so that whoever yields them can stop when the time is up."""
    there = []

    def doomed() -> Iterator[Doomed]:
        for job in list(housekeeping.doomed(house.api, "completed", house.ids("completed"))):
            there.append(len(house.ids("completed")))
            yield job

    deleted = list(housekeeping.delete_each(house.api, doomed(), lambda *_: None))
    assert len(deleted) > 1
    assert there == list(range(len(deleted), 0, -1))


def test_what_there_is_not_is_told_in_a_line_and_by_the_status(spool: SpoolDir) -> None:
    put(spool, "completed", "there")
    assert 'no job "gone"' in spool.refuse("prune", "gone", "--yes")
    result = spool.run("prune", "gone", "there", "--yes", status=1)
    assert result.lines == ["there"]


@pytest.mark.parametrize(
    "words",
    [("--older-than", "1d"), ("--keep", "0"), ("--state", "dead"), ("--tag", "x")],
)
def test_jobs_are_named_or_selected(house: SpoolDir, words: tuple[str, ...]) -> None:
    assert "not both" in house.refuse("prune", "dead1", *words, status=2)
    assert house.states("dead1") == ["dead"]


def test_of_a_part_of_an_id_what_can_be_deleted_is_told(spool: SpoolDir) -> None:
    put(spool, "pending", "job-1")
    put(spool, "completed", "job-2")
    assert 'no job "job"; did you mean "job-2"?' in spool.refuse("prune", "job", "--yes")


def test_a_job_that_was_given_another_life_keeps_it(house: SpoolDir) -> None:
    (doomed,) = housekeeping.doomed(house.api, "dead", ["dead100"])
    house.run("dlq", "retry", "dead100")
    assert housekeeping.delete(house.api, doomed) is False
    assert house.states("dead100") == ["pending"]


def test_a_job_that_ran_again_since_it_was_to_be_deleted_is_spared_with_its_output(
    house: SpoolDir,
) -> None:
    (doomed,) = housekeeping.doomed(house.api, "completed", ["completed5"])
    house.run("retry", "completed5")
    house.drain()
    assert housekeeping.delete(house.api, doomed) is False
    assert house.states("completed5") == ["completed"]
    assert "completed5" in logs_of(house)


def test_a_job_that_runs_again_while_its_output_is_deleted_is_kept(
    house: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    (doomed,) = housekeeping.doomed(house.api, "completed", ["completed5"])
    remove = joblogs.remove

    def remove_slowly(spool: Spool, job: Job) -> None:
        remove(spool, job)
        put(house, "completed", "completed5")  # it has run again meanwhile

    monkeypatch.setattr(joblogs, "remove", remove_slowly)
    with pytest.raises(WrongStateError, match="it stays, and what it had printed is gone"):
        housekeeping.delete(house.api, doomed)
    assert house.states("completed5") == ["completed"]


def test_the_output_of_a_job_that_dead_has_under_another_id_goes_with_it(spool: SpoolDir) -> None:
    spool.run("enqueue", "--id", "x", "--max-retries", "1", "--", "sh", "-c", "echo why; exit 1")
    spool.drain()
    os.rename(spool.file("dead", "x"), spool.file("dead", "x.2"))
    record = {**spool.record("dead", "x.2"), "id": "x.2"}
    spool.drop_bytes("x.2", json.dumps(record).encode(), "dead")
    spool.drop("x")  # the output may be that of this job
    spool.run("dlq", "purge", "x.2")
    assert "x.1.out" in os.listdir(f"{spool.path}/logs")
    os.unlink(spool.file("pending", "x"))
    spool.drop_bytes("x.2", json.dumps(record).encode(), "dead")
    spool.run("dlq", "purge", "x.2")
    assert os.listdir(f"{spool.path}/logs") == []


def test_deleting_what_was_set_aside_spares_the_output_of_the_job_it_was_mistaken_for(
    house: SpoolDir,
) -> None:
    house.configure(poll_interval=0.05)
    house.drop("completed5", "true")
    with house.pool():
        house.wait_for("dead", "completed5.2")
    wait_until(lambda: os.path.exists(f"{house.path}/dead/completed5.2.rejected"))
    house.run("dlq", "purge", "completed5.2")
    assert not os.path.exists(f"{house.path}/dead/completed5.2.rejected")
    assert house.states("completed5") == ["completed"]
    assert "completed5" in logs_of(house)


# --- retention ------------------------------------------------------------------------------


def keep_house(spool: SpoolDir, times: int = 1) -> Retention:
    house = Retention(spool.api, WorkLog(-1))
    for _ in range(times):
        house.run()
    return house


def test_nothing_is_deleted_unless_it_is_asked_for(house: SpoolDir) -> None:
    keep_house(house)
    assert len(house.ids("completed")) == len(house.ids("dead")) == 4


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("7d", ["completed1", "completed5"]),
        ("2", ["completed1", "completed5"]),
        ("0", []),
        ("4", ["completed1", "completed10", "completed100", "completed5"]),
        ("none", ["completed1", "completed10", "completed100", "completed5"]),
    ],
)
def test_completed_jobs_are_kept_by_age_or_count(
    house: SpoolDir, value: str, kept: list[str]
) -> None:
    house.run("config", "set", "retain-completed", value)
    keep_house(house, 2)
    assert house.ids("completed") == kept
    assert len(house.ids("dead")) == len(house.ids("pending")) == len(house.ids("failed")) == 4
    assert {job_id for job_id in logs_of(house) if job_id.startswith("completed")} == set(kept)


def test_dead_jobs_have_a_retention_of_their_own(house: SpoolDir) -> None:
    house.configure(retain_dead="50d")
    keep_house(house)
    assert house.ids("dead") == ["dead1", "dead10", "dead5"]
    assert len(house.ids("completed")) == 4


def test_a_job_that_ran_again_since_the_look_is_not_deleted(house: SpoolDir) -> None:
    house.configure(retain_completed="50d")
    tending = keep_house(house)
    put(house, "completed", "completed10")  # it was 10 days old at the last look
    house.configure(retain_completed="7d")
    tending._spool.config = house.api.config
    tending.run()
    assert "completed10" in house.ids("completed")


def test_as_many_are_kept_at_every_look(house: SpoolDir) -> None:
    house.configure(retain_completed=3)
    tending = keep_house(house)
    for number in range(2):
        put(house, "completed", f"new{number}")
        let_time_pass(tending)
        tending.run()
        assert len(house.ids("completed")) == 3


def test_a_directory_in_which_nothing_happened_is_not_listed_again(
    house: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.configure(retain_completed="200d", retain_dead=10)
    for state in ("completed", "dead"):
        os.utime(house.api.directory(state), (0, 0))
    tending = keep_house(house)
    let_time_pass(tending)
    tending.run()  # the first look came too soon after the change, this one settles it
    let_time_pass(tending)

    def listing(_path: str) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(os, "scandir", listing)
    tending.run()


def let_time_pass(tending: Retention) -> None:
    """Make `tending` act as if minutes had passed since its last look."""
    for shelf in tending._shelves.values():
        shelf._looks._stamp = (shelf._looks._stamp[0], 0.0)
        shelf._looks._took = 0.0


def test_looking_takes_a_bounded_share_of_the_time(
    house: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.configure(retain_completed=1000)
    clock = [0.0]
    looks = []
    scandir = os.scandir

    def slow(path: str) -> object:
        looks.append(clock[0])
        clock[0] += 10
        return scandir(path)

    monkeypatch.setattr(os, "scandir", slow)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    tending = keep_house(house)
    while clock[0] < 3600:
        clock[0] += 60
        put(house, "completed", f"new{len(looks)}-{clock[0]}")
        tending.run()
    assert 2 <= len(looks) <= 1 + 3600 / (10 * 50)


def test_much_to_delete_is_done_bit_by_bit(
    house: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.configure(retain_completed=0)
    monkeypatch.setattr(retention, "_BUDGET_S", 0.0)
    tending = Retention(house.api, WorkLog(-1))
    assert tending.run() is True
    assert len(house.ids("completed")) == 4
    monkeypatch.undo()
    assert tending.run() is False
    assert house.ids("completed") == []


def test_workers_carry_it_out_while_they_run(spool: SpoolDir) -> None:
    put(spool, "completed", "old", days_old=10)
    put(spool, "completed", "new")
    spool.run("config", "set", "retain-completed", "7d")
    spool.api.submit("sleep 600", id="running")
    pool = spool.start_pool()
    try:
        wait_until(lambda: spool.ids("completed") == ["new"], pool.log)
        wait_until(lambda: spool.ids("processing") == ["running"], pool.log)
        pool.wait_for("pruned")  # logged once all are deleted
        assert pool.events("pruned")[0]["detail"] == "1 completed job: retain-completed is 7d"
    finally:
        pool.kill()


def test_what_a_worker_cannot_delete_is_told_and_the_rest_is_deleted(house: SpoolDir) -> None:
    log = f"{house.path}/logs/completed100.1.out"
    os.unlink(log)
    os.mkdir(log)
    house.configure(retain_completed="7d")
    with house.pool() as pool:
        pool.wait_for("error")
        pool.wait_for("pruned")
        assert f"cannot delete {log}" in pool.log()
    assert "completed100" in house.ids("completed")
    assert "completed10" not in house.ids("completed")


@pytest.mark.parametrize("value", ["soon", "-1", "7 years", "1.5", "", "99999999d"])
def test_what_is_neither_an_age_nor_a_count_is_refused(spool: SpoolDir, value: str) -> None:
    why = spool.refuse("config", "set", "retain-dead", "--", value, status=2)
    assert "an age such as 12h or 7d, or a count" in why


@pytest.mark.parametrize("value", [-1, True, 1.5, "x", []])
def test_a_stored_retention_is_checked_too(spool: SpoolDir, value: object) -> None:
    spool.create()
    with open(f"{spool.path}/config.json", "w") as file:
        json.dump({"retain-dead": value}, file)
    with pytest.raises(BadSettingError, match="retain-dead"):
        _ = spool.api


def test_where_nothing_is_old_enough_it_is_said_what_old_is(house: SpoolDir) -> None:
    assert "none ended more than 200d00h ago" in house.run("prune", "--older-than", "200d").err


def test_of_jobs_that_are_kept_by_number_no_age_is_said(house: SpoolDir) -> None:
    assert house.run("prune", "--older-than", "2d", "--keep", "9").err.startswith("no jobs match")


@pytest.mark.parametrize(
    ("state", "job_id"), [("pending", "a"), ("processing", "a"), ("dead", "../a")]
)
def test_what_is_not_over_is_never_deleted(spool: SpoolDir, state: str, job_id: str) -> None:
    spool.create()
    path = spool.file(state, job_id)
    open(path, "x").close()
    with pytest.raises(ValueError, match="is not a job that has ended"):
        housekeeping.delete(spool.api, Doomed(state, job_id, os.stat(path).st_mtime))
    assert os.path.exists(path)


def test_output_of_runs_that_a_history_does_not_tell_of_goes_too(spool: SpoolDir) -> None:
    """All output goes, even if another program rewrote the record with only its `attempts`."""
    put(spool, "completed", "job", 30)
    record = {**spool.record("completed", "job"), "history": [], "attempts": 2}
    spool.drop_bytes("job", json.dumps(record).encode(), "completed")
    assert spool.run("prune", "--older-than", "0s", "--yes").lines == ["job"]
    assert logs_of(spool) == set()


def test_who_names_a_state_is_not_told_of_the_other(house: SpoolDir) -> None:
    said = house.run("prune", "--state", "completed", "--older-than", "7d", "--yes").err
    assert "dead jobs" not in said
    assert "--state dead" in house.run("prune", "--older-than", "7d", "--yes").err


def test_a_directory_that_was_dropped_by_mistake_is_purged_once_it_is_empty(
    spool: SpoolDir,
) -> None:
    spool.create()
    os.makedirs(f"{spool.path}/pending/folder.json/kept")
    spool.drain()
    rejected = f"{spool.path}/dead/folder.rejected"
    assert "Directory not empty" in spool.refuse("dlq", "purge", "folder")
    os.rmdir(f"{rejected}/kept")
    spool.run("dlq", "purge", "folder")
    assert not os.path.exists(rejected)
    assert spool.ids("dead") == []


def test_a_bad_file_that_comes_again_while_it_is_purged_keeps_its_reason(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.drop_bytes("bad", b"[]")
    spool.drain()
    (job,) = housekeeping.doomed(spool.api, "dead", ["bad"])
    unlink = os.unlink

    def come_again(path: str) -> None:
        unlink(path)
        if path.endswith(".rejected"):
            open(path, "x").close()  # set aside again: the reason that exists is now this file's

    monkeypatch.setattr(os, "unlink", come_again)
    assert not housekeeping.delete(spool.api, job)
    assert os.path.exists(spool.file("dead", "bad"))
