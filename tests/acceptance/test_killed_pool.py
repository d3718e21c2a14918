"""After kill -9 of a pool, the next one ends what it left running, and every job ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import (
    AHEAD,
    alive,
    environment,
    read_text,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir

# A run notes its pid, and whether the run before it is alive. Until `go` exists, it hangs.
COMMAND = """
here={here}; me=$here/$QUEUECTL_JOB_ID
alive() {{ [ -e $me.pid ] && grep -q 'State:.[RSD]' /proc/$(cat $me.pid)/status; }}
alive && echo overlap >> $here/overlaps
echo $$ > $me.tmp; mv $me.tmp $me.pid
echo $QUEUECTL_JOB_ID >> $here/runs
[ -e $here/go ] || {hang}
"""
HANGS = {"plain": "exec sleep 1000", "setsid": "exec setsid -w sh -c 'trap : TERM; sleep 1000'"}


def test_who_died_is_looked_for_as_often_as_the_settings_say_now(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600)
    with spool.pool() as pool:
        spool.run("config", "set", "poll-interval", "0.1")
        pool.wait_for("config")
        other = spool.start_pool()
        spool.drop("first", "sleep 100")
        spool.drop("second", "sleep 100")
        wait_until(lambda: len(spool.ids("processing")) == 2)
        other.kill()
        pool.wait_for("recovered")
        spool.run("cancel", "--all", "--yes")


NO_ROOM = """
import errno, os
from queuectl.spool.spool import Spool
settle = Spool.settle
def settle_if_there_is_room(self, *args):
    if not os.path.exists({gate!r}):
        raise OSError(errno.ENOSPC, "No space left on device")
    return settle(self, *args)
