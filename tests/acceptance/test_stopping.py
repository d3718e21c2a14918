"""A pool lets what runs finish at the first signal, and gives it back at the second."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuectl.spool.filenames import DIRECTORIES
from tests.support import (
    AHEAD,
    DEADLINE_S,
    processes_with,
    read_text,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from tests.support import SpoolDir

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_finishes_what_runs_and_starts_nothing_more(
    spool: SpoolDir, number: signal.Signals
) -> None:
    go = f"{spool.path}.go"
    spool.drop("running", waiting_for(go))
    with spool.pool(1) as pool:
        pool.wait_for("started", "running")
        spool.drop("waiting")
        pool.signal(number)
        pool.wait_for("stopping")
        spool.drop("late")
        assert spool.states("running") == ["processing"]
        open(go, "x").close()
        assert pool.wait() == 0
    assert spool.ids("completed") == ["running"]
    assert spool.ids("pending") == ["late", "waiting"]
    assert spool.leftovers() == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_gives_what_runs_back_with_the_attempt_uncounted(
    spool: SpoolDir, number: signal.Signals
) -> None:
    spool.drop("job", "sleep 1000 & sleep 1000")
    with spool.pool(1) as pool:
        pool.wait_for("started", "job")
        pool.signal(number)
        pool.wait_for("stopping")
        pool.signal(number)
        assert pool.wait() == 0
    assert spool.states("job") == ["pending"]
    record = spool.record("pending", "job")
    assert record["attempts"] == 0
    assert [entry["ended"] for entry in record["history"]] == ["stopped"]
    assert processes_with(f"QUEUECTL_SPOOL={spool.path}") == []
    assert spool.leftovers() == []


def test_ctrl_c_at_the_terminal_does_not_reach_the_commands(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.drop("job", f"trap 'echo hit' INT; echo begun; {waiting_for(go)}; echo done")
    with open(f"{spool.path}.log", "wb") as log:
        # in a group of its own: a terminal sends SIGINT to the whole group in its foreground
        process = spool.start("worker", "start", stderr=log, start_new_session=True)
    try:
        wait_until(lambda: spool.output("job") == "begun\n")
        os.killpg(process.pid, signal.SIGINT)
        open(go, "x").close()
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert spool.states("job") == ["completed"]
    assert spool.output("job") == "begun\ndone\n"


def test_a_job_that_was_given_back_runs_again_in_the_next_pool(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.drop("job", f"[ -e {go} ] || sleep 1000", max_retries=1)
    with spool.pool(1) as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        pool.signal(signal.SIGTERM)
        pool.wait()
    open(go, "x").close()
    spool.drain()
    record = spool.record("completed", "job")
    assert record["attempts"] == 1
    assert [entry["ended"] for entry in record["history"]] == ["stopped", "exit"]


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(spool: SpoolDir) -> None:
    spool.configure(kill_grace=0.2)
    ready = f"{spool.path}.ready"
    spool.drop("job", f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done")
    with spool.pool(1) as pool:
        wait_until(lambda: os.path.exists(ready))
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        pool.signal(signal.SIGTERM)
        assert pool.wait() == 0
    assert spool.states("job") == ["pending"]
    assert processes_with(f"QUEUECTL_SPOOL={spool.path}") == []


SLOW_TO_READ = """
import os, time
from queuectl.pool import intake
read = intake.Intake._read
def read_at_the_gate(self, *args):
    while not os.path.exists({gate!r}):
        time.sleep(0.01)
    return read(self, *args)
