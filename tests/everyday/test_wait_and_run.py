"""`queuectl wait`, `queuectl run`: the exit status of a job, as if it had run here."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest

from queuectl.jobs.waiting import Endings, exit_status
from queuectl.record.job import Job
from queuectl.spool.layout import Found
from queuectl.units import utc_text
from tests.support import (
    DEADLINE_S,
    cpu_ticks,
    environment,
    read_text,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir


# --- the exit status that follows from a record ---------------------------------------------


def dead(entry: dict[str, object], **fields: object) -> Found:
    record = {"id": "job", "command": "true", "history": [{"number": 1, **entry}], **fields}
    return Found("dead", Job(record))


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (Found("completed", Job({"id": "job", "command": "true", "exit_code": 3})), 0),
        (dead({"ended": "exit", "exit_code": 7}), 7),
        (dead({"ended": "exit", "exit_code": 0}), 1),
        (dead({"ended": "signal", "signal": "SIGKILL"}), 137),
        (dead({"ended": "signal", "signal": "signal 35"}), 163),
        (dead({"ended": "signal", "signal": "signal " + "9" * 5000}), 128),
        (dead({"ended": "timeout"}), 143),
        (dead({"ended": "could not start"}), 1),
        (dead({"ended": "worker lost"}), 1),
        (dead({"ended": "exit", "exit_code": 7}, error_message="cancelled: by me"), 1),
        (Found("dead", Job({"id": "job", "command": "", "rejected": "job.json"})), 1),
        (None, 1),
    ],
)
def test_the_exit_status_is_what_a_shell_would_say(found: Found | None, status: int) -> None:
    assert exit_status(found) == status


# --- wait -----------------------------------------------------------------------------------


def test_waiting_ends_at_once_with_the_last_job_and_names_each(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600)
    for job_id in ("one", "two"):
        spool.api.submit("true", id=job_id)
    with spool.start("wait", "one", "two", stdout=subprocess.PIPE) as waiting, spool.pool():
        out, _ = waiting.communicate(timeout=DEADLINE_S)
    assert waiting.returncode == 0
    assert sorted(out.decode().split()) == ["one", "two"]


def test_the_status_is_that_of_the_first_job_that_did_not_complete(spool: SpoolDir) -> None:
    for job_id, code in (("good", 0), ("bad", 5), ("worse", 6)):
        spool.api.submit(f"exit {code}", id=job_id, max_retries=1)
    spool.drain()
    result = spool.run("wait", "good", "worse", "bad", status=6)
    assert result.lines == ["good", "worse", "bad"]
    assert "worse is dead: exit status 6" in result.err
    assert spool.run("wait", "good").err == ""


def test_a_job_that_will_be_retried_has_not_ended(spool: SpoolDir) -> None:
    spool.configure(backoff_base=1000)
    spool.api.submit("exit 1", id="job")
    with spool.pool():
        spool.wait_for("failed", "job")
        assert (
            "timed out: 1 job has not ended: job"
            in spool.run("wait", "job", "--timeout", "0.1", status=124).err
        )


def test_any_returns_with_the_first_to_end(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600)
    spool.api.submit("sleep 600", id="slow")
    spool.api.submit("exit 3", id="quick", max_retries=1)
    with spool.start("wait", "--any", "slow", "quick", stdout=subprocess.PIPE) as waiting:
        pool = spool.start_pool(2)
        out, _ = waiting.communicate(timeout=DEADLINE_S)
        pool.kill()
    assert out == b"quick\n"
    assert waiting.returncode == 3


def test_a_wait_that_takes_too_long_is_status_124(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    result = spool.run("wait", "--timeout", "0.1", "job", status=124)
    assert result.out == ""
    assert "no worker is running" in result.err


def test_waiting_in_a_paused_spool_says_what_keeps_it(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    spool.run("pause")
    assert "`queuectl resume`" in spool.run("wait", "--timeout", "0.1", "job", status=124).err


def test_waiting_for_a_worker_that_starts_nothing_more_says_so(spool: SpoolDir) -> None:
    def waiting() -> str:
        return spool.run("wait", "--timeout", "0.1", "next", status=124).err

    spool.api.submit("sleep 600", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        spool.api.submit("true", id="next")
        assert "worker" not in waiting()
        pool.signal(signal.SIGSTOP)
        wait_until(lambda: "kill -CONT" in waiting())
        pool.signal(signal.SIGCONT)
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        wait_until(lambda: "told to stop; `queuectl worker start`" in waiting())
        pool.kill()


def test_a_pool_that_stands_still_with_what_is_waited_for_is_told_beside_another(
    spool: SpoolDir,
) -> None:
    spool.api.submit("sleep 600", id="job")
    with spool.pool() as still:
        still.wait_for("started", "job")
        with spool.pool() as other:
            other.wait_for("up")
            assert "suspended" not in spool.run("wait", "--timeout", "0.1", "job", status=124).err
            still.signal(signal.SIGSTOP)
            told = spool.run("wait", "--timeout", "0.1", "job", status=124).err
            assert f"{still.name} is suspended" in told
        still.kill()


def test_where_no_pool_starts_anything_each_reason_is_told(spool: SpoolDir) -> None:
    spool.api.submit("sleep 600", id="job")
    with spool.pool() as busy:
        busy.wait_for("started", "job")
        still = spool.start_pool()
        still.wait_for("up")
        still.signal(signal.SIGSTOP)
        spool.api.submit("sleep 600", id="next")
        assert "suspended" not in spool.run("wait", "--timeout", "0.1", "next", status=124).err
        busy.signal(signal.SIGTERM)
        busy.wait_for("stopping")
        told = spool.run("wait", "--timeout", "0.1", "next", status=124).err
        assert f"{busy.name} was told to stop; `queuectl worker start` starts another" in told
        assert f"{still.name} is suspended; `kill -CONT {still.pid}` lets it go on" in told
        for words in (["doctor", "next"], ["doctor"]):
            found = spool.run(*words, status=1).out
            assert f"{busy.name} was told to stop" in found
            assert f"{still.name} is suspended" in found
            assert "is about to run" not in found
        assert "2 workers, stopping, suspended" in spool.run("top").out
        still.signal(signal.SIGCONT)
        still.wait_for("started", "next")
        spool.api.submit("true", id="after")
        assert "waits for one of 1 slots, all busy" in spool.run("doctor", "after").out
        assert "2 workers, 1 slot\n" in spool.run("top").out
        for pool in (busy, still):
            pool.kill()


def test_a_job_that_is_deleted_meanwhile_is_told(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.05)
    spool.api.submit("true", id="job")
    with spool.start("wait", "job", stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        assert b"no worker" in waiting.stderr.readline()
        os.unlink(spool.file("pending", "job"))
        _, err = waiting.communicate(timeout=DEADLINE_S)
    assert waiting.returncode == 1
    assert b"job is gone" in err


NO_EVENTS = {
    "missing": """
