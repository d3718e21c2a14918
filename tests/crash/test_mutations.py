"""A fault test must be able to fail, and does so once the guard that it tests is taken out.

For fsyncs and moves, this is shown beside the tests of power cuts and of kills.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from queuectl.workers import owners
from tests.crash import test_errors_at_every_step as errors
from tests.crash import test_time as clocks
from tests.crash.support import Spoolside, make_spool
from tests.crash.test_errors_at_every_step import forgetful
from tests.crash.test_process_trees import marked
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queuectl import Spool

__all__ = ["forgetful"]


@pytest.fixture
def mutated(tmp_path: Path) -> Iterator[Spoolside]:
    """Yield a spool whose programs lack the guard that the test names by `mutation`."""
    with Spoolside(make_spool(tmp_path / "q")) as made:
        yield made


@pytest.mark.slow  # waits until the deadline for a job that does not come
def test_a_rename_that_is_believed_loses_its_job(
    mutated: Spoolside, forgetful: dict[str, str]
) -> None:
    mutated.mutation = "believe what a rename reports"
    with pytest.raises(AssertionError):
        errors.test_a_job_runs_once_where_every_rename_is_done_and_reported_lost(mutated, forgetful)


def test_a_link_that_is_followed_is_run(mutated: Spoolside, tmp_path: Path) -> None:
    mutated.mutation = "follow links"
    secret = tmp_path / "secret"
    secret.write_text('{"command":"true"}')
    (mutated.path / "pending" / "symlink.json").symlink_to(secret)
    mutated.pool().up()
    mutated.wait_for("symlink", "completed")  # it ought to be in dead/


@pytest.mark.slow
def test_a_live_pool_that_is_buried_has_its_job_run_twice(mutated: Spoolside) -> None:
    make_spool(mutated.path, lease=60)  # the pool puts its files back only after 20 s
    job_id = mutated.submit("sleep 600")
    mutated.pool("--count", "1").up()
    wait_until(lambda: mutated.times_run()[job_id], "it runs")
    for file in (mutated.path / "workers").iterdir():
        file.unlink()
    mutated.mutation = "bury who has lost its files"
    mutated.pool("--count", "1").up()
    wait_until(lambda: mutated.times_run()[job_id] == 2, "it is run a second time")


def test_what_is_left_running_is_there_when_its_job_runs_again(mutated: Spoolside) -> None:
    mutated.submit("test $QUEUECTL_ATTEMPT -gt 1 || sleep 600")
    pool = mutated.pool().up()
    wait_until(lambda: len(marked(mutated.path)) >= 1, "it runs")
    pool.kill()
    mutated.mutation = "leave running what the dead ran"
    mutated.drain()
    left = marked(mutated.path)
    for pid in left:
        os.kill(pid, 9)
    assert left


def test_a_pool_that_trusts_everybody_serves_an_open_spool(mutated: Spoolside) -> None:
    job_id = mutated.submit()
    (mutated.path / "pending").chmod(0o777)
    mutated.mutation = "trust everybody"
    mutated.drain()
    assert mutated.state_of(job_id) == "completed"


@pytest.mark.parametrize("guarded", [True, False])
def test_an_outcome_that_is_given_up_is_not_there_when_the_fault_is_over(
    mutated: Spoolside, tmp_path: Path, *, guarded: bool
) -> None:
    make_spool(mutated.path, poll_interval=60)  # a look settles what a pool holds and forgot
    mutated.mutation = "" if guarded else "give up at the first error"
    gate, completed, away = tmp_path / "gate", mutated.path / "completed", tmp_path / "away"
    mutated.submit(f"while [ ! -e {gate} ]; do sleep 0.02; done", id="kept")
    pool = mutated.pool("--count", "2", log_in=tmp_path).up()
    wait_until(lambda: mutated.times_run()["kept"], "it runs")
    completed.rename(away)
    completed.touch()  # no directory any more: nothing can be moved there
    gate.touch()
    wait_until(lambda: "stalled" in pool.log(), "its outcome finds no place")
    completed.unlink()
    away.rename(completed)
    mutated.submit(id="later")
    mutated.wait_for("later")
    if guarded:
        mutated.wait_for("kept")
    else:
        assert mutated.state_of("kept") == "processing"


def test_a_heartbeat_judged_by_the_wall_clock_buries_the_living(
    mutated: Spoolside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def old(_self: object, spool: Spool, name: str, _now_s: float) -> bool:
        written_s = os.stat(f"{spool.directory('workers')}/{name}.json").st_mtime
        return time.time() - written_s >= spool.config.lease

    monkeypatch.setattr(owners.Heartbeats, "silent", old)
    with pytest.raises(AssertionError):
        clocks.test_an_absurd_heartbeat_is_no_death_before_the_lease(-clocks.DAY_S, mutated)