intake.Intake._read = read_at_the_gate
"""


def test_a_pool_that_is_to_leave_an_empty_spool_hears_while_it_reads_a_full_one(
    spool: SpoolDir, tmp_path: Path
) -> None:
    gate = f"{tmp_path}/gate"
    spool.drop("later", run_at="2099-01-01T00:00:00Z")
    env = with_code_at_start(tmp_path, SLOW_TO_READ.format(gate=gate))
    with spool.pool(1, "--stop-when-empty", env={"PYTHONPATH": env["PYTHONPATH"]}) as pool:
        time.sleep(1.0)  # by then it has begun to claim, and looks whether anything is left
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        open(gate, "x").close()
        assert pool.wait() == 0


def stop_with_more_ahead(spool: SpoolDir, tmp_path: Path, later: list[str]) -> str:
    """Stop a pool that runs one job and has claimed others ahead; return how it logs the stop."""
    go = f"{spool.path}.go"
    spool.drop("a-short")
    spool.drop("b-long", waiting_for(go))
    for job_id in later:
        spool.drop(job_id)
    with spool.pool(env=with_code_at_start(tmp_path, AHEAD)) as pool:
        pool.wait_for("started", "b-long")
        wait_until(lambda: len(spool.ids("processing")) >= 20, pool.log)
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        wait_until(lambda: spool.ids("processing") == ["b-long"], pool.log)
        open(go, "x").close()
        assert pool.wait() == 0
        (told,) = pool.events("stopping")
    return str(told["detail"])


def test_what_is_claimed_ahead_does_not_start_in_a_pool_that_is_to_stop(
    spool: SpoolDir, tmp_path: Path
) -> None:
    ahead = [f"later-{number:02}" for number in range(30)]
    told = stop_with_more_ahead(spool, tmp_path, ahead)
    assert told == "1 running; a second signal ends them"  # not all that are in processing/
    assert spool.ids("completed") == ["a-short", "b-long"]
    assert spool.ids("pending") == ahead
    assert {spool.record("pending", job_id).get("attempts", 0) for job_id in ahead} == {0}


def started(spool: SpoolDir) -> list[str]:
    """Run what waits, one job at a time, and return the ids in the order of their starts."""
    with spool.pool(1, "--stop-when-empty") as pool:
        assert pool.wait() == 0
        return [event["id"] for event in pool.events("started")]


def test_what_was_claimed_ahead_keeps_its_place_over_a_restart(
    spool: SpoolDir, tmp_path: Path
) -> None:
    later = [f"later-{number:02}" for number in range(60)]  # more than a pool claims ahead
    stop_with_more_ahead(spool, tmp_path, later)
    assert started(spool) == later
    assert "arrived_at" not in spool.record("completed", later[0])


def test_what_a_stop_interrupts_runs_first_again(spool: SpoolDir) -> None:
    names = ["a", "b", "c"]
    spool.drop("a", f"[ -e {spool.path}.once ] || {{ touch {spool.path}.once; sleep 1000; }}")
    with spool.pool(1) as pool:
        wait_until(lambda: os.path.exists(f"{spool.path}.once"), pool.log)
        for job_id in ("b", "c"):
            spool.drop(job_id)
        spool.run("worker", "stop", "--now")
    assert started(spool) == names


NO_DESCRIPTOR = """
import errno, os
from queuectl.system import files
def refused(path):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
files.open_directory = refused
"""


def test_a_pool_that_holds_nothing_any_more_leaves_though_it_cannot_sync_that(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("job")
    with spool.pool(env=with_code_at_start(tmp_path, NO_DESCRIPTOR)) as pool:
        pool.wait_for("stalled")
        pool.signal(signal.SIGTERM)
        assert pool.wait() == 0
    assert spool.ids("pending") == ["job"]


def test_stop_when_empty_waits_for_retries_and_for_other_pools(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0.3, poll_interval=3600, lease=36000)
    go = f"{spool.path}.go"
    spool.drop("held", waiting_for(go))
    with spool.pool(1) as other:
        other.wait_for("started", "held")
        spool.drop("retried", '[ "$QUEUECTL_ATTEMPT" = 2 ]')
        with spool.pool(1, "--stop-when-empty") as pool:
            spool.wait_for("completed", "retried")
            assert pool.process.poll() is None, "a job is running, if in another pool"
            open(go, "x").close()
            assert pool.wait() == 0
    assert spool.ids("completed") == ["held", "retried"]


BETWEEN = """
import os, time
from queuectl.pool import emptiness, intake
is_reached, look = emptiness.Emptiness.is_reached, intake.Intake.idle_after_a_look
def come_and_taken(self):
    came = self._spool.file("pending", "job")
    os.rename(__file__ + ".job", came)
    while os.path.exists(came):
        time.sleep(0.01)
    intake.Intake.idle_after_a_look = look
    return look(self)
def telling(self):
    reached = is_reached(self)
    if not os.path.exists(__file__ + ".job"):
        open(__file__ + f".{reached}", "w").close()
    return reached
