"""Where processes, threads or descriptors run short, jobs wait and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import (
    DEADLINE_S,
    alive,
    environment,
    processes_with,
    read_text,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir


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
    """A pool ends what timed out though its first looks at /proc and signals fail with EMFILE.

    Each command that runs takes a descriptor, and without one the pool cannot look at /proc.
    """
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
    """A command runs only once, though the first pidfd_open to wait for its end fails (EMFILE)."""
    with spool.pool(env=with_code_at_start(tmp_path, NO_PIDFD)) as pool:
        spool.drop("job", f"echo run >> {spool.path}.runs; sleep 0.3")
        spool.wait_for("completed", "job")
        assert len(pool.events("started", "job")) == 1
    assert read_text(f"{spool.path}.runs") == "run\n"


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
