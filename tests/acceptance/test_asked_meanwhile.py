"""Pauses, cancels, stops and changes of settings that come at awkward moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from queuectl.workers import requests
from tests.support import (
    AHEAD,
    DEADLINE_S,
    alive,
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
        assert order == sorted(order)  # what was given back goes first


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
    spool.drop("a-short")  # by which the pool learns that it may claim ahead
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
    spool.drop("other", waiting_for(go))  # so that the pool does not come to rest between the runs
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
        pool.wait_for("config")  # so it has looked at its requests
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
        # c-ahead may be claimed before the outcome of a-short is on disk
        wait_until(lambda: spool.ids("processing") == ["b-long", "c-ahead"], pool.log)
        assert spool.run("worker", "list", "--json").json[0]["running"] == ["b-long"]
        requests.ask_to_cancel(spool.api, pool.name, "c-ahead", "by somebody")
        spool.run("config", "set", "poll-interval", "77")
        pool.wait_for("config")  # so it has looked at its requests
        open(go, "x").close()
        pool.wait_for("dead", "c-ahead")
        (told,) = pool.events("dead", "c-ahead")
        assert told["ended"] == "cancelled"
        assert not {"number", "exit_code", "signal"} & set(told)  # it had no run
    assert not os.path.exists(f"{spool.path}.ran")
    record = spool.record("dead", "c-ahead")
    assert record["error_message"] == "cancelled: by somebody"
    assert record["history"] == earlier
    assert (record["attempts"], record["started_at"], record["stdout_path"]) == (0, None, None)


def test_a_cancel_of_what_does_not_run_any_more_ends_no_later_run(spool: SpoolDir) -> None:
    """A cancel that was killed before it could withdraw its request ends no later run."""
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
    # as long as a slow machine may take for what follows
    code = "from queuectl.pool import live_config\nlive_config._SAVING_S = 60.0\n"
    with spool.pool(env=with_code_at_start(tmp_path, code)) as pool:
        spool.drop("before")
        spool.wait_for("completed", "before")
        os.rename(settings, f"{settings}~")  # as vim does, for an instant
        time.sleep(0.3)  # for several looks of the pool
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


def test_a_pool_whose_starter_is_interrupted_while_it_recovers_leaves(spool: SpoolDir) -> None:
    spool.configure(kill_grace=2)
    before = spool.start_pool(1)
    spool.drop("old", "trap '' TERM; while :; do sleep 0.1; done", max_retries=1)
    before.wait_for("started", "old")
    before.kill()  # so that the next pool has to end the old command before it is up
    starter = spool.start(
        *("worker", "start", "--detach"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = f"{spool.path}/worker.log"
    wait_until(lambda: " up " in read_text(log))
    pids = [worker["pid"] for worker in spool.run("worker", "list", "--json").json]
    starter.send_signal(signal.SIGINT)
    assert starter.wait() == 130
    spool.drop("job")
    wait_until(lambda: not any(map(alive, pids)), lambda: read_text(log))
    assert spool.states("job") == ["pending"]
    assert spool.drain().events("completed", "job")


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


def test_a_stop_that_cannot_be_asked_for_is_told_with_another_way(spool: SpoolDir) -> None:
    """A stop that cannot be requested, as on a full disk, names another way for a local worker.

    The other workers are asked all the same.
    """
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
        assert mine.endswith(f"`kill {pool.pid}` asks it too, and given twice ends what it runs")
        assert "kill" not in ways[f"queuectl: cannot write {workers}/far-1-0123abcd"]
        assert spool.ids("processing") == ["job"]  # the mere attempt has ended nothing
        os.unlink(f"{workers}/far-1-0123abcd.json")
        spool.run("worker", "stop", "--now")


def test_a_command_that_ended_in_time_has_not_timed_out(spool: SpoolDir) -> None:
    command = f"{waiting_for(spool.path + '/go')}; echo done"
    spool.api.submit(command, id="job", timeout=1.5, max_retries=1)
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGSTOP)
        open(f"{spool.path}/go", "x").close()
        wait_until(lambda: spool.output("job") == "done\n")
        time.sleep(1.6)  # the pool then finds both the end and the timeout
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


def test_a_cancel_whose_job_has_become_none_goes_on_with_the_others(spool: SpoolDir) -> None:
    for job_id in ("bad", "good"):
        spool.api.submit("sleep 600", id=job_id)
    with spool.pool(2) as pool:
        for job_id in ("bad", "good"):
            pool.wait_for("started", job_id)
        pool.signal(signal.SIGSTOP)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with spool.start("cancel", "bad", "good", **pipes) as cancel:
            for job_id in ("bad", "good"):
                request = f"{spool.path}/workers/{pool.name}.cancel.{job_id}"
                wait_until(lambda request=request: os.path.exists(request))  # type: ignore[misc]
            held = f"{spool.path}/processing/bad@{pool.name}.json"
            with open(held, "w") as file:
                file.write("no job")
            os.rename(held, spool.file("dead", "bad"))
            pool.signal(signal.SIGCONT)
            out, err = cancel.communicate(timeout=DEADLINE_S)
    assert (cancel.returncode, out) == (1, b"good\n")
    assert b"dead/bad.json" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize("status", [1, 75])
def test_a_job_that_is_cancelled_before_its_outcome_can_be_written_does_not_run_again(
    spool: SpoolDir, status: int
) -> None:
    go = f"{spool.path}.go"
    spool.configure(backoff_base=0, later_delay=0, later_codes=[75])
    spool.api.submit(f"{waiting_for(go)}; echo ran >> {go}; exit {status}", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        if not set_immutable(f"{spool.path}/failed", on=True):
            pytest.skip("no immutable files here")
        try:
            open(go, "x").close()
            pool.wait_for("stalled")
            cancel = spool.start("cancel", "job", stderr=subprocess.DEVNULL)
            request = f"{spool.path}/workers/{pool.name}.cancel.job"
            wait_until(lambda: os.path.exists(request))
            time.sleep(0.5)  # by then the pool has read it
        finally:
            set_immutable(f"{spool.path}/failed", on=False)
        assert cancel.wait(DEADLINE_S) == 0
    assert read_text(go) == "ran\n"
    record = spool.record("dead", "job")
    assert record["error_message"].startswith("cancelled: ")
    assert record["history"][-1]["exit_code"] == status