emptiness.Emptiness.is_reached, intake.Intake.idle_after_a_look = telling, come_and_taken
"""  # a job arrives, and another pool takes it, right after the look at processing/


def test_stop_when_empty_waits_for_what_another_pool_takes_while_it_looks(
    spool: SpoolDir, tmp_path: Path
) -> None:
    go, named = f"{spool.path}.go", tmp_path / "sitecustomize.py"
    Path(f"{named}.job").write_text(json.dumps({"command": waiting_for(go)}))
    env = with_code_at_start(tmp_path, BETWEEN)
    with spool.pool(1) as other, spool.pool(1, "--stop-when-empty", env=env) as pool:
        other.wait_for("started", "job")
        wait_until(lambda: list(tmp_path.glob(f"{named.name}.*e")), pool.log)
        assert not Path(f"{named}.True").exists()
        open(go, "x").close()
        assert pool.wait() == 0
    assert spool.states("job") == ["completed"]


def test_a_request_to_stop_that_is_no_text_stops_too(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.drop("running", waiting_for(go))
    with spool.pool(1) as pool:
        pool.wait_for("started", "running")
        with open(f"{spool.path}/workers/{pool.name}.stop", "wb") as file:
            file.write(b"\xff\xfe")
        open(go, "x").close()
        assert pool.wait() == 0
    assert spool.ids("completed") == ["running"]


def test_what_a_pool_could_not_let_go_of_is_recovered_at_once(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600, lease=3600)
    go = f"{spool.path}.go"
    spool.drop("running", waiting_for(go))
    with spool.pool(1) as pool:
        pool.wait_for("started", "running")
        os.rmdir(f"{spool.path}/completed")
        open(f"{spool.path}/completed", "x").close()  # no directory: nothing can be moved there
        open(go, "x").close()
        pool.wait_for("stalled")
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        (told,) = pool.events("stopping")
        assert (
            told["detail"] == "0 running; a second signal leaves what it holds to the next worker"
        )
        pool.signal(signal.SIGTERM)
        pool.wait_for("left", "running")
        assert pool.wait() == 0
    os.unlink(f"{spool.path}/completed")
    os.mkdir(f"{spool.path}/completed")
    with spool.pool(1) as pool:
        pool.wait_for("recovered", "running")
        spool.wait_for("completed", "running")


def test_stop_when_empty_does_not_wait_for_a_retry_that_was_cancelled(spool: SpoolDir) -> None:
    spool.configure(backoff_base=1000)
    spool.drop("job", "exit 1")
    with spool.pool(1, "--stop-when-empty") as pool:
        spool.wait_for("failed", "job")
        spool.run("cancel", "job")
        assert pool.wait() == 0


def test_stop_when_empty_does_not_wait_for_a_job_cancelled_during_a_pause(spool: SpoolDir) -> None:
    spool.drop("job")
    spool.run("pause")
    with spool.pool(1, "--stop-when-empty") as pool:
        pool.wait_for("paused")
        time.sleep(0.5)  # by then the pool has looked at the job
        spool.run("cancel", "job")
        assert pool.wait() == 0


CTRL_C_AT_A_START = """
import os, signal
from queuectl.run import runner
spawn = runner.spawn
def interrupted(*args):
    runner.spawn = spawn
    child = spawn(*args)
    os.kill(child.pid, signal.{number})  # as to the group of both, which the child is still in
    os.kill(os.getpid(), signal.{number})
    return child
runner.spawn = interrupted
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_to_the_group_of_a_pool_costs_no_command_that_starts_its_attempt(
    spool: SpoolDir, tmp_path: Path, number: str
) -> None:
    spool.drop("job", ["sleep", "1000"])  # without a shell, which may lose a SIGINT
    env = with_code_at_start(tmp_path, CTRL_C_AT_A_START.format(number=number))
    with spool.pool(1, env=env) as pool:
        assert pool.wait() == 0, pool.log()
    record = spool.record("pending", "job")
    assert record["attempts"] == 0
    (entry,) = record["history"]
    assert entry["ended"] == "stopped"
    assert (
        pool.events("pending", "job")[0]["detail"] == f"stopped: killed by {number} as it started"
    )


