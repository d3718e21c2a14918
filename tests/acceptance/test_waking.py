"""Events are hints: without them, jobs only start later."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from queuectl.units import utc_text
from tests.support import AHEAD, SILENT, cpu_ticks, wait_until, waiting_for, with_code_at_start

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir

REFUSED = """
import errno
from queuectl.system import arrivals
def start(self):
    raise OSError(errno.EMFILE, "too many open files")
arrivals.Arrivals.start = start
"""


REMOVED = """
import os
import signal
from queuectl.spool import spool
take = spool.Spool.take
def take_and_remove(self, *args):
    claim = take(self, *args)
    spool.Spool.take = take
    os.rmdir(self.directory("pending"))
    return claim
spool.Spool.take = take_and_remove
"""  # at the first take only


ENDLESS = """
import time
from queuectl.pool import intake
def scan(self, meanwhile):
    open(__file__ + ".looks", "w").close()
    while not self._stopped:
        time.sleep(0.01)
intake.Intake.scan = scan
"""


MISSING = """
import sys
sys.modules["watchdog"] = None
"""


def run_one(spool: SpoolDir) -> None:
    """Run a job in a pool that is up, so that the pool has seen everything that is there."""
    spool.drop("before")
    spool.wait_for("completed", "before")


@pytest.mark.parametrize("code", [SILENT, REFUSED, MISSING], ids=["silent", "refused", "missing"])
def test_without_events_jobs_run_when_the_pool_looks(
    spool: SpoolDir, tmp_path: Path, code: str
) -> None:
    spool.configure(poll_interval=0.2, backoff_base=0, max_retries=2)
    with spool.pool(env=with_code_at_start(tmp_path, code)) as pool:
        for number in range(3):
            spool.drop(f"job-{number}")
            spool.wait_for("completed", f"job-{number}")
        spool.drop("fails", "exit 1")
        spool.wait_for("dead", "fails")
        os.rename(spool.file("dead", "fails"), spool.file("pending", "fails"))
        wait_until(lambda: len(pool.events("dead", "fails")) == 2, pool.log)
        spool.run("config", "set", "max-retries", "9")
        pool.wait_for("config")
        spool.run("worker", "stop")
        assert pool.wait() == 0
        warnings = [event["detail"] for event in pool.events("warning")]
    if code is not SILENT:
        assert [text for text in warnings if "looking every 0.2 s instead" in text]


def test_without_events_a_pool_stops_when_the_spool_is_empty(
    spool: SpoolDir, tmp_path: Path
) -> None:
    for number in range(20):
        spool.drop(f"job-{number:02}")
    spool.drain(env=with_code_at_start(tmp_path, SILENT))
    assert len(spool.ids("completed")) == 20


@pytest.mark.parametrize(("state", "field"), [("pending", "run_at"), ("failed", "next_retry_at")])
def test_a_job_put_off_after_a_pool_looked_at_it_does_not_run_when_it_was_due(
    spool: SpoolDir, tmp_path: Path, state: str, field: str
) -> None:
    """A job that was put off does not run at its old time.

    Another pool that was faster with the same retry puts a job off.
    """

    def put(job_id: str, in_s: float) -> None:
        body = {"command": "true", "state": state, field: utc_text(time.time() + in_s)}
        spool.drop_bytes(job_id, json.dumps(body).encode(), state)

    spool.configure(poll_interval=3600)
    with spool.pool(env=with_code_at_start(tmp_path, SILENT)) as pool:
        put("put-off", 3.0)
        put("after-it", 3.1)
        put("looked-at", 0)
        pool.signal(signal.SIGHUP)  # makes the pool look
        spool.wait_for("completed", "looked-at")
        put("put-off", 3600)
        spool.wait_for("completed", "after-it")
        assert not pool.events("started", "put-off")
        assert spool.ids(state) == ["put-off"]


def test_a_directory_that_was_removed_and_made_again_is_watched_again(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.2)
    with spool.pool() as pool:
        run_one(spool)
        os.rmdir(f"{spool.path}/pending")
        pool.wait_for("warning")
        wait_until(lambda: os.path.isdir(f"{spool.path}/pending"))
        spool.run("config", "set", "poll-interval", "3600")
        pool.wait_for("config")
        for number in range(4):  # a look that was due may find the first one
            spool.drop(f"after-{number}")
            spool.wait_for("completed", f"after-{number}")
            time.sleep(0.2)


def test_a_spool_behind_a_symlink_wakes_its_pool(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=3600)
    os.symlink(spool.path, tmp_path / "link")
    with spool.pool(env={"QUEUECTL_SPOOL": str(tmp_path / "link")}):
        spool.drop("first")
        spool.wait_for("completed", "first")
        spool.drop("second")
        spool.wait_for("completed", "second")


@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_an_urgent_job_is_claimed_while_others_wait_for_the_lane(
    spool: SpoolDir, tmp_path: Path, durability: str
) -> None:
    spool.configure(durability=durability, poll_interval=3600, lease=36000)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    spool.drop("a-short")
    spool.drop("b-long", f"read x < {gate}")
    for number in range(50):
        spool.drop(f"later-{number:02}")
    with spool.pool(env=with_code_at_start(tmp_path, AHEAD)) as pool:
        pool.wait_for("started", "b-long")
        wait_until(lambda: len(spool.ids("processing")) >= 32, pool.log)
        spool.drop("urgent", priority=-1)
        wait_until(lambda: "urgent" in spool.ids("processing"), pool.log)
        wait_until((tmp_path / "sitecustomize.py.urgent").exists, pool.log)
        spool.drop("not-urgent")
        gate.write_text("\n")
        spool.wait_for("completed", "not-urgent")
        order = [event["id"] for event in pool.events("started")]
    assert order[:4] == ["a-short", "b-long", "urgent", "later-00"]
    assert order[-1] == "not-urgent"


def test_a_job_does_not_wait_behind_one_whose_claim_came_to_nothing(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600, lease=36000)
    go = f"{spool.path}.go"
    spool.drop("long", waiting_for(go))
    spool.run("pause")
    with spool.pool(2) as pool:
        pool.wait_for("paused")
        spool.drop_bytes("twice", b'{"command": "true"}', "completed")
        spool.drop("twice", priority=-1)
        spool.drop("after", priority=1)
        spool.run("resume")
        spool.wait_for("completed", "after")
        assert pool.events("rejected", "twice.2")
        open(go, "x").close()


def test_a_pool_that_may_not_claim_what_is_due_sleeps(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600)
    with spool.pool() as pool:
        pool.wait_for("up")
        spool.run("pause")
        pool.wait_for("paused")
        spool.drop("due", run_at=utc_text(time.time() + 0.5))
        time.sleep(1)
        begun, ticks = time.monotonic(), cpu_ticks(pool.pid)
        time.sleep(2)
        used_s = (cpu_ticks(pool.pid) - ticks) / os.sysconf("SC_CLK_TCK")
        assert used_s < (time.monotonic() - begun) / 2
        spool.run("resume")
        spool.wait_for("completed", "due")


def test_half_a_file_is_set_aside_without_a_look_at_everything(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600)
    with spool.pool():
        run_one(spool)
        time.sleep(0.2)
        spool.drop_bytes("half", b'{"command": "tru')
        spool.wait_for("dead", "half")


def test_a_job_is_not_lost_whose_directory_is_removed_while_it_is_claimed(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("job")
    with spool.pool(env=with_code_at_start(tmp_path, REMOVED)) as pool:
        pool.wait_for("completed", "job")
        assert pool.events("lost") == []
    assert spool.states("job") == ["completed"]


def test_a_job_is_not_forgotten_while_its_place_is_missing(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600)  # so that the pool misses it before it makes it again
    with spool.pool() as pool:
        run_one(spool)
        os.rmdir(f"{spool.path}/processing")
        spool.drop("after")
        pool.wait_for("stalled")
        spool.run("config", "set", "poll-interval", "0.1")
        spool.wait_for("completed", "after")


def test_a_first_look_that_takes_long_holds_up_no_job(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=3600, lease=36000)
    with spool.pool(env=with_code_at_start(tmp_path, ENDLESS)):
        wait_until((tmp_path / "sitecustomize.py.looks").exists)
        spool.drop("job")
        spool.wait_for("completed", "job")


RESTS = """
import time
from queuectl.pool.looks import Looks
leave = Looks.__exit__
def rests(self, *error):
    leave(self, *error)
    self._took = 0.75  # asked for, it rests for twice as long
Looks.__exit__ = rests
"""


def test_what_is_in_a_directory_that_is_put_in_the_place_of_another_is_seen_soon(
    spool: SpoolDir, tmp_path: Path
) -> None:
    """A directory that replaces pending/ is looked at soon, even right after the last look."""
    spool.configure(poll_interval=3600, lease=36000)
    with spool.pool(env=with_code_at_start(tmp_path, RESTS)):
        run_one(spool)
        os.mkdir(f"{spool.path}.new", 0o700)
        with open(f"{spool.path}.new/job.json", "w", encoding="utf-8") as file:
            file.write('{"command": "true"}')
        os.rename(f"{spool.path}/pending", f"{spool.path}.old")
        os.rename(f"{spool.path}.new", f"{spool.path}/pending")
        spool.wait_for("completed", "job")
