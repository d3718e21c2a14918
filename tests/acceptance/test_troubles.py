"""One thing that is wrong does not stop the others, and is done once it is right again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from queuectl import Spool
from queuectl.ids import is_id
from queuectl.workers import owners, requests
from tests.support import (
    AHEAD,
    DEADLINE_S,
    SILENT,
    Child,
    alive,
    cpu_ticks,
    environment,
    processes_with,
    read_text,
    set_immutable,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import SpoolDir


# --- files that are in the way ----------------------------------------------------------------


def test_a_job_that_cannot_be_moved_does_not_hold_up_the_others(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.2)
    spool.drop("stuck", priority=-1)
    if not set_immutable(spool.file("pending", "stuck"), on=True):
        pytest.skip("no immutable files here")
    try:
        with spool.pool() as pool:
            for number in range(3):
                spool.drop(f"job-{number}")
                spool.wait_for("completed", f"job-{number}")
            time.sleep(0.5)
            assert len(pool.events("error", "stuck")) == 1
            set_immutable(spool.file("pending", "stuck"), on=False)
            spool.wait_for("completed", "stuck")
    finally:
        if os.path.exists(spool.file("pending", "stuck")):
            set_immutable(spool.file("pending", "stuck"), on=False)


def test_a_bad_file_that_cannot_be_moved_keeps_no_core_busy_and_is_tried_again_on_sighup(
    spool: SpoolDir,
) -> None:
    spool.drop_bytes("bad", b'{"command": 7}')
    pending = f"{spool.path}/pending"
    if not set_immutable(pending, on=True):
        pytest.skip("no immutable directories here")
    try:
        with spool.pool() as pool:
            pool.wait_for("error")
            ticks = cpu_ticks(pool.pid)
            time.sleep(1)
            assert cpu_ticks(pool.pid) - ticks < os.sysconf("SC_CLK_TCK") / 4
            set_immutable(pending, on=False)
            pool.signal(signal.SIGHUP)
            pool.wait_for("rejected", "bad")  # it would be tried again in a minute
    finally:
        set_immutable(pending, on=False)


def test_bad_files_that_cannot_get_into_dead_keep_no_core_busy(spool: SpoolDir) -> None:
    with spool.pool() as pool:
        os.rename(f"{spool.path}/dead", f"{spool.path}/away")
        open(f"{spool.path}/dead", "x").close()
        for number in range(3):
            spool.drop_bytes(f"bad{number}", b'{"command": 7}')
        wait_until(lambda: "cannot set aside bad" in pool.log(), pool.log)
        ticks = cpu_ticks(pool.pid)
        time.sleep(1)
        assert cpu_ticks(pool.pid) - ticks < os.sysconf("SC_CLK_TCK") / 4
        os.unlink(f"{spool.path}/dead")
        os.rename(f"{spool.path}/away", f"{spool.path}/dead")
        for number in range(3):
            pool.wait_for("rejected", f"bad{number}")


LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
descriptor = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
os.rename(*sys.argv[1:])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")
def test_a_file_that_cannot_be_read_now_is_read_later(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.2)
    draft = f"{spool.path}/draft"
    with spool.pool() as pool:
        with open(draft, "w") as file:
            file.write('{"command": "true"}')
        words = [sys.executable, "-c", LEASE, draft, spool.file("pending", "job")]
        with Child(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            pool.wait_for("error")
            time.sleep(2)  # its directory has settled, and would be covered
            holder.communicate()
        spool.wait_for("completed", "job")


def test_a_waiting_job_overwritten_in_place_is_waited_for(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.drop("a-running", waiting_for(go))
    spool.drop("job", "echo old")
    with spool.pool() as pool:
        pool.wait_for("started", "a-running")
        with open(spool.file("pending", "job"), "w") as file:
            file.write('{"command": "echo new')
            file.flush()
            with open(go, "x"):
                pass
            spool.drop("mark")
            spool.wait_for("completed", "mark")
            file.write('"}')
        spool.wait_for("completed", "job")
        assert not pool.events("rejected")
    assert spool.output("job") == "new\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"attempts": 10**15, "max_retries": 2**62},
        {"history": [{"number": int("9" * 4300)}]},
        {"history": [{"number": -(2**70)}]},
    ],
    ids=["attempts", "number", "below 0"],
)
def test_numbers_that_nobody_counted_to_do_not_stop_a_pool(
    spool: SpoolDir, fields: dict[str, Any]
) -> None:
    body = json.dumps({"command": "exit 1", "priority": -1, **fields})
    spool.drop_bytes("odd", body.encode())
    spool.drop("job")
    with spool.pool() as pool:
        pool.wait_for("failed", "odd")
        spool.wait_for("completed", "job")


PUT_BACK_ONCE = """
from queuectl.system import files
move, tries = files.move_contended, iter([1])
def move_contended(source, target):
    if next(tries, None):
        raise FileNotFoundError(2, "No such file or directory", source)
    move(source, target)
