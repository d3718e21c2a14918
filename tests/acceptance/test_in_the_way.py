"""A fault in one place does not stop the rest, and what it holds up goes on once it is mended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from queuectl.ids import is_id
from tests.support import (
    DEADLINE_S,
    Child,
    cpu_ticks,
    environment,
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
            pool.wait_for("rejected", "bad")  # without the signal, after a minute
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
            time.sleep(2)  # by then pending/ has settled, and a look would skip it
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
from queuectl.system import moving
move, tries = moving.move_contended, iter([1])
def move_contended(source, target):
    if next(tries, None):
        raise FileNotFoundError(2, "No such file or directory", source)
    move(source, target)
moving.move_contended = move_contended
"""


def test_a_job_that_somebody_took_and_put_back_is_no_reason_to_stall(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("job")
    pool = spool.drain(1, env=with_code_at_start(tmp_path, PUT_BACK_ONCE))
    assert spool.states("job") == ["completed"]
    assert not pool.events("stalled")


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


def test_jobs_run_once_their_directory_lets_them_go(spool: SpoolDir, tmp_path: Path) -> None:
    """Jobs in an immutable pending/ are tried again by time: their own files will not change."""
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


def test_a_refusal_that_goes_on_is_told_once(spool: SpoolDir, tmp_path: Path) -> None:
    refused = """
import errno, os
from queuectl.system import moving
from queuectl.pool import stall
move, tries = moving.move_contended, iter(range(3))
def refused_first(source, target):
    if next(tries, None) is not None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return move(source, target)
moving.move_contended = refused_first
stall._WAIT_S = 0.05
"""
    spool.drop("job")
    with spool.pool(env=with_code_at_start(tmp_path, refused)) as pool:
        spool.wait_for("completed", "job")
    words = [event["event"] for event in pool.events() if event["event"] in ("stalled", "resumed")]
    assert words == ["stalled", "resumed"]


REFUSED_ONCE_MORE = """
import errno, os
from queuectl.system import moving
from queuectl.pool import stall
move = moving.move_contended
def refused(source, target):
    if os.path.exists(os.environ["REFUSE"]) and os.path.exists(source):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return move(source, target)
moving.move_contended = refused
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
        os.unlink(spool.file("pending", "first"))  # the pool now waits for nothing
        wait_until(lambda: not os.path.exists(f"{spool.path}/workers/{pool.name}.stalled"))
        time.sleep(0.5)
        spool.drop("second")
        wait_until(lambda: len(pool.events("stalled")) == 2, pool.log)
        refuse.unlink()
        spool.wait_for("completed", "second")
    words = [event["event"] for event in pool.events() if event["event"] in ("stalled", "resumed")]
    assert words == ["stalled", "stalled", "resumed"]


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


def test_no_job_has_a_name_that_is_one_of_ours_in_tmp(spool: SpoolDir) -> None:
    """No file of a pool in tmp/ has a name that the draft of a job could have.

    The draft of a job `spare-1` once was the spare of that name, and got into another job's body.
    """
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