def test_a_hang_up_costs_no_command_that_starts_its_attempt(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("job", ["sleep", "1000"])
    env = with_code_at_start(tmp_path, CTRL_C_AT_A_START.format(number="SIGHUP"))
    with spool.pool(1, env=env) as pool:  # without a terminal, SIGHUP only reloads
        pool.wait_for("pending", "job")
        wait_until(lambda: len(pool.events("started", "job")) == 2)
        spool.run("worker", "stop", "--now")
    assert [event["attempt"] for event in pool.events("started")] == ["1/3", "1/3"]


def test_a_job_that_signals_its_own_worker_comes_to_an_end(spool: SpoolDir, tmp_path: Path) -> None:
    spool.drop("job", ["sleep", "1000"], max_retries=1)
    env = with_code_at_start(tmp_path, CTRL_C_AT_A_START.format(number="SIGTERM"))
    for _ in range(2):
        with spool.pool(1, env=env) as pool:
            assert pool.wait() == 0, pool.log()
    assert spool.record("dead", "job")["attempts"] == 1


def test_a_signal_that_meets_a_command_long_after_its_start_is_its_own(spool: SpoolDir) -> None:
    began = f"{spool.path}.began"
    spool.drop("job", f"echo $$ > {began}; exec sleep 1000", max_retries=1)
    with spool.pool() as pool:
        wait_until(lambda: os.path.exists(began) and read_text(began).endswith("\n"))
        time.sleep(0.5)
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        os.kill(int(read_text(began)), signal.SIGTERM)
        assert pool.wait() == 0
    assert spool.record("dead", "job")["error_message"] == "killed by SIGTERM"


def test_a_signal_that_a_command_sends_itself_is_its_own(spool: SpoolDir) -> None:
    spool.drop("job", "kill -INT $$", max_retries=0)
    spool.drain()
    assert spool.record("dead", "job")["error_message"] == "killed by SIGINT"


SLOW_LOOK = """
import time
from queuectl.pool.intake import Intake
scan = Intake.scan
def slow(self, *meanwhile):
    time.sleep(1)
    scan(self, *meanwhile)
Intake.scan = slow
"""  # claims begin before the look has ended


def test_a_pool_whose_first_look_takes_long_leaves_an_empty_spool_after_it(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.api.submit("true", id="job")
    env = with_code_at_start(tmp_path, SLOW_LOOK)
    with spool.pool(1, "--stop-when-empty", env=env) as pool:
        assert pool.wait() == 0, pool.log()
    assert spool.ids("completed") == ["job"]


def test_a_stop_by_file_is_in_the_log(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=3600, lease=36000)  # so that no regular look finds the file
    go_on = tmp_path / "go-on"
    spool.drop("a", waiting_for(str(go_on)))
    with spool.pool() as pool:
        pool.wait_for("started")
        open(f"{spool.path}/workers/{pool.name}.stop", "x").close()
        pool.wait_for("stopping")
        go_on.touch()
        pool.wait_for("down")
    (event,) = pool.events("stopping")
    assert event["detail"] == "asked to; 1 running"


BROKEN_TURN = """
from queuectl.pool import turn
def broken(self, run):
    raise ZeroDivisionError
turn.Turns._settle = broken
"""
BROKEN_SWEEP = """
from queuectl.run import stragglers
def go_on(self, living):
    raise ZeroDivisionError
stragglers.Ending.go_on = go_on
"""
BROKEN_CONTROL = """
import os
from queuectl.pool import pool
def follow_pause(self):
    if os.path.exists(os.environ["QUEUECTL_SPOOL"] + ".break"):
        raise ZeroDivisionError
pool.Pool._follow_pause = follow_pause
"""


def test_a_pool_that_meets_what_it_was_not_made_for_stops_and_says_so(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(poll_interval=3600, lease=36000)
    spool.drop("long", "sleep 1000")
    pool = spool.start_pool(2, env=with_code_at_start(tmp_path, BROKEN_TURN))
    try:
        pool.wait_for("started", "long")
        spool.drop("job")
        assert pool.wait() == 1
    finally:
        pool.kill()
    assert "ZeroDivisionError" in pool.events("error")[0]["detail"]
    assert processes_with(f"QUEUECTL_SPOOL={spool.path}") == []
    assert spool.ids("processing") == ["job", "long"]  # for the next pool to recover


def test_a_pool_that_cannot_end_a_command_as_it_should_stops_and_says_so(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("long", "sleep 1000")
    spool.drop("limited", "sleep 1000", timeout=0.5)
    pool = spool.start_pool(2, env=with_code_at_start(tmp_path, BROKEN_SWEEP))
    try:
        assert pool.wait() == 1
    finally:
        pool.kill()
    assert "ZeroDivisionError" in pool.events("error")[0]["detail"]
    assert pool.events("down")
    assert processes_with(f"QUEUECTL_SPOOL={spool.path}") == []


def test_a_pool_that_can_be_told_nothing_more_ends_what_runs(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("long", "sleep 1000")
    pool = spool.start_pool(env=with_code_at_start(tmp_path, BROKEN_CONTROL))
    try:
        pool.wait_for("started", "long")
        open(f"{spool.path}.break", "x").close()
        assert pool.wait() == 1
    finally:
        pool.kill()
    assert "ZeroDivisionError" in read_text(pool.log_path)
    assert processes_with(f"QUEUECTL_SPOOL={spool.path}") == []
    assert spool.states("long") == ["pending"]


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_pool_leaves_as_it_should_though_a_directory_is_gone(spool: SpoolDir, name: str) -> None:
    spool.configure(poll_interval=3600)  # so that the pool does not make it again before
    spool.drop("job")
    with spool.pool(1) as pool:
        pool.wait_for("completed", "job")
        # moved away first, by one rename: the pool would put back files missing in workers/
        shutil.rmtree(shutil.move(f"{spool.path}/{name}", f"{spool.path}.gone"))
        pool.signal(signal.SIGTERM)
        assert pool.wait() == 0, pool.log()
        assert pool.events("down")