Spool.settle = settle_if_there_is_room
"""


def test_what_cannot_be_recovered_yet_is_told_once(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.05, backoff_base=0)
    gate = f"{tmp_path}/gate"
    spool.drop("job", f"[ -e {gate} ] || sleep 100")
    killed = spool.start_pool()
    killed.wait_for("started", "job")
    killed.kill()
    env = with_code_at_start(tmp_path, NO_ROOM.format(gate=gate))
    with spool.pool(env={"PYTHONPATH": env["PYTHONPATH"]}) as pool:
        wait_until(lambda: "cannot recover from" in pool.log())
        time.sleep(0.5)  # for ten looks
        assert pool.log().count("cannot recover from") == 1
        open(gate, "x").close()
        spool.wait_for("completed", "job")


@pytest.mark.parametrize("hang", HANGS)
def test_the_next_pool_ends_what_was_left_running_and_every_job_ends(
    spool: SpoolDir, tmp_path: Path, hang: str
) -> None:
    spool.configure(backoff_base=0, kill_grace=0.2)
    here = str(tmp_path)
    command = COMMAND.format(here=here, hang=HANGS[hang])
    ids = [f"job-{number}" for number in range(8)]
    for job_id in ids:
        spool.drop(job_id, command)
    pool = spool.start_pool(4)
    wait_until(lambda: len(read_text(f"{here}/runs").split()) == 4, pool.log)
    pool.kill()
    begun = read_text(f"{here}/runs").split()
    left = [int(read_text(f"{here}/{job_id}.pid")) for job_id in begun]
    assert all(alive(pid) for pid in left), "the commands outlive their pool"
    assert spool.ids("processing") == sorted(begun)
    open(f"{here}/go", "x").close()

    spool.drain(4)
    assert spool.ids("completed") == ids
    assert read_text(f"{here}/overlaps") == ""
    assert not any(alive(pid) for pid in left)
    assert sorted(read_text(f"{here}/runs").split()) == sorted(ids + begun)
    for job_id in ids:
        record = spool.record("completed", job_id)
        ended = [entry["ended"] for entry in record["history"]]
        assert ended == (["worker lost", "exit"] if job_id in begun else ["exit"])
        assert record["attempts"] == len(ended)
    assert spool.leftovers() == []


def test_a_command_that_takes_its_pool_down_is_not_run_for_ever(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0)
    spool.drop("job", f"echo ran >> {spool.path}.ran; kill -KILL $PPID; sleep 1000", max_retries=2)
    for _ in range(2):
        pool = spool.start_pool(1)
        assert pool.wait() != 0
    spool.drain()
    assert spool.states("job") == ["dead"]
    assert spool.record("dead", "job")["error_message"].startswith("worker lost")
    assert read_text(f"{spool.path}.ran") == "ran\nran\n"


def test_what_was_claimed_ahead_keeps_its_place_when_its_pool_is_killed(
    spool: SpoolDir, tmp_path: Path
) -> None:
    go = f"{spool.path}.go"
    later = [f"later-{number:02}" for number in range(60)]  # more than are claimed ahead
    for job_id in ("a-short", "b-long", *later):
        spool.api.submit(waiting_for(go) if job_id == "b-long" else "true", id=job_id)
    pool = spool.start_pool(1, env=with_code_at_start(tmp_path, AHEAD))
    wait_until(lambda: len(spool.ids("processing")) >= 20, pool.log)
    pool.kill()
    open(go, "x").close()
    with spool.pool(1, "--stop-when-empty") as pool:
        assert pool.wait() == 0
        order = [event["id"] for event in pool.events("started") if event["id"] in later]
    assert order == later


def test_who_was_claimed_ahead_of_a_command_that_takes_its_pool_down_loses_no_attempt(
    spool: SpoolDir, tmp_path: Path
) -> None:
    go = f"{spool.path}.go"
    spool.drop("a-short")
    spool.drop("b-kills", f"{waiting_for(go)}; kill -KILL $PPID", max_retries=1)
    spool.drop("c-ahead", max_retries=1)
    pool = spool.start_pool(1, env=with_code_at_start(tmp_path, AHEAD))
    wait_until((tmp_path / "sitecustomize.py.c-ahead").exists, pool.log)
    open(go, "x").close()
    assert pool.wait() != 0
    assert "c-ahead" in spool.ids("processing")
    spool.drain()
    assert spool.ids("dead") == ["b-kills"]
    record = spool.record("completed", "c-ahead")
    runs = [(entry["number"], entry["ended"]) for entry in record["history"]]
    assert (record["attempts"], runs) == (1, [(1, "exit")])


def test_a_pool_that_is_running_recovers_the_jobs_of_one_that_was_killed(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0, poll_interval=0.2, kill_grace=0.2)
    go = f"{spool.path}.go"
    with spool.pool(1) as living:
        spool.drop("hold", waiting_for(go))
        living.wait_for("started", "hold")
        killed = spool.start_pool(1)
        spool.drop("job", f"[ -e {go} ] || exec sleep 1000")
        killed.wait_for("started", "job")
        killed.kill()
        open(go, "x").close()
        spool.wait_for("completed", "hold", "job")
        living.wait_for("recovered", "job")
        assert living.events("warning") == []


def test_a_killed_pool_is_dead_though_whoever_started_it_has_not_reaped_it(
    spool: SpoolDir,
) -> None:
    spool.configure(backoff_base=0, poll_interval=0.2, lease=3600)
    killed = spool.start_pool(1)
    spool.drop("job", "[ $QUEUECTL_ATTEMPT -gt 1 ] || exec sleep 1000")
    killed.wait_for("started", "job")
    killed.signal(signal.SIGKILL)
    wait_until(lambda: not alive(killed.pid))
    with spool.pool(1):
        spool.wait_for("completed", "job")
    assert killed.wait() != 0


def test_a_living_pools_jobs_are_not_recovered(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.1)
    go = f"{spool.path}.go"
    with spool.pool(1) as one, spool.pool(1) as other:
        spool.drop("job", waiting_for(go))
        wait_until(lambda: spool.ids("processing") == ["job"])
        for number in range(3):
            # meanwhile the pool that is free looks for what the dead have left
            spool.drop(f"mark-{number}", "sleep 0.2")
            spool.wait_for("completed", f"mark-{number}")
        open(go, "x").close()
        spool.wait_for("completed", "job")
        assert one.events("recovered") + other.events("recovered") == []
    assert len(spool.record("completed", "job")["history"]) == 1


def test_a_file_put_into_processing_by_hand_is_run(spool: SpoolDir) -> None:
    spool.drop("job")
    os.rename(spool.file("pending", "job"), spool.file("processing", "job"))
    spool.drain()
    assert spool.states("job") == ["completed"]


def test_jobs_and_settings_survive_restarts(spool: SpoolDir) -> None:
    spool.run("config", "set", "max-retries", "7")
    spool.run("enqueue", "--id", "one", "--command", "true")
    spool.drain()
    spool.run("enqueue", "--id", "two", "--command", "true")
    spool.drain()
    assert spool.ids("completed") == ["one", "two"]
    assert spool.record("completed", "two")["max_retries"] == 7
    assert spool.run("config", "get", "max-retries").out == "7\n"


def test_who_would_signal_other_processes_than_it_sees_recovers_nothing(spool: SpoolDir) -> None:
    words = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("no namespaces")
    spool.configure(lease=1)
    spool.api.submit("sleep 600", id="job")
    pool = spool.start_pool()
    pool.wait_for("started", "job")
    pool.kill()
    command = [*words, *spool.command("cancel", "job")]
    done = subprocess.run(command, env=environment(spool.path), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "/proc is that of other processes: mount one" in done.stderr
    assert spool.states("job") == ["processing"]
