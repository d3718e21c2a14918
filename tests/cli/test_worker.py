from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import many_running
from tests.support import (
    AHEAD,
    DEADLINE_S,
    ROOT,
    alive,
    cpu_ticks,
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


def test_the_log_has_a_line_for_each_thing_that_happens_to_a_job(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0, max_retries=2)
    spool.drop("good", "true")
    spool.drop("bad", "exit 3", priority=1)
    done = spool.run("worker", "start", "--stop-when-empty")
    assert done.out == ""
    stories = [re.sub(r"^\S+  ", "", line) for line in done.err.splitlines()]
    told = [story.split()[:2] for story in stories if " - " not in story]
    # the next job may start before the outcome of the last one is on disk and logged
    assert [word for word, job_id in told if job_id == "good"] == ["started", "completed"]
    bad = [word for word, job_id in told if job_id == "bad"]
    assert bad == ["started", "failed", "started", "dead"]
    assert told.index(["started", "good"]) < told.index(["started", "bad"])
    assert "exit status 3" in stories[-2]


def test_count_jobs_run_side_by_side(spool: SpoolDir) -> None:
    # each waits for the other two
    meet = "touch $QUEUECTL_JOB_ID.here; until [ $(ls *.here | wc -l) = 3 ]; do sleep 0.01; done"
    for number in range(3):
        spool.drop(f"job-{number}", meet, cwd=f"{spool.path}")
    spool.drain(3)
    assert len(spool.ids("completed")) == 3


def test_without_count_the_settings_say_how_many(spool: SpoolDir) -> None:
    spool.configure(worker_count=7)
    process = spool.start("worker", "start", stderr=-3)
    try:
        wait_until(lambda: [w["slots"] for w in spool.run("worker", "list", "--json").json] == [7])
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_stop_when_empty_leaves_at_once_where_nothing_is_to_do(spool: SpoolDir) -> None:
    spool.drain()
    assert spool.leftovers() == []


def test_detach_returns_when_the_pool_is_up_and_tells_where_its_log_is(spool: SpoolDir) -> None:
    out = spool.run("worker", "start", "--detach", "--count", "2").out
    match = re.fullmatch(r"worker (\S+) is up, process (\d+); its log is (\S+)\n", out)
    assert match, out
    name, pid, log = match[1], int(match[2]), match[3]
    try:
        assert alive(pid)
        (worker,) = spool.run("worker", "list", "--json").json
        assert (worker["worker"], worker["pid"], worker["slots"]) == (name, pid, 2)
        if sys.platform == "linux":  # so that the directory it was started in can be unmounted
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
        spool.drop("job")
        spool.wait_for("completed", "job")
        wait_until(lambda: "completed  job" in read_text(log), lambda: read_text(log))
        assert spool.run("worker", "stop").out == f"{name} is gone\n"
        wait_until(lambda: not alive(pid))
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_detach_runs_nothing_of_the_directory_that_it_is_started_in(
    spool: SpoolDir, tmp_path: Path
) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit('not the click that is meant')")
    script = os.path.join(os.path.dirname(sys.executable), "queuectl")
    words = [script, "worker", "start", "--detach"]
    env = environment(spool.path)
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True)
    spool.run("worker", "stop")
    assert done.returncode == 0, done


def test_a_program_that_is_not_beside_its_python_is_started_again_and_found_by_commands(
    spool: SpoolDir, tmp_path: Path
) -> None:
    """Scripts of `pip install --user` and zipapps are not beside their Python, and work too."""
    told, script = tmp_path / "told", tmp_path / "bin" / "queuectl"
    script.parent.mkdir()
    start = f"open({str(told)!r}, 'a').write('.'); from queuectl.cli import main; main()"
    script.write_text(f"#!{sys.executable}\n{start}\n")
    script.chmod(0o755)
    spool.drop("job", "command -v queuectl")
    env = environment(spool.path, PATH="/usr/bin:/bin")
    subprocess.run([script, "worker", "start", "--detach"], env=env, check=True, timeout=60)
    spool.wait_for("completed", "job")
    spool.run("worker", "stop")
    assert spool.output("job") == f"{script}\n"
    assert read_text(str(told)) == ".."  # once as the command line, once as the pool