import sys
sys.modules["watchdog"] = None
""",
    "refused": """
import errno
from queuectl.system import arrivals
def start(self):
    raise OSError(errno.EMFILE, "too many open files")
arrivals.Arrivals.start = start
""",
}


@pytest.mark.parametrize("why", NO_EVENTS)
def test_the_end_of_a_job_is_seen_where_no_events_come(
    spool: SpoolDir, tmp_path: Path, why: str
) -> None:
    spool.configure(poll_interval=3600)
    spool.api.submit("true", id="job")
    env = environment(spool.path, **with_code_at_start(tmp_path, NO_EVENTS[why]))
    with spool.start("wait", "job", stderr=subprocess.PIPE, env=env) as waiting:
        assert waiting.stderr is not None
        try:
            assert b"no worker is running" in waiting.stderr.readline()
            spool.drain()
            assert waiting.wait(DEADLINE_S) == 0
        finally:
            waiting.kill()


def test_an_unknown_job_is_refused_at_once(spool: SpoolDir) -> None:
    spool.create()
    assert 'no job "nope"' in spool.refuse("wait", "nope")


def test_thousands_are_waited_for_without_looking_at_each_again_and_again(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.create()
    endings = Endings(spool.api, [f"job{number}" for number in range(5000)])
    spool.drop_bytes("job7", b'{"command":"true"}', "completed")
    looked: list[str] = []
    access = os.access

    def counted(path: str, *args: Any, **options: Any) -> bool:
        looked.append(path)
        return access(path, *args, **options)

    monkeypatch.setattr(os, "access", counted)
    assert [job_id for job_id, _ in endings.look(["job7.json", "other.json"])] == ["job7"]
    assert 0 < len(looked) < 20


def test_jobs_that_end_close_together_are_told_in_the_order_of_their_ends(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600)
    given = [f"job{number}" for number in range(20)]
    ends = [f"job{number * 7 % 20}" for number in range(20)]
    for job_id in given:
        spool.drop(job_id)
    with spool.start("wait", *given, stdout=PIPE, stderr=PIPE) as waiting:
        assert waiting.stderr is not None
        assert b"no worker is running" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGSTOP)
        for job_id in ends:
            os.rename(spool.file("pending", job_id), spool.file("completed", job_id))
        waiting.send_signal(signal.SIGCONT)
        told, _ = waiting.communicate(timeout=DEADLINE_S)
    assert told.decode().split() == ends


def test_enqueue_can_wait_for_all_that_it_queues(spool: SpoolDir) -> None:
    jobs = '{"id":"one","command":"true"}\n{"id":"two","command":"exit 4","max_retries":1}\n'
    with spool.pool(2):
        result = spool.run("enqueue", "--wait", "-", stdin=jobs, status=4)
    assert result.lines == ["one", "two"]
    assert "two is dead: exit status 4" in result.err


def test_ctrl_c_while_enqueue_waits_leaves_the_job_queued(spool: SpoolDir) -> None:
    spool.create()
    words = ("enqueue", "--wait", "--id", "job", "--", "true")
    with spool.start(*words, stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=DEADLINE_S)
    assert waiting.returncode == 130
    assert b"job stays queued" in err
    assert spool.states("job") == ["pending"]


# --- run ------------------------------------------------------------------------------------


def test_who_ends_a_run_is_told_how_the_job_is_ended_and_it_ends_by_that_signal(
    spool: SpoolDir,
) -> None:
    spool.create()
    with spool.start("run", "--id", "job", "--", "true", stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        running.stderr.readline()
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == -signal.SIGTERM
    assert b"interrupted" not in err  # the message says more than that
    with spool.start(
        *("run", "--id", "other", "--", "true"),
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    ) as ignoring:
        assert ignoring.stderr is not None
        ignoring.stderr.readline()
        ignoring.send_signal(signal.SIGTERM)
        with spool.pool():
            assert ignoring.wait(DEADLINE_S) == 0
    assert b"job stays queued, or running; " in err
    assert b"`queuectl cancel job` ends it" in err


def test_run_shows_what_the_job_prints_and_ends_as_it_does(spool: SpoolDir) -> None:
    with spool.pool():
        result = spool.run(
            "run", "--max-retries", "1", "--command", "echo out; echo err >&2; exit 9", status=9
        )
    assert result.out == "out\n"
    assert result.err.startswith("err\n")
    assert "is dead: exit status 9" in result.err


def test_run_says_that_a_run_failed_and_when_the_next_one_is(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0)
    with spool.pool():
        result = spool.run("run", "--id", "a", "--max-retries", "2", "--", "false", status=1)
    lines = result.err.splitlines()
    assert lines[0].startswith("queuectl: run 1 of a ended: exit status 1")
    assert lines[1] == "queuectl: a is dead: exit status 1"


def test_who_follows_a_job_that_failed_is_told_when_it_runs_again(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(backoff_base=1000)
    spool.api.submit("false", id="a")
    with spool.pool(), open(tmp_path / "err", "wb") as err:
        spool.wait_for("failed", "a")
        process = spool.start("logs", "-f", "a", stderr=err)
        text = "queuectl: run 1 of a ended: exit status 1; again in 16m"
        wait_until(lambda: text in read_text(f"{tmp_path}/err"))
        process.kill()
        process.wait(DEADLINE_S)


def test_who_follows_a_job_that_failed_and_is_for_later_is_told_of_that_time(
    spool: SpoolDir, tmp_path: Path
) -> None:
    failed = {"history": [{"number": 1, "ended": "exit", "exit_code": 1}], "attempts": 1}
    times = {"next_retry_at": utc_text(time.time()), "run_at": utc_text(time.time() + 7260)}
    body = {"command": "false", "state": "failed", "stdout_path": f"{spool.path}/logs/a.1.out"}
    spool.drop_bytes("a", json.dumps({**body, **failed, **times}).encode(), "failed")
    with open(tmp_path / "err", "wb") as err, spool.start("logs", "-f", "a", stderr=err) as process:
        wait_until(lambda: "again in 2h0" in read_text(f"{tmp_path}/err"))
        process.kill()


def test_of_a_run_that_completes_nothing_is_said(spool: SpoolDir) -> None:
    with spool.pool():
        said = [spool.run("run", "--", "true").err for _ in range(15)]
    assert set(said) == {""}


def test_what_is_said_begins_a_line_of_its_own(spool: SpoolDir, tmp_path: Path) -> None:
    with spool.pool(), open(tmp_path / "both", "wb") as both:
        words = ("run", "--id", "a", "--max-retries", "1", "--command", "printf abc; exit 3")
        spool.start(*words, stdout=both, stderr=both).wait(DEADLINE_S)
        assert (tmp_path / "both").read_text() == "abc\nqueuectl: a is dead: exit status 3\n"
        spool.start("run", "--", "printf", "abc", stdout=both, stderr=both).wait(DEADLINE_S)
    assert (tmp_path / "both").read_text().endswith("\nabc")


def test_a_pause_is_no_hindrance_to_what_runs(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.configure(poll_interval=0.2)
    with spool.pool() as pool:
        words = ("run", "--id", "a", "--", "sh", "-c", waiting_for(go))
        running = spool.start(*words, stderr=subprocess.PIPE)
        pool.wait_for("started")
        spool.run("pause")
        pool.wait_for("paused")
        spool.api.submit("true", id="b")
        told = spool.run("wait", "--any", "a", "b", "--timeout", "0.2", status=124).err
        assert "paused" not in told
        assert "paused" in spool.run("wait", "a", "b", "--timeout", "0.2", status=124).err
        time.sleep(1.5)  # longer than between two looks for a hindrance
        open(go, "x").close()
        assert running.communicate()[1] == b""


def test_who_waits_sleeps_though_one_of_them_has_ended(spool: SpoolDir) -> None:
    spool.api.submit("true", id="first")
    spool.api.submit("sleep 600", id="second")
    with spool.start("wait", "first", "second", stdout=PIPE) as waiting:
        assert waiting.stdout is not None
        pool = spool.start_pool(2)
        try:
            assert waiting.stdout.readline() == b"first\n"
            time.sleep(0.5)
            ticks = cpu_ticks(waiting.pid)
            time.sleep(1.5)
            assert cpu_ticks(waiting.pid) - ticks < os.sysconf("SC_CLK_TCK") / 4
        finally:
            waiting.kill()
            pool.kill()


def test_a_job_whose_id_begins_like_that_of_another_is_not_waited_for(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    with spool.pool(2):
        running = spool.start("run", "--id", "a", "--", "sh", "-c", f"{waiting_for(go)}; exit 3")
        wait_until(lambda: spool.states("a") == ["processing"])
        spool.api.submit("true", id="a.1")
        spool.wait_for("completed", "a.1")
        time.sleep(0.5)
        assert running.poll() is None
        open(go, "x").close()
        assert running.wait(DEADLINE_S) == 3


def test_a_stop_is_no_hindrance_to_what_runs(spool: SpoolDir) -> None:
    spool.api.submit("sleep 3", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        assert spool.run("wait", "job").err == ""


ENDS_BEHIND_A_LOOK = """
import os, time
from queuectl.cli.commands import wait
print_new = wait.print_new
def printed(*what):
    over = print_new(*what)
    open(os.environ["PRINTED"], "w").close()
    while not os.path.exists(os.environ["ENDED"]):
        time.sleep(0.01)
    return over