files.move_contended = move_contended
"""


def test_a_job_that_somebody_took_and_put_back_is_no_reason_to_stall(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("job")
    pool = spool.drain(1, env=with_code_at_start(tmp_path, PUT_BACK_ONCE))
    assert spool.states("job") == ["completed"]
    assert not pool.events("stalled")


@pytest.mark.parametrize("order", [(".lock", ".json"), (".json", ".lock"), ()])
def test_a_pool_whose_files_a_backup_has_replaced_is_known_again(
    spool: SpoolDir, order: tuple[str, ...]
) -> None:
    """At once if one of them was written, at the next look if the whole spool is another."""
    spool.configure(poll_interval=3600 if order else 0.2, lease=36000)
    with spool.pool() as pool:
        if order:
            for suffix in order:
                path = f"{spool.path}/workers/{pool.name}{suffix}"
                shutil.copy(path, f"{path}.new")
                os.rename(f"{path}.new", path)
                time.sleep(0.2)  # until the pool has looked at it
        else:
            pool.signal(signal.SIGSTOP)  # or it makes directories while they are copied
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
        for _ in range(30):  # several looks, and heartbeats, long; who looks there wakes the pool
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


def test_a_pool_that_cannot_show_that_it_lives_tries_that_no_more_often(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.5)
    with spool.pool() as pool:
        os.rename(f"{spool.path}/workers", f"{spool.path}/away")
        open(f"{spool.path}/workers", "x").close()
        pool.wait_for("error")
        ticks, told = cpu_ticks(pool.pid), len(pool.events("error"))
        time.sleep(1.5)
        assert cpu_ticks(pool.pid) - ticks < os.sysconf("SC_CLK_TCK") / 2
        assert len(pool.events("error")) - told < 30
        os.unlink(f"{spool.path}/workers")
        os.rename(f"{spool.path}/away", f"{spool.path}/workers")
        spool.api.submit("true", id="job")
        pool.wait_for("completed", "job")


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
        # and one that was only claimed, and one whose job has come to its end meanwhile
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
    # when it began, not when it was found
    assert history[0]["started_at"] == json.loads(taken.read_text())["started_at"]
    assert {event["id"] for event in pool.events("recovered")} == {"ran", "claimed"}
    assert spool.ids("processing") == []


def has_a_line(path: str) -> bool:
    return os.path.exists(path) and read_text(path).endswith("\n")


def test_a_command_whose_job_was_taken_away_is_ended_and_nothing_is_recorded_of_it(
    spool: SpoolDir,
) -> None:
    """As by another machine, for which this one was silent for longer than the lease."""
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
        # nobody has it, and nobody runs it beside us
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
            time.sleep(0.5)  # several looks long
            file.write('"tags": []}')
        pool.wait_for("completed", "job")
        with open(spool.api.held_file("half", pool.name), "w", encoding="utf-8") as file:
            file.write('{"command": "true", ')
        pool.wait_for("rejected", "half")


# --- too little left --------------------------------------------------------------------------


NO_LOOKS = """
import errno, os
from queuectl.kernel import processes
processes_of, signal_process = processes.processes_of, processes.signal_process
tries = iter(range(8))
def refused_first(call):
    def refused(*args):
        if next(tries, None) is not None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return call(*args)
    return refused
processes.processes_of = refused_first(processes_of)
processes.signal_process = refused_first(signal_process)
"""


def test_without_descriptors_a_pool_still_ends_what_timed_out(
    spool: SpoolDir, tmp_path: Path
) -> None:
    """Each command that runs has one; /proc cannot be looked at while there is none."""
    spool.configure(kill_grace=1)
    stubborn = "sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' & sleep 1000"
    spool.drop("stubborn", stubborn, timeout=0.2, max_retries=1)
    with spool.pool(env=with_code_at_start(tmp_path, NO_LOOKS)) as pool:
        pool.wait_for("dead", "stubborn")
        left = set(processes_with("QUEUECTL_JOB_ID=stubborn"))
        assert left.isdisjoint(processes_with(f"QUEUECTL_SPOOL={spool.path}"))


NO_PIDFD = """
import errno, os
pidfd_open = os.pidfd_open
def refused_once(*args):
    os.pidfd_open = pidfd_open
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
os.pidfd_open = refused_once
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd here")
def test_a_command_that_has_started_is_not_started_again(spool: SpoolDir, tmp_path: Path) -> None:
    """Whatever lacks then to wait for its end."""
    with spool.pool(env=with_code_at_start(tmp_path, NO_PIDFD)) as pool:
        spool.drop("job", f"echo run >> {spool.path}.runs; sleep 0.3")
        spool.wait_for("completed", "job")
        assert len(pool.events("started", "job")) == 1
    assert read_text(f"{spool.path}.runs") == "run\n"


# --- pausing, cancelling, settings ------------------------------------------------------------


def held_ahead(spool: SpoolDir, pool_log: Callable[[], str]) -> None:
    wait_until(lambda: len(spool.ids("processing")) >= 20, pool_log)


def test_what_is_claimed_ahead_does_not_start_in_a_pause(spool: SpoolDir, tmp_path: Path) -> None:
    go = f"{spool.path}.go"
    spool.drop("a-short")
    spool.drop("b-long", waiting_for(go))
    for number in range(50):
        spool.drop(f"later-{number:02}")
    with spool.pool(env=with_code_at_start(tmp_path, AHEAD)) as pool:
        pool.wait_for("started", "b-long")
        held_ahead(spool, pool.log)
        spool.run("pause")
        wait_until(lambda: spool.ids("processing") == ["b-long"], pool.log)
        with open(go, "x"):
            pass
        spool.wait_for("completed", "b-long")
        time.sleep(0.3)
        assert len(spool.ids("pending")) == 50
        assert len(pool.events("started")) == 2
        spool.run("resume")
        wait_until(lambda: len(spool.ids("completed")) == 52, pool.log)
        order = [event["id"] for event in pool.events("started")]
        assert order == sorted(order)  # what was given back before what was not claimed yet


