"""Files that a backup or a person takes away from under a running pool, or brings back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from queuectl import Spool
from queuectl.workers import owners
from tests.support import (
    SILENT,
    alive,
    read_text,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir


@pytest.mark.parametrize("order", [(".lock", ".json"), (".json", ".lock"), ()])
def test_a_pool_whose_files_a_backup_has_replaced_is_known_again(
    spool: SpoolDir, order: tuple[str, ...]
) -> None:
    """A pool registers again if a backup has replaced its lock and record, or the whole spool.

    It does so at once in the first case, and at its next look in the second.
    """
    spool.configure(poll_interval=3600 if order else 0.2, lease=36000)
    with spool.pool() as pool:
        if order:
            for suffix in order:
                path = f"{spool.path}/workers/{pool.name}{suffix}"
                shutil.copy(path, f"{path}.new")
                os.rename(f"{path}.new", path)
                time.sleep(0.2)  # until the pool has looked at the file
        else:
            pool.signal(signal.SIGSTOP)  # or it would make directories while they are copied
            os.waitid(os.P_PID, pool.pid, os.WSTOPPED | os.WNOWAIT)
            os.rename(spool.path, f"{spool.path}.old")
            shutil.copytree(f"{spool.path}.old", spool.path)
            pool.signal(signal.SIGCONT)
        wait_until(lambda: [worker.worker for worker in owners.workers(spool.api)] == [pool.name])
        spool.drop("job")
        pool.wait_for("completed", "job")


def test_a_spool_that_is_away_for_a_while_is_not_made_anew(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.1, lease=1)
    spool.drop("running", waiting_for(f"{tmp_path}/go"))
    with spool.pool(2) as pool:
        pool.wait_for("started", "running")
        os.rename(spool.path, f"{spool.path}.away")
        wait_until(lambda: "is gone: waiting for it" in pool.log())
        for _ in range(30):  # for several looks and heartbeats; a touch of workers/ wakes the pool
            os.utime(f"{spool.path}.away/workers")
            time.sleep(0.05)
        assert not os.path.exists(spool.path)
        assert pool.events("error") == []
        assert pool.log().count("is gone: waiting for it") == 1
        assert pool.events("config") == []
        os.rename(f"{spool.path}.away", spool.path)
        (tmp_path / "go").touch()
        spool.wait_for("completed", "running")
        spool.drop("after")
        pool.wait_for("completed", "after")


def test_a_spool_that_was_removed_is_served_again_once_somebody_makes_it(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.1)
    spool.drop("before")
    with spool.pool() as pool:
        spool.wait_for("completed", "before")
        os.rename(spool.path, f"{spool.path}.gone")
        shutil.rmtree(f"{spool.path}.gone")
        wait_until(lambda: "is gone: waiting for it" in pool.log(), pool.log)
        assert not os.path.exists(spool.path)
        Spool(spool.path).submit("true", id="new")
        wait_until(lambda: spool.ids("completed") == ["new"], pool.log)
        wait_until(lambda: [worker.worker for worker in owners.workers(spool.api)] == [pool.name])


def test_what_a_backup_brings_back_in_the_name_of_a_living_pool_is_run_again(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(poll_interval=0.1)
    spool.drop("ran", waiting_for(f"{tmp_path}/go"))
    spool.drop("done", "true")
    with spool.pool() as pool:
        pool.wait_for("started", "ran")
        shutil.copytree(f"{spool.path}/processing", tmp_path / "backup")
        (tmp_path / "go").touch()
        spool.wait_for("completed", "ran")
        spool.wait_for("completed", "done")
        (taken,) = tmp_path.glob("backup/ran@*")
        os.unlink(spool.file("completed", "ran"))
        shutil.copy(taken, f"{spool.path}/processing/.half")
        os.rename(f"{spool.path}/processing/.half", f"{spool.path}/processing/{taken.name}")
        # and a job that was only claimed, and one that has completed since
        held = spool.api.held_file("claimed", pool.name)
        shutil.copy(spool.file("completed", "done"), f"{spool.path}/processing/.half")
        with open(held, "w", encoding="utf-8") as file:
            file.write('{"command": "true"}')
        os.rename(f"{spool.path}/processing/.half", spool.api.held_file("done", pool.name))
        for job_id in ("ran", "claimed"):
            spool.wait_for("completed", job_id)
        spool.wait_for("dead", "done.2")
    history = spool.record("completed", "ran")["history"]
    assert [entry["ended"] for entry in history] == ["worker lost", "exit"]
    # the time at which the run began, not that at which its file was found
    assert history[0]["started_at"] == json.loads(taken.read_text())["started_at"]
    assert {event["id"] for event in pool.events("recovered")} == {"ran", "claimed"}
    assert spool.ids("processing") == []


def test_what_a_backup_brings_back_of_a_job_whose_output_is_gone_is_a_run(
    spool: SpoolDir, tmp_path: Path
) -> None:
    """A held job that comes back without output files counts as run: they may have been pruned."""
    spool.configure(poll_interval=0.1)
    spool.drop("job", waiting_for(f"{tmp_path}/go"), max_retries=1)
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        held = spool.api.held_file("job", pool.name)
        shutil.copy(held, tmp_path / "copy")
        (tmp_path / "go").touch()
        spool.wait_for("completed", "job")
        spool.run("prune", "--yes", "job")
        os.rename(tmp_path / "copy", held)
        spool.wait_for("dead", "job")
    assert spool.record("dead", "job")["attempts"] == 1


def has_a_line(path: str) -> bool:
    return os.path.exists(path) and read_text(path).endswith("\n")


def test_a_command_whose_job_was_taken_away_is_ended_and_nothing_is_recorded_of_it(
    spool: SpoolDir,
) -> None:
    """A command whose job was taken away is ended, and nothing is recorded of it.

    Another machine takes a job away if this one was silent for longer than the lease.
    """
    spool.configure(poll_interval=0.1)
    for job_id in ("taken", "removed"):
        spool.drop(job_id, f"echo $$ > {spool.path}.{job_id}; exec sleep 1000")
    with spool.pool(2) as pool:
        pids = {}
        for job_id in ("taken", "removed"):
            pool.wait_for("started", job_id)
            file = f"{spool.path}.{job_id}"
            wait_until(partial(has_a_line, file), file)
            pids[job_id] = int(read_text(file))
        os.rename(spool.api.held_file("taken", pool.name), spool.file("completed", "taken"))
        os.unlink(spool.api.held_file("removed", pool.name))
        pool.wait_for("lost", "taken")
        assert not alive(pids["taken"])
        assert [event["event"] for event in pool.events(job_id="taken")][1:] == ["warning", "lost"]
        # nobody else holds this one, so nobody runs it beside this pool, and it goes on
        assert alive(pids["removed"])
        os.kill(pids["removed"], signal.SIGKILL)
        pool.wait_for("lost", "removed")
    assert spool.states("taken") == ["completed"]
    assert spool.record("completed", "taken")["state"] == "processing"  # untouched


def test_what_a_backup_brings_back_beside_another_of_its_id_is_told_as_where_it_is(
    spool: SpoolDir,
) -> None:
    spool.configure(poll_interval=0.1)
    spool.drop("a", run_at="2100-01-01T00:00:00Z")
    with spool.pool() as pool:
        with open(spool.api.held_file("a", pool.name), "w", encoding="utf-8") as file:
            file.write('{"command": "true", "state": "pending"}')
        pool.wait_for("recovered", "a")
        assert "to dead/a.2.json: " in pool.events("recovered", "a")[0]["detail"]
    assert spool.states("a.2") == ["dead"]


@pytest.mark.parametrize("state", ["completed", "failed", "dead"])
def test_what_a_backup_brings_back_on_its_way_goes_where_it_was_on_its_way_to(
    spool: SpoolDir, state: str
) -> None:
    spool.configure(poll_interval=0.1)
    with spool.pool() as pool:
        fields = {"attempts": 1, "worker": pool.name, "state": state}
        body = {"command": "true", "next_retry_at": "2100-01-01T00:00:00Z", **fields}
        half = f"{spool.path}/processing/.half"
        with open(half, "w", encoding="utf-8") as file:
            json.dump(body, file)
        os.rename(half, spool.api.held_file("job", pool.name))
        wait_until(lambda: spool.ids("processing") == [])
        assert spool.states("job") == [state]
        assert spool.record(state, "job")["attempts"] == 1
        spool.drop("after")
        pool.wait_for("completed", "after")
    assert not [event for event in pool.events("started") if event["id"] == "job"]


def test_what_a_backup_is_still_writing_is_waited_for(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.1)
    with spool.pool() as pool:
        with open(spool.api.held_file("job", pool.name), "w", encoding="utf-8") as file:
            file.write('{"command": "true", ')
            file.flush()
            time.sleep(0.5)  # for several looks
            file.write('"tags": []}')
        pool.wait_for("completed", "job")
        with open(spool.api.held_file("half", pool.name), "w", encoding="utf-8") as file:
            file.write('{"command": "true", ')
        pool.wait_for("rejected", "half")


def test_an_outcome_waits_for_a_directory_that_is_away(spool: SpoolDir) -> None:
    spool.configure(poll_interval=300)
    spool.api.submit(f"{waiting_for(spool.path + '/go')}; echo done > {spool.path}/done", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        os.rename(f"{spool.path}/processing", f"{spool.path}/away")
        open(f"{spool.path}/go", "x").close()
        pool.wait_for("stalled")
        shown = f"{spool.path}/workers/{pool.name}.stalled"
        assert os.path.exists(shown)
        os.rename(f"{spool.path}/away", f"{spool.path}/processing")
        spool.wait_for("completed", "job")
        pool.wait_for("resumed")
        wait_until(lambda: not os.path.exists(shown))
        assert not pool.events("lost")


def test_a_job_that_comes_while_there_is_no_place_for_claims_runs_once_it_is_back(
    spool: SpoolDir,
) -> None:
    spool.configure(poll_interval=300)
    spool.drop("first")
    with spool.pool() as pool:
        pool.wait_for("completed", "first")
        os.rename(f"{spool.path}/processing", f"{spool.path}/away")
        spool.drop("job")
        pool.wait_for("stalled")
        os.rename(f"{spool.path}/away", f"{spool.path}/processing")
        spool.wait_for("completed", "job")


NOT_LISTED = """
import errno, os
scandir = os.scandir
code = getattr(errno, os.environ.get("REFUSAL", "EMFILE"))
def refused(path):
    if str(path).endswith("/processing") and os.path.exists(f"{path}.refused"):
        raise OSError(code, os.strerror(code), path)
    return scandir(path)