wait.print_new = printed
"""


def test_what_is_printed_at_the_last_moment_is_shown(spool: SpoolDir, tmp_path: Path) -> None:
    printed = f"{tmp_path}/printed"
    env: dict[str, Any] = with_code_at_start(tmp_path, ENDS_BEHIND_A_LOOK)
    env |= {"PRINTED": printed, "ENDED": spool.file("completed", "job")}
    with spool.pool():
        words = ("run", "--id", "job", "--", "sh", "-c", f"{waiting_for(printed)}; echo out")
        assert spool.run(*words, **env).out == "out\n"


def test_a_job_that_ends_twice_while_others_are_waited_for_is_told_once(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.api.submit("true", id="a")
    spool.api.submit(waiting_for(go), id="b")
    with spool.pool(2) as pool, spool.start("wait", "a", "b", stdout=PIPE) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"a\n"
        spool.run("retry", "a")
        wait_until(lambda: len(pool.events("completed", "a")) == 2, pool.log)
        time.sleep(0.5)
        open(go, "x").close()
        assert waiting.stdout.read() == b"b\n"
    assert waiting.returncode == 0


def test_who_waits_is_told_when_the_last_pool_has_gone(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.2)
    path = tmp_path / "said"
    with spool.pool() as pool, open(path, "wb") as said:
        words = ("run", "--", "sleep", "1000")
        waiting = spool.start(*words, stdout=subprocess.DEVNULL, stderr=said)
        try:
            pool.wait_for("started")
            spool.run("worker", "stop", "--now")
            wait_until(lambda: "no worker is running" in path.read_text(), path.read_text)
        finally:
            waiting.terminate()
            waiting.wait()
    assert "ended: stopped" in path.read_text()


def test_run_of_words_is_status_0_when_they_complete(spool: SpoolDir) -> None:
    with spool.pool():
        assert spool.run("run", "--", "printf", "%s|", "a b", "$x").out == "a b|$x|"


def test_run_shows_output_as_it_comes_and_every_attempt_of_it(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(poll_interval=3600, backoff_base=0)
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    command = f"echo try $QUEUECTL_ATTEMPT; {wait}; exit $((2 - QUEUECTL_ATTEMPT))"
    out = tmp_path / "out"
    with spool.pool(), open(out, "wb") as file:
        running = spool.start("run", "--command", command, stdout=file)
        wait_until(lambda: out.read_text() == "try 1\n", out.read_text)
        gate.touch()
        assert running.wait(DEADLINE_S) == 0
    assert out.read_text() == "try 1\ntry 2\n"


def test_run_of_many_at_once_loses_no_output(spool: SpoolDir) -> None:
    with spool.pool(4):
        running = [
            spool.start("run", "--", "seq", "1000", stdout=subprocess.PIPE) for _ in range(8)
        ]
        outs = [command.communicate(timeout=DEADLINE_S)[0] for command in running]
    assert {out.count(b"\n") for out in outs} == {1000}


def test_run_says_what_was_cut_out_before_it_could_be_shown(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(log_max_size=8192)
    command = f"{waiting_for(f'{tmp_path}/go')}; seq 20000"
    with spool.pool() as pool:
        running = spool.start("run", "--id", "big", "--command", command, stdout=PIPE, stderr=PIPE)
        pool.wait_for("started", "big")
        running.send_signal(signal.SIGSTOP)  # like a command whose reader is slow
        (tmp_path / "go").touch()
        pool.wait_for("completed", "big")
        running.send_signal(signal.SIGCONT)
        out, err = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 0
    assert b"bytes cut out here: log-max-size]" in out
    assert re.search(rb"KiB of the output of big were cut out before they were shown", err)


def test_run_of_a_job_whose_output_cannot_be_read_is_no_success(
    spool: SpoolDir, tmp_path: Path
) -> None:
    log, go = f"{spool.path}/logs/job.1.out", f"{tmp_path}/go"
    with spool.pool():
        running = spool.start("run", "--id", "job", "--command", waiting_for(go), stderr=PIPE)
        wait_until(lambda: os.path.exists(log))
        os.unlink(log)
        os.mkfifo(log)
        open(go, "x").close()
        _, err = running.communicate(timeout=DEADLINE_S)
    assert (running.returncode, b"a FIFO, not a regular file" in err) == (1, True)


def test_ctrl_c_leaves_the_job_queued_and_says_so(spool: SpoolDir) -> None:
    spool.create()
    words = ("run", "--id", "job", "--", "true")
    with spool.start(*words, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        assert b"no worker is running" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 130
    assert b"job stays queued" in err
    assert spool.states("job") == ["pending"]


def test_run_takes_one_job(spool: SpoolDir) -> None:
    jobs = '{"command":"true"}\n{"command":"false"}\n'
    assert "one job, not 2" in spool.refuse("run", "-", stdin=jobs, status=2)
    assert not os.path.exists(spool.path)


def test_run_checks_the_job_as_enqueue_does(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    assert "exists already" in spool.refuse("run", "--id", "job", "--", "true")
    assert "no command" in spool.refuse("run", status=2)


def test_a_job_does_not_wait_for_itself(spool: SpoolDir) -> None:
    queuectl = shlex.join(spool.command())
    spool.api.submit(f"{queuectl} wait named", id="named", max_retries=1)
    spool.api.submit(f"{queuectl} wait --tag x", id="selected", tags=["x"], max_retries=1)
    spool.drain()
    assert spool.record("dead", "named")["exit_code"] == 2
    assert "wait for itself" in spool.output("named", 1, "err")
    assert spool.states("selected") == ["completed"]


def test_what_keeps_a_job_is_said_once_to_who_waits_long(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.2)
    spool.api.submit("true", id="job")
    said = spool.run("wait", "job", "--timeout", "2.5", status=124).err
    assert said.count("no worker is running") == 1


@pytest.mark.parametrize(
    ("tagged", "which", "ends"),
    [((), "ID...", "them"), (("--tag", "T"), "--tag T", "all that have that tag")],
)
def test_who_is_interrupted_while_many_run_is_told_of_a_few(
    spool: SpoolDir, tagged: tuple[str, ...], which: str, ends: str
) -> None:
    spool.create()
    words = ("enqueue", *tagged, "--wait", "--commands", "-")
    with spool.start(*words, stdin=PIPE, stdout=PIPE, stderr=PIPE) as waiting:
        assert waiting.stdin is not None
        assert waiting.stderr is not None
        waiting.stdin.write(b"true\n" * 7)
        waiting.stdin.close()
        assert b"no worker is running" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        said = waiting.stderr.read().decode()
    assert f"stay queued, or running; `queuectl wait {which}` waits again" in said
    assert f"`queuectl cancel {which}` ends {ends}\n" in said
    assert len(said.splitlines()) == 1


def test_who_interrupts_a_run_is_told_how_to_see_on(spool: SpoolDir) -> None:
    spool.create()
    with spool.start("run", "--id", "job", "--", "true", stderr=PIPE) as running:
        assert running.stderr is not None
        running.stderr.readline()
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=DEADLINE_S)[1]
    assert b"`queuectl logs -f --all job` waits again, `queuectl cancel job` ends it" in said


def test_what_is_said_at_an_interrupt_begins_a_line(spool: SpoolDir, tmp_path: Path) -> None:
    path = tmp_path / "said"
    words = ("run", "--id", "job", "--", "sh", "-c", "printf begun; exec sleep 600")
    with spool.pool(), open(path, "wb") as said:
        with spool.start(*words, stdout=said, stderr=said) as running:
            wait_until(lambda: path.read_text() == "begun", path.read_text)
            running.send_signal(signal.SIGINT)
            assert running.wait(DEADLINE_S) == 130
        spool.run("cancel", "job")
    assert path.read_text().startswith("begun\nqueuectl: job stays queued, or running;")


def test_of_several_runs_the_last_gives_the_status() -> None:
    runs = [{"number": number, "ended": "exit", "exit_code": number} for number in (3, 4, 5)]
    record = {"id": "job", "command": "true", "history": runs}
    assert exit_status(Found("dead", Job(record))) == 5


def test_one_suspended_pool_of_two_keeps_nobody_waiting(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job", run_at="2100-01-01T00:00:00Z")
    with spool.pool() as one, spool.pool():
        one.signal(signal.SIGSTOP)
        wait_until(lambda: "suspended" in spool.run("worker", "list").out)
        assert "suspended" not in spool.run("wait", "job", "--timeout", "0.1", status=124).err
        one.signal(signal.SIGCONT)