ANOTHER_COMES = """
import json, os
from queuectl.errors import IncompleteJobError
from queuectl.spool.spool import Spool
read_claim = Spool.read_claim
def meanwhile(self, claim):
    draft = f"{self.path}/.another"
    if claim.job_id == "job" and not os.path.exists(f"{self.path}/come"):
        with open(draft, "w") as file:
            json.dump({"command": "echo another"}, file)
        os.rename(draft, self.file("pending", "job"))
        open(f"{self.path}/come", "x").close()
        raise IncompleteJobError("half written")
    return read_claim(self, claim)
Spool.read_claim = meanwhile
"""


def test_a_job_that_is_given_back_replaces_none_that_has_come_into_its_place(
    spool: SpoolDir, tmp_path: Path
) -> None:
    with spool.pool(env=with_code_at_start(tmp_path, ANOTHER_COMES)) as pool:
        spool.drop("job", "echo first")
        spool.wait_for("completed", "job")
        pool.wait_for("rejected", "job.2")
    assert spool.output("job") == "another\n"
    assert "exists already, in pending/" in spool.record("dead", "job.2")["error_message"]
    assert "echo first" in read_text(f"{spool.path}/dead/job.2.rejected")


ANOTHER_COMES_BEHIND = """
import os
from queuectl.pool import lanes
from queuectl.pool.custody import Custody
lanes._SHORT_S = lanes._SOON_S = 3600.0  # it claims ahead however slow it is here
give_back = Custody._giving_back
def late(self, claim, before):
    if claim.job_id == "later" and claim.rewritten and not os.path.exists("came"):
        for name in ("came", "new"):
            with open(name, "w") as file:
                file.write('{"command": "echo second"}')
        os.rename("new", f"{self._spool.path}/pending/later.json")
    return give_back(self, claim, before)
Custody._giving_back = late
"""