os.scandir = refused
"""


@pytest.mark.parametrize("ran", [False, True], ids=["set aside", "with an outcome"])
def test_where_the_claims_cannot_be_listed_what_needs_another_id_waits(
    spool: SpoolDir, tmp_path: Path, *, ran: bool
) -> None:
    """What needs a free id in dead/ waits while processing/ cannot be listed (EMFILE)."""
    spool.configure(poll_interval=300)
    go, refused = f"{spool.path}.go", f"{spool.path}/processing.refused"
    if ran:
        spool.drop("job", waiting_for(go))
    with spool.pool(env=with_code_at_start(tmp_path, NOT_LISTED)) as pool:
        if ran:
            pool.wait_for("started", "job")
        spool.drop_bytes("job", b'{"command": "echo another"}', "completed")
        open(refused, "x").close()
        if ran:
            open(go, "x").close()
        else:
            spool.drop("job")
        pool.wait_for("stalled")
        os.unlink(refused)
        pool.wait_for("dead" if ran else "rejected", "job.2")
    assert spool.record("completed", "job") == {"command": "echo another"}


@pytest.mark.parametrize("refusal", ["EMFILE", "EACCES", "EIO"])
def test_where_the_claims_cannot_be_listed_what_was_mended_waits(
    spool: SpoolDir, tmp_path: Path, refusal: str
) -> None:
    """A mended file waits while processing/ cannot be listed.

    Otherwise it would be set aside once more, because its id exists already.
    """
    spool.configure(poll_interval=300)
    refused = f"{spool.path}/processing.refused"
    spool.drop_bytes("job", b'{"command": 7}')
    env = with_code_at_start(tmp_path, NOT_LISTED) | {"REFUSAL": refusal}
    with spool.pool(env=env) as pool:
        pool.wait_for("rejected", "job")
        os.unlink(f"{spool.path}/dead/job.rejected")
        open(refused, "x").close()
        spool.drop("job")
        pool.wait_for("stalled")
        os.unlink(refused)
        pool.wait_for("completed", "job")


def test_a_job_that_is_removed_while_it_runs_is_lost_and_has_no_outcome(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.drop("job", waiting_for(go))
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        os.unlink(spool.api.held_file("job", pool.name))
        open(go, "x").close()
        pool.wait_for("lost", "job")
        spool.drop("next")
        pool.wait_for("completed", "next")
        assert not pool.events("completed", "job")
    assert spool.states("job") == []


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_jobs_of_a_directory_that_was_away_run_once_it_is_back(spool: SpoolDir, state: str) -> None:
    # so that the pool misses the directory before it makes it again
    spool.configure(poll_interval=3600, lease=36000, backoff_base=0)
    spool.drop("running", waiting_for(f"{spool.path}/go"))
    body = b'{"command": "true", "state": "%s", "attempts": 1}' % state.encode()
    with spool.pool() as pool:
        pool.wait_for("started", "running")
        spool.drop_bytes("job", body, state)
        time.sleep(0.5)  # by then the pool knows of the job
        os.rename(f"{spool.path}/{state}", f"{spool.path}/away")
        open(f"{spool.path}/go", "x").close()
        spool.wait_for("completed", "running")
        pool.wait_for("stalled")
        if os.path.isdir(f"{spool.path}/{state}"):  # the pool has made it again meanwhile
            os.rmdir(f"{spool.path}/{state}")
        os.rename(f"{spool.path}/away", f"{spool.path}/{state}")
        spool.wait_for("completed", "job")


def test_an_edit_that_no_event_tells_of_is_found(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.2)
    spool.drop("job", run_at="2100-01-01T00:00:00Z")
    with spool.pool(env=with_code_at_start(tmp_path, SILENT)):
        time.sleep(0.5)  # by then the pool knows of the job
        spool.drop("job")
        spool.wait_for("completed", "job")