def test_detach_tells_of_the_pools_that_are_up_already(spool: SpoolDir) -> None:
    with spool.pool(3) as other:
        other.wait_for("up")
        try:
            said = spool.run("worker", "start", "--detach").err
            assert (
                said
                == f"another worker is up here already, with 3 more jobs at a time: {other.name}\n"
            )
        finally:
            spool.run("worker", "stop")


ELSEWHERE = """
from queuectl import kernel
kernel.host = lambda: "another_host"
kernel.boot_id = kernel.machine_id = lambda: "another"
"""


def test_a_pool_of_another_machine_is_seen_to_leave(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.2)
    with spool.pool(env=with_code_at_start(tmp_path, ELSEWHERE)) as pool:
        pool.wait_for("up")
        assert spool.run("worker", "stop").out == f"{pool.name} is gone\n"


def test_a_pool_of_another_machine_that_is_silent_is_waited_for_no_longer_than_the_lease(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(lease=1)
    spool.drop("job", "sleep 600")
    with spool.pool(env=with_code_at_start(tmp_path, ELSEWHERE)) as pool:
        pool.wait_for("started", "job")
        pool.kill()
        result = spool.run("worker", "stop", "--now")
        assert result.out == ""
        assert f"{pool.name}, on another_host, was silent for 1.0s (lease): it is" in result.err
        assert os.path.exists(f"{spool.path}/workers/{pool.name}.stop")  # in case it returns


NOT_UP_YET = """
import os, time
if "QUEUECTL_READY_FD" in os.environ:
    open(__file__ + ".here", "w").write(str(os.getpid()))
    while not os.path.exists(__file__ + ".go"):
        time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_interrupted_while_a_pool_starts_leaves_none(
    spool: SpoolDir, tmp_path: Path, number: signal.Signals
) -> None:
    env = {**environment(spool.path), **with_code_at_start(tmp_path, NOT_UP_YET)}
    words = ("worker", "start", "--detach")
    with spool.start(*words, env=env, stderr=subprocess.PIPE) as starting:
        wait_until((tmp_path / "sitecustomize.py.here").exists)
        # the only end of a pipe that it still holds is the one that it reads from
        wait_until(lambda: len(pipes_of(starting.pid)) == 1)
        starting.send_signal(number)
        told = starting.communicate(timeout=DEADLINE_S)[1].decode()
    pid = re.search(r"interrupted; process (\d+), which was to become the worker", told)
    assert pid is not None, told
    wait_until(lambda: not alive(int(pid[1])))


def test_a_pool_whose_starter_was_killed_before_it_was_up_leaves(
    spool: SpoolDir, tmp_path: Path
) -> None:
    here = tmp_path / "sitecustomize.py.here"
    env = {**environment(spool.path), **with_code_at_start(tmp_path, NOT_UP_YET)}
    with spool.start("worker", "start", "--detach", env=env) as starting:
        pid = int(wait_until(lambda: read_text(str(here))))
        starting.kill()
    (tmp_path / "sitecustomize.py.go").touch()
    wait_until(lambda: not alive(pid))
    assert "  down  " in read_text(f"{spool.path}/worker.log")


def pipes_of(pid: int) -> list[str]:
    """Return the pipes that a process holds, other than its standard streams."""
    folder = f"/proc/{pid}/fd"
    links = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder) if int(name) > 2]
    return [link for link in links if link.startswith("pipe:")]


def test_detach_says_how_a_pool_ended_that_could_say_nothing(spool: SpoolDir) -> None:
    spool.create()
    line = f"ulimit -f 0; exec {' '.join(spool.command('worker', 'start', '--detach'))}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment(spool.path))
    assert done.returncode == 1
    why = f"did not come up: exit status 1, and nothing in {spool.path}/worker.log\n"
    assert done.stderr.decode().endswith(why)


ONLY_HERE = """
import os, sys
from importlib.machinery import PathFinder
class OnlyHere:
    def find_spec(name, path=None, target=None):
        if name == "queuectl":
            if {place!r} not in sys.path:
                raise ModuleNotFoundError("not installed")
            return PathFinder.find_spec(name, [{place!r}])
sys.meta_path.insert(0, OnlyHere)
"""


def test_detach_starts_what_was_started_though_it_is_not_installed(
    spool: SpoolDir, tmp_path: Path
) -> None:
    place = tmp_path / "checkout"
    shutil.copytree(f"{ROOT}/queuectl", place / "queuectl")
    with_code_at_start(tmp_path, ONLY_HERE.format(place=str(place)))
    env = {**environment(spool.path), "PYTHONPATH": str(tmp_path)}
    words = ("worker", "start", "--detach", "--stop-when-empty")
    done = subprocess.run(spool.command(*words), cwd=place, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"is up" in done.stdout


def test_who_stops_or_lists_workers_is_told_of_one_that_died(spool: SpoolDir) -> None:
    spool.drop("job", "sleep 1000")
    pool = spool.start_pool()
    pool.wait_for("started", "job")
    pool.kill()
    for words in (["worker", "stop"], ["worker", "list"]):
        told = spool.run(*words).err
        assert f"{pool.name} is dead, and what it ran may run on: job; " in told
        assert "`queuectl doctor --fix`" in told
    spool.run("doctor", "--fix")
    assert "is dead" not in spool.run("worker", "list").err


def test_detach_says_why_the_pool_did_not_come_up(spool: SpoolDir) -> None:
    spool.create()
    os.chmod(f"{spool.path}/pending", 0o777)
    text = spool.refuse("worker", "start", "--detach")
    assert "the worker did not come up" in text
    assert "can be written to by others" in text


@pytest.mark.parametrize("place", ["", "/pending", "/processing", "/failed", "/dead", "/workers"])
def test_a_place_that_others_can_write_to_is_refused_with_what_to_do(
    spool: SpoolDir, place: str
) -> None:
    spool.create()
    os.chmod(spool.path + place, 0o720)
    text = spool.refuse("worker", "start", "--stop-when-empty")
    assert f"chmod go-w {spool.path}{place}" in text
    spool.run("config", "set", "shared", "true")
    spool.drain()


def test_spans_are_numbers_in_a_log_for_programs(spool: SpoolDir) -> None:
    spool.configure(backoff_base=100)
    spool.drop("job", "sleep 0.2")
    spool.drop("later", "false")
    with spool.pool() as pool:
        pool.wait_for("completed", "job")
        pool.wait_for("failed", "later")
    (completed,), (failed,) = pool.events("completed", "job"), pool.events("failed", "later")
    assert 0.2 <= completed["took"] < 10
    assert 90 < failed["again_in"] <= 100
    assert 0 < failed["took"] < 10


def test_what_a_program_asks_of_a_run_is_in_its_log_and_not_in_words(spool: SpoolDir) -> None:
    command = f"sh -c 'exit 3' # {'x' * 100}"
    spool.api.submit(command, id="exits", max_retries=1)
    spool.api.submit("kill -KILL $$", id="killed", max_retries=1)
    spool.api.submit(f"true #{'é' * 1000}", id="long")
    with spool.pool() as pool:
        for job_id in ("exits", "killed"):
            pool.wait_for("dead", job_id)
        pool.wait_for("completed", "long")
        (exits,), (killed,) = pool.events("dead", "exits"), pool.events("dead", "killed")
        assert (exits["number"], exits["ended"], exits["exit_code"]) == (1, "exit", 3)
        assert (killed["ended"], killed["signal"]) == ("signal", "SIGKILL")
        assert "exit_code" not in killed
        assert pool.events("started", "exits")[0]["command"] == command
        assert pool.events("started", "long")[0]["command"] == f"true #{'é' * 191}...{'é' * 100}"
        assert {event["pool"] for event in pool.events()} == {pool.name}


def test_spans_are_words_in_a_log_for_people(spool: SpoolDir) -> None:
    spool.configure(backoff_base=1000)
    spool.drop("job", "sleep 0.2; exit $QUEUECTL_ATTEMPT")
    spool.drop("well")
    with spool.start("worker", "start", "--count", "1", stderr=subprocess.PIPE) as worker:
        assert worker.stderr is not None
        said = "".join(worker.stderr.readline().decode() for _ in range(5))
        worker.terminate()
    assert re.search(r"failed     job  exit status 1  took=\d+ms  again_in=16m(3\d|40)s\n", said), (
        said
    )
    assert re.search(r"completed  well  took=\d+ms\n", said), said


# --- stop and list ---------------------------------------------------------------------------


def test_list_shows_the_living_and_what_they_run(spool: SpoolDir) -> None:
    spool.drop("job", "sleep 1000")
    with spool.pool(2) as pool:
        pool.wait_for("started", "job")
        (worker,) = spool.run("worker", "list", "--json").json
        assert worker["running"] == ["job"]
        line = spool.run("worker", "list").lines[1]
        assert line.split()[:3] == [pool.name, str(pool.pid), "1/2"]
        pool.kill()
    assert spool.run("worker", "list", "--json").json == []
    assert spool.run("worker", "list").err.startswith("no worker is running\n")


def test_stop_waits_for_what_runs_and_says_so(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.drop("job", waiting_for(go))
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        with open(f"{spool.path}.err", "wb") as err:
            process = spool.start("worker", "stop", stdout=-3, stderr=err)
        wait_until(lambda: "waiting for 1 running job: job" in read_text(f"{spool.path}.err"))
        time.sleep(0.5)  # long enough for several looks
        assert process.poll() is None
        open(go, "x").close()
        assert process.wait(DEADLINE_S) == 0
        assert pool.wait() == 0
    assert spool.states("job") == ["completed"]
    assert read_text(f"{spool.path}.err").count("waiting for 1 running job") == 1


def test_stop_does_not_wait_for_what_is_only_claimed(spool: SpoolDir, tmp_path: Path) -> None:
    go = f"{spool.path}.go"
    spool.drop("a-short")
    spool.drop("b-long", waiting_for(go))
    spool.drop("c-ahead")
    with spool.pool(env=with_code_at_start(tmp_path, AHEAD)) as pool:
        pool.wait_for("started", "b-long")
        wait_until(lambda: spool.ids("processing") == ["b-long", "c-ahead"], pool.log)
        pool.signal(signal.SIGSTOP)  # so that it gives nothing back
        with open(f"{spool.path}.err", "wb") as err:
            process = spool.start("worker", "stop", stdout=-3, stderr=err)
        wait_until(lambda: "waiting for" in read_text(f"{spool.path}.err"))
        pool.signal(signal.SIGCONT)
        pool.wait_for("stopping")  # else the pool may start c-ahead before it sees the request
        open(go, "x").close()
        assert process.wait(DEADLINE_S) == 0
    assert "waiting for 1 running job: b-long" in read_text(f"{spool.path}.err")
    assert spool.states("c-ahead") == ["pending"]


def test_stop_now_gives_what_runs_back(spool: SpoolDir) -> None:
    spool.drop("job", "sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        assert spool.run("worker", "stop", "--now").out == f"{pool.name} is gone\n"
        assert pool.wait() == 0
    record = spool.record("pending", "job")
    assert record["attempts"] == 0
    assert spool.leftovers() == []


def test_stop_now_hurries_a_pool_that_is_stopping(spool: SpoolDir) -> None:
    spool.drop("job", "sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        spool.run("worker", "stop", "--now")
        assert pool.wait() == 0
    assert spool.states("job") == ["pending"]


def test_stop_of_one_leaves_the_others(spool: SpoolDir) -> None:
    with spool.pool() as one, spool.pool() as other:
        refused = spool.refuse("worker", "stop", one.name.partition("-")[0])
        assert "several workers begin with" in refused
        spool.run("worker", "stop", one.name[:-2])
        assert one.wait() == 0
        (left,) = spool.run("worker", "list", "--json").json
        assert left["worker"] == other.name
        spool.run("worker", "stop", str(left["pid"]))
        assert other.wait() == 0


def test_a_stop_of_one_that_has_left_and_another_stops_that_one(spool: SpoolDir) -> None:
    with spool.pool() as pool:
        result = spool.run("worker", "stop", "gone-1-00000000", pool.name, status=1)
        assert 'no worker "gone-1-00000000" is alive' in result.err
        assert result.out == f"{pool.name} is gone\n"
        assert pool.wait() == 0


def test_an_empty_name_is_not_that_of_the_only_worker(spool: SpoolDir) -> None:
    with spool.pool() as pool:
        # as from a variable that is not set
        assert 'no worker "" is alive' in spool.refuse("worker", "stop", "")
        spool.drop("job")
        pool.wait_for("completed", "job")


def test_stop_of_nobody_is_told(spool: SpoolDir) -> None:
    spool.create()
    assert spool.run("worker", "stop").err == "no worker is running\n"
    assert 'no worker "x" is alive' in spool.refuse("worker", "stop", "x")


def test_a_file_that_anybody_makes_pauses_the_spool_until_it_is_removed(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600, lease=36000)  # so that only an event can tell the pool
    go = f"{spool.path}.go"
    spool.drop("running", waiting_for(go))
    with spool.pool(2) as pool:
        pool.wait_for("started", "running")
        open(f"{spool.path}/paused", "x").close()
        pool.wait_for("paused")
        spool.drop("waiting")
        open(go, "x").close()
        spool.wait_for("completed", "running")
        assert spool.states("waiting") == ["pending"]
        assert pool.events("started", "waiting") == []
        os.unlink(f"{spool.path}/paused")
        spool.wait_for("completed", "waiting")


def test_idle_pools_do_not_keep_a_core_busy_with_files_that_cannot_run(spool: SpoolDir) -> None:
    spool.drop("later", run_at="2100-01-01T00:00:00Z")
    spool.drop_bytes("bad", b"[")
    with spool.pool() as pool:
        pool.wait_for("rejected")
        ticks = cpu_ticks(pool.pid)
        time.sleep(1)
        assert cpu_ticks(pool.pid) - ticks < os.sysconf("SC_CLK_TCK") / 4


def test_a_pool_that_is_to_stop_is_shown_as_such(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.drop("running", waiting_for(go))
    with spool.pool() as pool:
        pool.wait_for("started", "running")
        asking = spool.start("worker", "stop", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_until(lambda: "1 busy, stopping" in spool.run("status").out)
        assert "1/1 stopping" in spool.run("worker", "list").out
        assert "told to stop" not in spool.run("doctor").out
        spool.drop("waiting")
        assert "told to stop" in spool.run("doctor", "waiting", status=1).out
        assert "told to stop" in spool.run("doctor", status=1).out
        assert "1 worker, stopping" in spool.run("top").out
        asking.send_signal(signal.SIGINT)
        last = asking.communicate()[1].decode().splitlines()[-1]
        whole = f"queuectl: interrupted; {pool.name} will stop all the same, once the jobs"
        assert last.startswith(whole)
        with open(go, "x"):
            pass
        assert pool.wait() == 0


@pytest.mark.parametrize("log", ["of the terminal", "a file"])
def test_a_pool_whose_terminal_is_gone_finishes_what_runs_and_leaves(
    spool: SpoolDir, log: str
) -> None:
    spool.api.submit(waiting_for(f"{spool.path}/go"), id="job")
    pid, terminal = pty.fork()
    if pid == 0:
        if log == "a file":
            os.dup2(os.open(f"{spool.path}.log", os.O_WRONLY | os.O_CREAT), 2)
        command = spool.command("worker", "start")
        os.execve(command[0], command, environment(spool.path))
    wait_until(lambda: os.path.exists(f"{spool.path}/logs/job.1.out"))
    os.close(terminal)
    os.kill(pid, signal.SIGTERM)  # as its shell does when it ends, if Ctrl-Z had stopped the pool
    wait_until(lambda: "stopping" in spool.run("status").out)
    os.kill(pid, signal.SIGHUP)  # the shell sends this too
    time.sleep(0.2)  # a command that was ended by that would be gone by now
    open(f"{spool.path}/go", "x").close()
    spool.wait_for("completed", "job")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_pool_that_is_to_outlive_its_terminal_does_so(spool: SpoolDir) -> None:
    spool.create()
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        command = spool.command("worker", "start", "--log-format", "json")
        os.dup2(os.open(f"{spool.path}.log", os.O_WRONLY | os.O_CREAT), 2)
        os.execve(command[0], command, environment(spool.path))
    wait_until(lambda: '"up"' in read_text(f"{spool.path}.log"))
    os.close(terminal)
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: '"reloaded"' in read_text(f"{spool.path}.log"))
    assert "stopping" not in spool.run("status").out
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_pool_that_has_outlived_its_terminal_is_asked_by_sighup_to_look(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.1)
    log = f"{spool.path}.log"
    leader, terminal = pty.fork()
    if leader == 0:
        if os.fork():
            try:
                wait_until(lambda: '"up"' in read_text(log))
            finally:  # else a second pytest would go on from here
                os._exit(0)
        os.setpgid(0, 0)  # in the background, where no hangup reaches it
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
        command = spool.command("worker", "start", "--log-format", "json")
        os.execve(command[0], command, environment(spool.path))
    os.waitpid(leader, 0)
    os.close(terminal)
    time.sleep(1.0)  # long enough for several looks
    (pool,) = spool.run("worker", "list", "--json").json
    os.kill(pool["pid"], signal.SIGHUP)
    wait_until(lambda: '"reloaded"' in read_text(log))
    assert "stopping" not in read_text(log)
    spool.run("worker", "stop")


def test_signals_stop_a_pool_that_was_started_with_all_of_them_blocked(spool: SpoolDir) -> None:
    spool.create()
    everything = signal.valid_signals()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    try:
        pool = spool.start_pool()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    pool.signal(signal.SIGTERM)
    assert pool.wait() == 0


ADOPTS = """
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
def test_a_pool_buries_what_its_commands_leave_to_it(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.1)
    for number in range(20):
        spool.drop(f"job{number}", "(sleep 0.1 &)")
    env = with_code_at_start(tmp_path, ADOPTS)
    with spool.pool(env={"PYTHONPATH": env["PYTHONPATH"]}) as pool:
        for number in range(20):
            spool.wait_for("completed", f"job{number}")
        children = f"/proc/{pool.pid}/task/{pool.pid}/children"
        wait_until(lambda: not read_text(children).split(), lambda: read_text(children))


def test_a_pool_runs_on_a_python_without_ctypes(spool: SpoolDir, tmp_path: Path) -> None:
    spool.drop("job", "exit 3", max_retries=1)
    env = with_code_at_start(tmp_path, "import sys\nsys.modules['_ctypes'] = None")
    spool.run("worker", "start", "--stop-when-empty", PYTHONPATH=env["PYTHONPATH"])
    assert spool.record("dead", "job")["exit_code"] == 3
    assert "problem" not in spool.run("doctor", PYTHONPATH=env["PYTHONPATH"]).out


def test_a_pool_that_was_told_to_stop_by_a_signal_is_seen_to(spool: SpoolDir) -> None:
    spool.api.submit(waiting_for(f"{spool.path}/go"), id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        wait_until(lambda: "stopping" in spool.run("status").out)
        open(f"{spool.path}/go", "x").close()
        assert pool.wait() == 0
    assert spool.leftovers() == []


def test_where_no_end_of_a_command_could_be_told_a_pool_says_so(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("job")
    env = with_code_at_start(tmp_path, "import os\ndel os.waitid")
    told = spool.refuse("worker", "start", "--stop-when-empty", PYTHONPATH=env["PYTHONPATH"])
    assert "Python 3.13" in told
    assert spool.states("job") == ["pending"]


def test_a_job_can_stop_the_pool_that_runs_it(spool: SpoolDir) -> None:
    spool.api.submit(shlex.join(spool.command("worker", "stop")), id="last")
    with spool.pool() as pool:
        pool.wait_for("down")
    assert spool.states("last") == ["completed"]
    assert "runs this command, and leaves" in spool.output("last", 1, "err")


def test_a_job_that_has_its_pool_stop_now_is_told_that_it_is_ended(spool: SpoolDir) -> None:
    spool.api.submit(shlex.join(spool.command("worker", "stop", "--now")), id="last")
    with spool.pool() as pool:
        pool.wait_for("down")
    assert "runs this command, and ends it now" in spool.output("last", 1, "err")


def test_a_program_of_this_name_in_the_current_directory_is_not_ours(
    spool: SpoolDir, tmp_path: Path
) -> None:
    planted = tmp_path / "queuectl"
    planted.write_text("#!/bin/sh\necho planted\n")
    planted.chmod(0o755)
    words = [sys.executable, "-c", "from queuectl.cli import main; main()"]
    done = subprocess.run(
        [*words, "systemd-unit"], env=environment(spool.path), cwd=tmp_path, capture_output=True
    )
    assert str(planted).encode() not in done.stdout
    assert b"ExecStart=" in done.stdout


def test_a_detached_pool_is_no_part_of_the_session_of_who_started_it(spool: SpoolDir) -> None:
    out = spool.run("worker", "start", "--detach").out
    pid = int(out.partition("process ")[2].partition(";")[0])
    try:
        assert os.getsid(pid) == pid  # neither Ctrl-C nor the end of the terminal reaches it
    finally:
        spool.run("worker", "stop")


def test_the_log_of_a_detached_pool_is_for_all_who_share_the_spool(spool: SpoolDir) -> None:
    spool.configure(shared=True)
    words = ["sh", "-c", 'umask 077; exec "$@"', "-", *spool.command("worker", "start", "--detach")]
    subprocess.run(words, env=environment(spool.path), check=True, capture_output=True)
    spool.run("worker", "stop")
    assert os.stat(f"{spool.path}/worker.log").st_mode & 0o060 == 0o060


def test_who_stops_at_once_is_not_told_to(spool: SpoolDir) -> None:
    spool.drop("job", "trap '' TERM; sleep 1; sleep 1000")
    spool.configure(kill_grace=0.5)
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        said = spool.run("worker", "stop", "--now").err
    assert "waiting for 1 running job: job" in said
    assert "--now" not in said


def test_what_a_pool_runs_is_listed_in_the_order_of_ids(spool: SpoolDir) -> None:
    with many_running(spool, 12) as ids:
        assert spool.run("worker", "list", "--json").json[0]["running"] == ids


def test_a_detached_pool_leaves_once_there_is_nothing_to_do_if_told_to(spool: SpoolDir) -> None:
    spool.drop("job")
    out = spool.run("worker", "start", "--detach", "--stop-when-empty", "--log-format", "json").out
    pid = int(out.partition("process ")[2].partition(";")[0])
    try:
        wait_until(lambda: not alive(pid))
        assert spool.states("job") == ["completed"]
        assert read_text(f"{spool.path}/worker.log").startswith('{"')
    finally:
        spool.run("worker", "stop", "--now")


def test_a_pool_that_is_named_twice_is_told_of_once(spool: SpoolDir) -> None:
    with spool.pool() as pool:
        done = spool.run("worker", "stop", pool.name, str(pool.pid))
        assert done.lines == [f"{pool.name} is gone"]


def test_a_pool_that_a_job_starts_is_not_of_that_job(spool: SpoolDir) -> None:
    """The pool has no variable of the job, or it would be ended as a leftover of that job."""
    words = ("worker", "start", "--detach")
    out = spool.run(*words, QUEUECTL_JOB_ID="job", QUEUECTL_WORKER="box-1-00000000").out
    pid = int(out.partition("process ")[2].partition(";")[0])
    try:
        assert pid not in processes_with("QUEUECTL_JOB_ID=job")
        assert pid not in processes_with("QUEUECTL_WORKER=box-1-00000000")
    finally:
        spool.run("worker", "stop")


def test_a_pool_that_dies_as_it_is_to_stop_leaves_no_request(spool: SpoolDir) -> None:
    with spool.pool() as pool:
        pool.signal(signal.SIGSTOP)
        stopping = spool.start("worker", "stop", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert stopping.stderr is not None
        with stopping:
            assert b"kill -CONT" in stopping.stderr.readline()
            pool.kill()
            assert stopping.wait(DEADLINE_S) == 0
        assert [name for name in os.listdir(f"{spool.path}/workers") if "stop" in name] == []