def test_of_one_that_was_claimed_ahead_and_lost_its_place_it_is_told(
    spool: SpoolDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spool.drop("a-short")  # before which nobody knows that more may be claimed than runs
    spool.drop("long", waiting_for(f"{tmp_path}/go"))
    spool.drop("later", "echo first")
    with spool.pool(env=with_code_at_start(tmp_path, ANOTHER_COMES_BEHIND)) as pool:
        pool.wait_for("dead", "later.2")
        (tmp_path / "go").touch()
        spool.wait_for("completed", "later")
    assert spool.output("later") == "second\n"
    record = spool.record("dead", "later.2")
    assert record["command"] == "echo first"
    assert "exists already, in pending/" in record["error_message"]


def test_a_job_moved_by_hand_is_given_back_to_where_it_was_moved(
    spool: SpoolDir, tmp_path: Path
) -> None:
    go = f"{spool.path}.go"
    spool.drop("a-short")
    spool.drop("b-long", waiting_for(go))
    for number in range(30):
        body = {"command": "true", "state": "completed", "attempts": 1, "priority": 1}
        spool.drop_bytes(f"again-{number:02}", json.dumps(body).encode(), "failed")
    with spool.pool(env=with_code_at_start(tmp_path, AHEAD)) as pool:
        pool.wait_for("started", "b-long")
        held_ahead(spool, pool.log)
        spool.run("pause")
        wait_until(lambda: spool.ids("processing") == ["b-long"], pool.log)
        given_back = [spool.record("failed", job_id) for job_id in spool.ids("failed")]
        assert [(job["state"], job["attempts"]) for job in given_back] == [("failed", 1)] * 30
        assert spool.ids("completed") == ["a-short"]
        with open(go, "x"):
            pass


@pytest.mark.parametrize("job_id", ["yarn.lock", "package.json", "x.stop"])
def test_a_cancel_is_noticed_at_once_whatever_the_id(spool: SpoolDir, job_id: str) -> None:
    spool.configure(poll_interval=3600, lease=36000)
    with spool.pool() as pool:
        spool.drop(job_id, "sleep 1000")
        pool.wait_for("started", job_id)
        assert spool.run("cancel", job_id).lines == [job_id]


def test_a_cancel_that_was_interrupted_does_not_end_the_next_run(spool: SpoolDir) -> None:
    spool.configure(kill_grace=1)
    go = f"{spool.path}.go"
    spool.drop("other", waiting_for(go))  # so that the pool does not come to rest between the two
    with spool.pool(2) as pool:
        # the first run outlives SIGTERM, the second ends when it is told to
        spool.drop("job", f"[ -e {spool.path}.once ] && {waiting_for(go)} && exit; "
                   f"trap '' TERM; touch {spool.path}.once; sleep 1000; sleep 1000")  # fmt: skip
        wait_until(lambda: os.path.exists(f"{spool.path}.once"), pool.log)
        cancel = spool.start("cancel", "job", stderr=subprocess.DEVNULL)
        wait_until(lambda: [n for n in os.listdir(f"{spool.path}/workers") if ".cancel." in n])
        cancel.kill()  # so that it cannot take its request back
        cancel.wait()
        spool.wait_for("dead", "job")
        spool.run("retry", "job")
        wait_until(lambda: len(pool.events("started", "job")) == 2, pool.log)
        spool.run("config", "set", "poll-interval", "77")
        pool.wait_for("config")  # so it has looked at what it is asked
        with open(go, "x"):
            pass
        spool.wait_for("completed", "job")


def test_a_job_that_is_cancelled_while_it_is_claimed_ahead_does_not_start(
    spool: SpoolDir, tmp_path: Path
) -> None:
    go = f"{spool.path}.go"
    spool.drop("a-short")
    spool.drop("b-long", waiting_for(go))
    earlier = [{"number": 1, "ended": "exit", "exit_code": 3}]
    spool.drop("c-ahead", f"touch {spool.path}.ran", history=earlier)
    with spool.pool(env=with_code_at_start(tmp_path, AHEAD)) as pool:
        pool.wait_for("started", "b-long")
        wait_until((tmp_path / "sitecustomize.py.c-ahead").exists, pool.log)
        # what is claimed ahead may come before the outcome of a-short is on the disk
        wait_until(lambda: spool.ids("processing") == ["b-long", "c-ahead"], pool.log)
        assert spool.run("worker", "list", "--json").json[0]["running"] == ["b-long"]
        requests.ask_to_cancel(spool.api, pool.name, "c-ahead", "by somebody")
        spool.run("config", "set", "poll-interval", "77")
        pool.wait_for("config")  # so it has looked at what it is asked
        open(go, "x").close()
        pool.wait_for("dead", "c-ahead")
        (told,) = pool.events("dead", "c-ahead")
        assert told["ended"] == "cancelled"
        assert not {"number", "exit_code", "signal"} & set(told)  # of a run there are none
    assert not os.path.exists(f"{spool.path}.ran")
    record = spool.record("dead", "c-ahead")
    assert record["error_message"] == "cancelled: by somebody"
    assert record["history"] == earlier
    assert (record["attempts"], record["started_at"], record["stdout_path"]) == (0, None, None)


def test_a_cancel_of_what_does_not_run_any_more_ends_no_later_run(spool: SpoolDir) -> None:
    """Who asked was killed before it could take its request back."""
    spool.configure(poll_interval=3600, lease=36000)
    with spool.pool() as pool:
        requests.ask_to_cancel(spool.api, pool.name, "job", "by somebody")
        wait_until(lambda: not requests.is_asked_to_cancel(spool.api, pool.name, "job"))
        spool.drop("job")
        spool.wait_for("completed", "job")


def test_a_lease_made_shorter_counts_at_once(spool: SpoolDir) -> None:
    spool.configure(lease=3600, poll_interval=3600)
    with spool.pool() as pool:
        record = f"{spool.path}/workers/{pool.name}.json"
        time.sleep(0.5)
        before = os.stat(record).st_mtime_ns
        spool.run("config", "set", "lease", "1")
        wait_until(lambda: os.stat(record).st_mtime_ns > before + 900_000_000, pool.log)


def test_a_setting_is_not_lost_while_an_editor_saves_the_file(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(max_retries=9, poll_interval=0.05)
    settings = f"{spool.path}/config.json"
    # as long an instant as this machine may take for what follows
    code = "from queuectl.pool import live_config\nlive_config._SAVING_S = 60.0\n"
    with spool.pool(env=with_code_at_start(tmp_path, code)) as pool:
        spool.drop("before")
        spool.wait_for("completed", "before")
        os.rename(settings, f"{settings}~")  # as vim does, for an instant
        time.sleep(0.3)  # the pool looks some times meanwhile
        spool.drop("meanwhile", "exit 1")
        pool.wait_for("failed", "meanwhile")
        os.rename(f"{settings}~", settings)
        assert pool.events("started", "meanwhile")[0]["attempt"] == "1/9"


def test_without_a_file_of_settings_the_defaults_count(spool: SpoolDir) -> None:
    spool.configure(max_retries=9, poll_interval=0.05)
    with spool.pool() as pool:
        os.unlink(f"{spool.path}/config.json")
        pool.wait_for("config")
        spool.drop("after")
        pool.wait_for("completed", "after")
        assert pool.events("started", "after")[0]["attempt"] == "1/3"


# --- starting ---------------------------------------------------------------------------------


def test_a_pool_whose_starter_was_interrupted_is_a_pool_like_any_other(spool: SpoolDir) -> None:
    spool.configure(kill_grace=2)
    before = spool.start_pool(1)
    spool.drop("old", "trap '' TERM; while :; do sleep 0.1; done", max_retries=1)
    before.wait_for("started", "old")
    before.kill()  # so that the next is not up before it has ended the old command
    starter = spool.start(
        *("worker", "start", "--detach"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = f"{spool.path}/worker.log"
    wait_until(lambda: " up " in read_text(log))
    starter.send_signal(signal.SIGINT)
    starter.wait()
    spool.drop("job")
    spool.wait_for("completed", "job")
    pids = [worker["pid"] for worker in spool.run("worker", "list", "--json").json]
    spool.run("worker", "stop")
    wait_until(lambda: not any(map(alive, pids)), lambda: read_text(log))


# --- what is away for a moment, or in the way ---------------------------------------------------


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


def test_a_pool_that_can_record_nothing_is_shown_as_that(spool: SpoolDir) -> None:
    spool.configure(poll_interval=300)
    go = f"{spool.path}.go"
    spool.drop("job", waiting_for(go))
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        assert "stalled" not in spool.run("status").out
        immutable = set_immutable(f"{spool.path}/completed", on=True)
        open(go, "x").close()
        if not immutable:
            pytest.skip("no immutable directories here")
        try:
            pool.wait_for("stalled")
            spool.drop("later")
            why = f"{pool.name} is stalled: it can record or start nothing; its log says why"
            assert "busy, stalled (its log says why), up" in spool.run("status").out
            assert spool.run("worker", "list", "--json").json[0]["stalled"] is True
            assert "/1 stalled" in spool.run("worker", "list").out
            assert why in spool.run("wait", "job", "--timeout", "2", status=124).err
            assert why.partition(";")[0] in spool.run("doctor", status=1).out
            metrics = spool.run("status", "--format", "prometheus").out
            assert "queuectl_stalled_pools 1\n" in metrics
            stop = spool.start("worker", "stop", stderr=subprocess.PIPE)
            assert stop.stderr is not None
            assert why in stop.stderr.readline().decode()
            assert spool.states("later") == ["pending"]
        finally:
            set_immutable(f"{spool.path}/completed", on=False)
        assert stop.wait(DEADLINE_S) == 0
        stop.stderr.close()
    assert spool.states("job") == ["completed"]
    assert spool.leftovers() == []


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
    """They are looked at for an id that nobody has, in dead/."""
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
    """Else it would be set aside once more, as one whose id exists already."""
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
    # it is not made again before it is missed
    spool.configure(poll_interval=3600, lease=36000, backoff_base=0)
    spool.drop("running", waiting_for(f"{spool.path}/go"))
    body = b'{"command": "true", "state": "%s", "attempts": 1}' % state.encode()
    with spool.pool() as pool:
        pool.wait_for("started", "running")
        spool.drop_bytes("job", body, state)
        time.sleep(0.5)  # it is known by then
        os.rename(f"{spool.path}/{state}", f"{spool.path}/away")
        open(f"{spool.path}/go", "x").close()
        spool.wait_for("completed", "running")
        pool.wait_for("stalled")
        if os.path.isdir(f"{spool.path}/{state}"):  # made again meanwhile
            os.rmdir(f"{spool.path}/{state}")
        os.rename(f"{spool.path}/away", f"{spool.path}/{state}")
        spool.wait_for("completed", "job")


def test_an_edit_that_no_event_tells_of_is_found(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.2)
    spool.drop("job", run_at="2100-01-01T00:00:00Z")
    with spool.pool(env=with_code_at_start(tmp_path, SILENT)):
        time.sleep(0.5)  # it is known by then
        spool.drop("job")
        spool.wait_for("completed", "job")


def test_jobs_run_once_their_directory_lets_them_go(spool: SpoolDir, tmp_path: Path) -> None:
    """Of what holds them in it their files do not tell."""
    spool.configure(poll_interval=0.1)
    soon = "from queuectl.pool import rejects\nrejects._LEFT_S = 0.3\n"
    spool.drop("job")
    if not set_immutable(f"{spool.path}/pending", on=True):
        pytest.skip("no immutable files here")
    try:
        with spool.pool(env=with_code_at_start(tmp_path, soon)) as pool:
            pool.wait_for("error", "job")
            time.sleep(1.0)
            assert len(pool.events("error", "job")) == 1, "said once, however often it is tried"
            set_immutable(f"{spool.path}/pending", on=False)
            spool.wait_for("completed", "job")
    finally:
        set_immutable(f"{spool.path}/pending", on=False)


def test_a_cancel_of_what_cannot_be_recovered_says_so_and_ends(spool: SpoolDir) -> None:
    spool.drop("job", "sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        held = f"{spool.path}/processing/job@{pool.name}.json"
        pool.kill()
    if not set_immutable(held, on=True):
        pytest.skip("no immutable files here")
    try:
        told = spool.run("cancel", "job", status=1)
        assert 'job "job" cannot be recovered' in told.err
        assert "could not be mended" in spool.run("doctor", "--fix", status=1).err
    finally:
        set_immutable(held, on=False)
    assert spool.run("cancel", "job").lines == ["job"]


NO_WATCH = """
import errno, os
from queuectl.system import loop
def refused(*args):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
pidfd_open, in_thread = os.pidfd_open, loop.Loop.in_thread
def no_thread(self, work):
    if getattr(work, "func", None) is not os.waitid:
        return in_thread(self, work)
    os.pidfd_open = pidfd_open
    return refused()
os.pidfd_open, loop.Loop.in_thread = refused, no_thread
"""


def test_a_command_whose_end_nobody_could_see_does_not_run_beside_its_next_run(
    spool: SpoolDir, tmp_path: Path
) -> None:
    runs = f"{spool.path}/runs"
    spool.drop("job", f"echo $$ >> {runs}; {waiting_for(spool.path + '/go')}")
    with spool.pool(env=with_code_at_start(tmp_path, NO_WATCH)) as pool:
        pool.wait_for("started", "job")
        wait_until(lambda: [pid for pid in map(int, read_text(runs).split()) if alive(pid)])
        assert sum(map(alive, map(int, read_text(runs).split()))) == 1
        open(f"{spool.path}/go", "x").close()
        spool.wait_for("completed", "job")
    assert spool.record("completed", "job")["attempts"] == 1


def test_a_refusal_that_goes_on_is_told_once(spool: SpoolDir, tmp_path: Path) -> None:
    refused = """
import errno, os
from queuectl.system import files
from queuectl.pool import stall
move, tries = files.move_contended, iter(range(3))
def refused_first(source, target):
    if next(tries, None) is not None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return move(source, target)
files.move_contended = refused_first
stall._WAIT_S = 0.05
"""
    spool.drop("job")
    with spool.pool(env=with_code_at_start(tmp_path, refused)) as pool:
        spool.wait_for("completed", "job")
    words = [event["event"] for event in pool.events() if event["event"] in ("stalled", "resumed")]
    assert words == ["stalled", "resumed"]


REFUSED_ONCE_MORE = """
import errno, os
from queuectl.system import files
from queuectl.pool import stall
move = files.move_contended
def refused(source, target):
    if os.path.exists(os.environ["REFUSE"]) and os.path.exists(source):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return move(source, target)
files.move_contended = refused
stall._WAIT_S, stall._ANEW_S = 0.05, 0.3
"""


def test_a_refusal_that_comes_long_after_the_last_is_told_anew(
    spool: SpoolDir, tmp_path: Path
) -> None:
    refuse = tmp_path / "refuse"
    refuse.touch()
    env = {**with_code_at_start(tmp_path, REFUSED_ONCE_MORE), "REFUSE": str(refuse)}
    spool.drop("first")
    with spool.pool(env=env) as pool:
        pool.wait_for("stalled")
        os.unlink(spool.file("pending", "first"))  # it waits for nothing any more
        wait_until(lambda: not os.path.exists(f"{spool.path}/workers/{pool.name}.stalled"))
        time.sleep(0.5)
        spool.drop("second")
        wait_until(lambda: len(pool.events("stalled")) == 2, pool.log)
        refuse.unlink()
        spool.wait_for("completed", "second")
    words = [event["event"] for event in pool.events() if event["event"] in ("stalled", "resumed")]
    assert words == ["stalled", "stalled", "resumed"]


NO_PROCESS = """
import errno, os
from queuectl.pool import stall
from queuectl.run import runner
spawn, tries = runner.spawn, iter(range(4))
def refused_first(*args):
    if next(tries, None) is not None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return spawn(*args)
runner.spawn = refused_first
stall._WAIT_S = 0.05
"""


def test_what_waits_for_a_process_does_not_run(spool: SpoolDir, tmp_path: Path) -> None:
    spool.drop("job")
    code = NO_PROCESS.replace("range(4)", "range(10**9)")
    with spool.pool(env=with_code_at_start(tmp_path, code)) as pool:
        pool.wait_for("stalled")
        pool.signal(signal.SIGTERM)
        assert pool.wait() == 0
        (told,) = pool.events("stopping")
    assert told["detail"] == "0 running"
    assert spool.ids("pending") == ["job"]


def test_a_job_for_which_there_is_no_process_waits_as_if_it_had_not_been_taken(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("job")
    with spool.pool(env=with_code_at_start(tmp_path, NO_PROCESS)) as pool:
        spool.wait_for("completed", "job")
    record = spool.record("completed", "job")
    assert (record["attempts"], len(record["history"])) == (1, 1)
    assert sorted(os.listdir(f"{spool.path}/logs")) == ["job.1.err", "job.1.out"]
    told = [(event["event"], event.get("detail")) for event in pool.events()]
    assert told[1:4] == [
        ("stalled", "cannot start job: Resource temporarily unavailable; waiting"),
        ("resumed", "commands can be started again"),
        ("started", None),
    ]


def test_a_pool_that_dies_while_there_is_no_process_costs_its_job_no_attempt(
    spool: SpoolDir, tmp_path: Path
) -> None:
    never = NO_PROCESS.replace("iter(range(4))", "iter(int, 1)").replace("0.05", "3600")
    spool.drop("job")
    with spool.pool(env=with_code_at_start(tmp_path, never)) as pool:
        pool.wait_for("stalled")
        wait_until(lambda: os.listdir(f"{spool.path}/logs") == [], pool.log)
        pool.kill()
    spool.drain()
    assert spool.record("completed", "job")["attempts"] == 1


def test_a_job_for_which_there_is_no_process_can_be_cancelled(
    spool: SpoolDir, tmp_path: Path
) -> None:
    never = NO_PROCESS.replace("iter(range(4))", "iter(int, 1)")
    spool.drop("job")
    with spool.pool(env=with_code_at_start(tmp_path, never)) as pool:
        pool.wait_for("stalled")
        assert spool.run("cancel", "job").out == "job\n"
        spool.wait_for("dead", "job")


def test_lost_output_is_told_once_however_often_a_start_is_tried(
    spool: SpoolDir, tmp_path: Path
) -> None:
    with spool.pool(env=with_code_at_start(tmp_path, NO_PROCESS)) as pool:
        os.rmdir(f"{spool.path}/logs")
        os.symlink("/nowhere", f"{spool.path}/logs")
        spool.drop("job")
        spool.wait_for("completed", "job")
        told = [event["detail"] for event in pool.events("error", "job")]
    assert [detail.partition(":")[0] for detail in told] == ["its output is lost"] * 2


# --- pipes where files should be ----------------------------------------------------------------


def test_a_pipe_in_the_place_of_output_costs_the_output_only(spool: SpoolDir) -> None:
    spool.create()
    os.mkfifo(f"{spool.path}/logs/job.1.out")
    spool.drop("job", "echo hello")
    with spool.pool() as pool:
        spool.wait_for("completed", "job")
        assert "its output is lost" in pool.events("error", "job")[0]["detail"]


def test_output_that_cannot_be_cut_is_told_and_kept(spool: SpoolDir) -> None:
    spool.configure(log_max_size=4096)
    spool.drop("job", "seq 1 10000; until [ -e free ]; do sleep 0.01; done", cwd=str(spool.path))
    output = f"{spool.path}/logs/job.1.out"
    with spool.pool() as pool:
        wait_until(lambda: read_text(output).endswith("\n10000\n"), "it has printed")
        immutable = set_immutable(output, on=True)
        try:
            os.mkdir(f"{spool.path}/free")
            spool.wait_for("completed", "job")
            if not immutable:
                pytest.skip("no immutable files here")
            assert "cannot cut its output" in pool.events("error", "job")[0]["detail"]
            assert len(spool.output("job").splitlines()) == 10000
        finally:
            set_immutable(output, on=False)


NO_THREAD = """
import errno, os
from queuectl.system.loop import Loop
in_thread = Loop.in_thread
def refused(self, work):
    if getattr(work, "func", work).__name__ == "cap":
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return in_thread(self, work)
Loop.in_thread = refused
"""


def test_output_that_is_not_cut_for_want_of_a_thread_is_told_and_kept(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(log_max_size=4096)
    spool.drop("job", "seq 1 10000")
    with spool.pool(env=with_code_at_start(tmp_path, NO_THREAD)) as pool:
        spool.wait_for("completed", "job")
        assert "cannot cut its output" in pool.events("error", "job")[0]["detail"]
    assert len(spool.output("job").splitlines()) == 10000


def test_a_stop_that_cannot_be_asked_for_is_told_with_another_way(spool: SpoolDir) -> None:
    """As on a full disk. The others are asked all the same."""
    spool.drop("job", "sleep 600")
    workers = f"{spool.path}/workers"
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        record = json.loads(read_text(f"{workers}/{pool.name}.json"))
        with open(f"{workers}/far-1-0123abcd.json", "w") as file:
            json.dump({**record, "worker": "far-1-0123abcd", "boot_id": "b", "host": "far"}, file)
        if not set_immutable(workers, on=True):
            pytest.skip("no immutable directories here")
        try:
            told = spool.run("worker", "stop", "--now", status=1).err.splitlines()
        finally:
            set_immutable(workers, on=False)
        ways = {line.partition(".stop: ")[0]: line for line in told}
        mine = ways[f"queuectl: cannot write {workers}/{pool.name}"]
        assert mine.endswith(f"`kill {pool.pid}` asks it too, once more to end what it runs")
        assert "kill" not in ways[f"queuectl: cannot write {workers}/far-1-0123abcd"]
        assert spool.ids("processing") == ["job"]  # nothing was ended by a mere try
        os.unlink(f"{workers}/far-1-0123abcd.json")
        spool.run("worker", "stop", "--now")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_the_place_of_a_request_holds_up_nothing(
    spool: SpoolDir, make: Callable[[str], None]
) -> None:
    spool.configure(poll_interval=0.1)
    with spool.pool() as pool:
        make(f"{spool.path}/workers/{pool.name}.cancel.nobody")
        spool.run("pause")
        pool.wait_for("paused")
        make(f"{spool.path}/workers/{pool.name}.stop")
        assert pool.wait() == 0


def test_a_pipe_in_the_place_of_the_settings_is_told(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.1)
    with spool.pool() as pool:
        os.unlink(f"{spool.path}/config.json")
        os.mkfifo(f"{spool.path}/config.json")
        pool.wait_for("warning")
        spool.drop("job")
        spool.wait_for("completed", "job")


def test_a_log_that_nobody_reads_stops_nothing(spool: SpoolDir) -> None:
    spool.configure(durability="relaxed")
    for number in range(700):
        spool.drop(f"job-{number:03}", "true # " + "x" * 60)
    reader, writer = os.pipe()
    with spool.start("worker", "start", "--count", "4", stderr=writer) as process:
        os.close(writer)
        wait_until(lambda: len(spool.ids("completed")) == 700)
        text = os.read(reader, 1 << 20).decode()
        spool.drop("last")
        spool.wait_for("completed", "last")
        wait_until(lambda: b"lines are missing here" in os.read(reader, 1 << 20))
        assert "started    job-000" in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    os.close(reader)


def test_whoever_reads_the_log_slowly_is_told_at_the_end_what_is_missing(
    spool: SpoolDir, tmp_path: Path
) -> None:
    code = (
        f"from queuectl.workers import worklog\nworklog._LAST_PATIENCE_MS = {DEADLINE_S * 1000}\n"
    )
    patient = environment(spool.path, **with_code_at_start(tmp_path, code))
    spool.configure(durability="relaxed")
    for number in range(700):
        spool.drop(f"job-{number:03}", "true # " + "x" * 60)
    reader, writer = os.pipe()
    words = ("worker", "start", "--count", "4", "--stop-when-empty")
    with spool.start(*words, stderr=writer, env=patient) as process, open(reader, "rb") as log:
        os.close(writer)
        wait_until(lambda: len(spool.ids("completed")) == 700)
        wait_until(lambda: not any("~spare" in name for name in os.listdir(f"{spool.path}/tmp")))
        lines = log.read().decode().splitlines()
        assert process.wait(DEADLINE_S) == 0
    assert "lines are missing here: nobody read the log" in lines[-2]
    assert "down" in lines[-1]


# --- a pool that stood still --------------------------------------------------------------------


def test_a_command_that_ended_in_time_has_not_timed_out(spool: SpoolDir) -> None:
    command = f"{waiting_for(spool.path + '/go')}; echo done"
    spool.api.submit(command, id="job", timeout=1.5, max_retries=1)
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGSTOP)
        open(f"{spool.path}/go", "x").close()
        wait_until(lambda: spool.output("job") == "done\n")
        time.sleep(1.6)  # the pool, which sees nothing of it, finds both the end and the timeout
        pool.signal(signal.SIGCONT)
        pool.wait_for("completed", "job")


def test_a_cancel_that_another_has_taken_back_is_asked_again(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.2)
    spool.api.submit("sleep 600", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGSTOP)
        request = f"{spool.path}/workers/{pool.name}.cancel.job"
        first = spool.start("cancel", "job", stderr=subprocess.DEVNULL)
        second = spool.start("cancel", "job", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert second.stderr is not None
        assert f"kill -CONT {pool.pid}".encode() in second.stderr.readline()
        assert b"ending 1" in second.stderr.readline()
        wait_until(lambda: os.path.exists(request))
        first.send_signal(signal.SIGINT)
        first.wait()
        pool.signal(signal.SIGCONT)
        assert second.wait(DEADLINE_S) == 0
        second.stderr.close()
        spool.wait_for("dead", "job")


# --- names of ours ------------------------------------------------------------------------------


def test_no_job_has_a_name_that_is_one_of_ours_in_tmp(spool: SpoolDir) -> None:
    """A draft of a job `spare-1` was the spare of that name, and went into another's body."""
    with spool.pool():
        for number in range(3):
            spool.drop(f"job-{number}")
            spool.wait_for("completed", f"job-{number}")
        names = [name for name in os.listdir(f"{spool.path}/tmp") if name.endswith(".json")]
        assert names
        assert not any(is_id(name.partition("@")[0]) for name in names)


def test_a_copy_whose_name_is_no_id_stops_no_retention(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    spool.drain()
    with open(spool.file("completed", "job (copy)"), "w") as file:
        file.write('{"command": "true"}')
    spool.configure(retain_completed=0)
    with spool.pool() as pool:
        pool.wait_for("pruned")
    assert spool.ids("completed") == ["job (copy)"]
    assert spool.run("prune", "--keep", "0").out == ""


def test_a_log_in_a_pipe_is_written_by_all_threads(spool: SpoolDir) -> None:
    spool.configure(durability="relaxed")
    for number in range(400):
        spool.drop(f"job-{number:03}")
        spool.drop_bytes(f"bad-{number:03}", b'{"command": 5}')
    done = spool.run("worker", "start", "--count", "2", "--stop-when-empty")
    assert "internal error" not in done.err
    assert done.err.count("  rejected   ") == 400
    assert done.err.count("  completed  ") == 400


@pytest.mark.slow
def test_where_no_descriptor_is_free_what_timed_out_is_ended(spool: SpoolDir) -> None:
    spool.configure(kill_grace=0.5)
    for number in range(40):
        spool.drop(f"job-{number:02}", "exec sleep 98765", timeout=2, max_retries=1)
    words = " ".join(spool.command("worker", "start", "--count", "60", "--stop-when-empty"))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 30; exec {words}"],
        env=environment(spool.path),
        capture_output=True,
        timeout=2 * DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    assert len(spool.ids("dead")) == 40


def test_a_tree_that_forks_all_the_time_is_ended(spool: SpoolDir, tmp_path: Path) -> None:
    hop, beats = tmp_path / "hop.py", tmp_path / "beats"
    hop.write_text(HOP)
    spool.configure(kill_grace=0.3)
    spool.drop("job", f"{sys.executable} {hop} {beats} & sleep 600")
    with spool.pool() as pool:
        wait_until(lambda: beats.exists() and beats.stat().st_size > 100, pool.log)
        spool.run("cancel", "job")
        pool.wait_for("dead", "job")
        size = beats.stat().st_size
        time.sleep(0.5)
        assert size == beats.stat().st_size


HOP = """
import os, sys, time
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
end = time.monotonic() + 60  # nobody could find it after a test that has failed
while time.monotonic() < end:
    os.write(descriptor, b".")
    if os.fork():
        os._exit(0)
    time.sleep(0.001)
"""


def test_a_job_given_back_and_put_off_keeps_no_pool_from_leaving(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(poll_interval=0.2)
    spool.drop("a-short", priority=-2)
    spool.drop("first", waiting_for(f"{spool.path}/go"), priority=-1)
    spool.drop("job", run_at="2020-01-01T00:00:00Z")
    env = with_code_at_start(tmp_path, AHEAD)
    with spool.pool(1, "--stop-when-empty", env=env) as pool:
        wait_until(lambda: os.path.exists(f"{tmp_path}/sitecustomize.py.job"))
        spool.run("pause")
        wait_until(lambda: spool.states("job") == ["pending"])
        spool.drop("job", run_at="2100-01-01T00:00:00Z")
        spool.run("resume")
        open(f"{spool.path}/go", "x").close()
        assert pool.wait() == 0
    assert spool.states("job") == ["pending"]
