"""Clocks that jump, stand still, or belong to another machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from glob import glob
from typing import TYPE_CHECKING

import pytest

from queuectl.pool.backlog import Backlog, Entry
from queuectl.units import utc_text
from queuectl.workers import owners
from tests.crash.support import Spoolside, make_spool
from tests.support import environment, wait_until

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400.0


def elsewhere(side: Spoolside, job_id: str = "", slots: int = 1) -> Path:
    """Write the record of a pool on another machine, which may hold a job; return its file."""
    name = "far-away-1-00000000"
    record = {"worker": name, "host": "far-away", "machine_id": "m", "boot_id": "b", "pid": 1,
              "slots": slots, "since": utc_text(0)}  # fmt: skip
    file = side.path / "workers" / f"{name}.json"
    file.write_text(json.dumps(record))
    (side.path / "workers" / f"{name}.lock").touch()
    if job_id:
        side.spool.take(job_id, "pending", name)
    return file


# --- no processes: what is asked of a clock ---------------------------------------------------


@pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S])
def test_no_wait_is_ever_negative_whatever_the_clock_does(jump_s: float) -> None:
    backlog = Backlog()
    backlog.ready_at(Entry(0, 1, 0, "at", "pending"), 1000.0)
    backlog.ready_after(Entry(0, 2, 0, "after", "failed"), 1000.0)
    wait_s = backlog.wait_s(1000.0 + jump_s, 990.0)
    assert wait_s is not None
    assert 0 <= wait_s <= 10


def test_a_clock_set_back_holds_no_retry_back() -> None:
    backlog = Backlog()
    backlog.ready_after(Entry(0, 1, 0, "retry", "failed"), 1000.0)
    backlog.advance(0.0 - DAY_S, 1001.0)
    assert backlog.first() is not None


def test_a_schedule_follows_the_wall_clock() -> None:
    backlog = Backlog()
    backlog.ready_at(Entry(0, 1, 0, "morning", "pending"), 5000.0)
    backlog.advance(4999.0, 1e9)
    assert backlog.first() is None
    backlog.advance(4999.0 + DAY_S, 0.0)
    assert backlog.first() is not None


# --- a heartbeat from a wrong clock -----------------------------------------------------------


@pytest.mark.parametrize("ahead_s", [-1e9, -DAY_S, DAY_S, 5e8])
def test_an_absurd_heartbeat_is_no_death_before_the_lease(ahead_s: float, side: Spoolside) -> None:
    mtime = time.time() + ahead_s
    file = elsewhere(side)
    os.utime(file, (mtime, mtime))
    assert side.spool.config.lease == 1
    beats = owners.Heartbeats()
    assert not beats.silent(side.spool, file.stem, 1000.0)
    assert not beats.silent(side.spool, file.stem, 1000.9)
    os.utime(file, (mtime - 7, mtime - 7))  # its clock goes backwards: still a sign of life
    assert not beats.silent(side.spool, file.stem, 1001.1)
    assert not beats.silent(side.spool, file.stem, 1002.0)
    assert beats.silent(side.spool, file.stem, 1002.2)


def test_a_job_held_elsewhere_is_rescued_after_silence_only(tmp_path: Path) -> None:
    with Spoolside(make_spool(tmp_path / "q", lease=1.5)) as side:
        job_id = side.submit()
        file = elsewhere(side, job_id)
        os.utime(file, (1.0, 1.0))
        pool = side.pool().up()
        until_s = time.monotonic() + 3
        beat = 2.0
        while time.monotonic() < until_s:  # twice the lease, with signs of life all along
            beat += 1
            os.utime(file, (beat, beat))
            assert side.state_of(job_id) == "processing"
            time.sleep(0.05)
        side.wait_for(job_id)  # silent now
        pool.stop()
        side.check_promise()
        assert f"worker={file.stem}  what it ran on another machine may still run" in pool.log()


def test_of_a_command_line_that_died_elsewhere_nothing_can_run_still(tmp_path: Path) -> None:
    with Spoolside(make_spool(tmp_path / "q", lease=1)) as side:
        job_id = side.submit()
        elsewhere(side, job_id, slots=0)
        pool = side.pool().up()
        side.wait_for(job_id)
        assert "may still run" not in pool.log()
        pool.stop()


def test_a_job_held_elsewhere_is_cancelled_after_silence_though_no_pool_is_here(
    tmp_path: Path,
) -> None:
    with Spoolside(make_spool(tmp_path / "q", lease=1.5)) as side:
        job_id = side.submit()
        elsewhere(side, job_id)
        done = side.run("cancel", job_id)
        assert (done.returncode, done.stdout) == (0, f"{job_id}\n"), done.stderr
        assert side.state_of(job_id) == "dead"


def test_a_stopped_pool_keeps_its_job_on_its_own_machine(side: Spoolside) -> None:
    job_id = side.submit("sleep 0.5")
    pool = side.pool().up()
    pool.says("started")
    pool.send(signal.SIGSTOP)  # as in a suspend: no heartbeat for longer than the lease
    other = side.pool().up()
    run_witnesses(side)
    assert side.state_of(job_id) == "processing"
    pool.send(signal.SIGCONT)
    side.wait_for(job_id)
    pool.stop()
    other.stop()
    assert side.times_run()[job_id] == 1


def run_witnesses(side: Spoolside) -> None:
    """Run other jobs for longer than the lease of 1 s, so that pools look more than once."""
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        side.wait_for(side.submit())


# --- the wall clock of a whole pool -----------------------------------------------------------


def faketime(shift: str) -> dict[str, str]:
    """Return an environment in which only the wall clock is shifted."""
    found = glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not found or shutil.which("true") is None:
        pytest.skip("needs libfaketime")
    return environment(LD_PRELOAD=found[0], FAKETIME=shift, FAKETIME_DONT_FAKE_MONOTONIC="1")


@pytest.mark.parametrize("shift", ["-1d", "+1d"])
def test_a_pool_on_a_wrong_clock_runs_and_retries_and_rescues_nothing_early(
    shift: str, tmp_path: Path
) -> None:
    shifted = faketime(shift)
    with Spoolside(make_spool(tmp_path / "q", backoff_base=1)) as side:
        right, wrong = side.pool().up(), side.pool(env=shifted).up()
        ids = [side.submit("sleep 0.1; test $QUEUECTL_ATTEMPT -gt 1 || exit 1") for _ in range(6)]
        for job_id in ids:
            side.wait_for(job_id)
        right.stop()
        wrong.stop()
        assert set(side.times_run().values()) == {2}
        side.check_promise()


@pytest.mark.parametrize(("jump", "jump_s"), [("-1d", -86400), ("+1d", 86400)])
def test_a_clock_that_is_set_under_a_running_pool_ends_no_run_and_holds_up_no_retry(
    jump: str, jump_s: int, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    settable = faketime("+0") | {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    del settable["FAKETIME"]
    with Spoolside(make_spool(tmp_path / "q", backoff_base=3)) as side:
        pool = side.pool("--count", "2", env=settable).up()
        runs = side.submit("sleep 2", timeout=60)
        fails = side.submit("test $QUEUECTL_ATTEMPT -gt 1 || exit 1")
        side.wait_for(fails, "failed")
        wait_until(lambda: side.times_run()[runs] == 1, "it runs")
        clock.write_text(jump)
        for job_id in (runs, fails):
            side.wait_for(job_id, "completed")
        pool.stop()
        days = {line[:10] for line in pool.log().splitlines() if " completed " in line}
        assert days == {utc_text(time.time() + jump_s)[:10]}, "the pool has not seen the jump"
        assert side.times_run() == {runs: 1, fails: 2}
        side.check_promise()


def test_a_schedule_written_by_the_right_clock_waits_on_a_pool_set_back(side: Spoolside) -> None:
    shifted = faketime("-1d")
    job_id = side.submit(run_at=utc_text(time.time() - 60))  # due here, a day ahead there
    late = side.pool(env=shifted).up()
    side.wait_for(side.submit())
    assert side.state_of(job_id) == "pending"
    late.stop()
    side.drain()
    side.check_promise()
