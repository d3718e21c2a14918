"""A job ends where it belongs, and its record says how."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from queuectl.units import parse_time
from tests.support import (
    AHEAD,
    DEADLINE_S,
    SpoolDir,
    environment,
    processes_with,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from pathlib import Path


def run_one(spool: SpoolDir, command: str | list[str], state: str, **fields: Any) -> dict[str, Any]:
    """Run one job to its end, and return its record."""
    spool.configure(backoff_base=0, kill_grace=1)
    spool.api.submit(command, id="job", **fields)
    spool.drain(1)
    assert spool.states("job") == [state]
    return spool.record(state, "job")


def test_exit_0_ends_in_completed_with_code_times_attempts_and_output(spool: SpoolDir) -> None:
    record = run_one(spool, "echo out; echo err >&2", "completed")
    assert record["exit_code"] == 0
    assert record["attempts"] == 1
    assert record["error_message"] is None
    times = [record[name] for name in ("created_at", "started_at", "finished_at")]
    assert times == sorted(times)
    assert record["updated_at"] == record["finished_at"]
    assert record["stdout_path"] == f"{spool.path}/logs/job.1.out"
    assert spool.output("job") == "out\n"
    assert spool.output("job", stream="err") == "err\n"
    assert [entry["ended"] for entry in record["history"]] == ["exit"]


def test_a_run_is_recorded_as_long_as_it_was_not_from_its_claim(
    spool: SpoolDir, tmp_path: Path
) -> None:
    go = f"{spool.path}.go"
    spool.drop("a-short")
    spool.drop("b-long", waiting_for(go))
    spool.drop("c-short")
    with spool.pool(env=with_code_at_start(tmp_path, AHEAD)) as pool:
        pool.wait_for("started", "b-long")
        wait_until(lambda: "c-short" in spool.ids("processing"), pool.log)
        released_at = time.time()
        with open(go, "x"):
            pass
        spool.wait_for("completed", "c-short")
    record = spool.record("completed", "c-short")
    assert parse_time(record["started_at"]) >= released_at - 0.001
    assert record["history"][0]["started_at"] == record["started_at"]


def test_a_list_is_run_without_a_shell(spool: SpoolDir) -> None:
    run_one(spool, ["printf", "%s|", "$HOME", "a b", "*"], "completed")
    assert spool.output("job") == "$HOME|a b|*|"


def test_a_failing_job_is_dead_after_max_retries_failures_with_the_reason(spool: SpoolDir) -> None:
    record = run_one(spool, "echo try $QUEUECTL_ATTEMPT; exit 3", "dead", max_retries=3)
    assert record["attempts"] == 3
    assert record["exit_code"] == 3
    assert record["error_message"] == "exit status 3"
    assert [entry["number"] for entry in record["history"]] == [1, 2, 3]
    assert [spool.output("job", number) for number in (1, 2, 3)] == [
        "try 1\n",
        "try 2\n",
        "try 3\n",
    ]


def test_a_failure_is_retried_not_before_base_to_the_n_seconds(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0.4, max_retries=3)
    spool.api.submit("exit 1", id="job")
    spool.drain(1)
    history = spool.record("dead", "job")["history"]
    waits = [
        parse_time(then["started_at"]) - parse_time(first["finished_at"])
        for first, then in pairwise(history)
    ]
    assert waits[0] >= 0.4
    assert waits[1] >= 0.4**2


def test_while_it_waits_a_failed_job_is_in_failed_and_says_when(spool: SpoolDir) -> None:
    spool.configure(backoff_base=500)
    spool.api.submit("exit 1", id="job", max_retries=2)
    with spool.pool():
        spool.wait_for("failed", "job")
        record = spool.record("failed", "job")
        due, ended = parse_time(record["next_retry_at"]), parse_time(record["finished_at"])
        assert due - ended == pytest.approx(500, abs=0.001)
        assert record["error_message"] == "exit status 1"


def test_a_job_that_succeeds_later_keeps_its_history(spool: SpoolDir) -> None:
    record = run_one(spool, '[ "$QUEUECTL_ATTEMPT" = 2 ]', "completed")
    assert record["attempts"] == 2
    assert [entry["exit_code"] for entry in record["history"]] == [1, 0]


# --- the ways in which a run can fail -------------------------------------------------------


@pytest.mark.parametrize("command", ["no-such-program-here", ["no-such-program-here"]])
def test_a_command_that_does_not_exist_is_127(spool: SpoolDir, command: str | list[str]) -> None:
    record = run_one(spool, command, "dead", max_retries=1)
    assert record["exit_code"] == 127
    assert record["error_message"] == "exit status 127 (command not found)"


def test_a_script_that_names_no_interpreter_is_126_and_says_what_it_needs(
    spool: SpoolDir, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("echo done\n")
    script.chmod(0o755)
    record = run_one(spool, [str(script)], "dead", max_retries=1)
    assert record["exit_code"] == 126
    assert "no #! line" in record["error_message"]


@pytest.mark.parametrize("command", ["/etc/passwd", ["/etc/passwd"]])
def test_a_command_that_is_no_program_is_126(spool: SpoolDir, command: str | list[str]) -> None:
    assert run_one(spool, command, "dead", max_retries=1)["exit_code"] == 126


def test_a_signal_is_told_by_its_name(spool: SpoolDir) -> None:
    record = run_one(spool, "kill -KILL $$", "dead", max_retries=1)
    assert record["exit_code"] is None
    assert record["error_message"] == "killed by SIGKILL"
    assert record["history"][-1]["signal"] == "SIGKILL"


def test_a_cwd_that_is_not_there_is_a_job_that_could_not_start(spool: SpoolDir) -> None:
    record = run_one(spool, "true", "dead", max_retries=1, cwd="/no/such/place")
    assert record["exit_code"] is None
    assert record["error_message"].startswith("could not start: cwd /no/such/place")
    assert record["history"][-1]["ended"] == "could not start"


def test_a_timeout_ends_the_whole_tree(spool: SpoolDir) -> None:
    tree = "sleep 1000 & setsid sleep 1000 & (trap '' TERM; sleep 1000) & sleep 1000"
    record = run_one(spool, tree, "dead", max_retries=1, timeout=0.3)
    assert record["error_message"].startswith("timed out")
    assert record["history"][-1]["ended"] == "timeout"
    assert processes_with(f"QUEUECTL_SPOOL={spool.path}") == []


def test_a_timeout_ends_nothing_of_a_job_of_that_id_in_another_spool(spool: SpoolDir) -> None:
    other, go = SpoolDir(f"{spool.path}.other"), f"{spool.path}.go"
    other.drop("job", waiting_for(go), max_retries=1)
    try:
        with other.pool() as pool:
            pool.wait_for("started", "job")
            run_one(spool, "sleep 1000", "dead", max_retries=1, timeout=0.3)
            open(go, "x").close()
            other.wait_for("completed", "job")
    finally:
        other.end_processes()


FORBIDDEN = """
import errno, os
def forbidden(*_):
    raise OSError(errno.{0}, os.strerror(errno.{0}))
os.pidfd_open = forbidden
"""


@pytest.mark.parametrize(
    "forbidden",
    [FORBIDDEN.format("ENOSYS"), FORBIDDEN.format("EPERM"), "import os; del os.pidfd_open"],
    ids=["ENOSYS", "EPERM", "another system"],
)
def test_a_timeout_ends_the_whole_tree_where_pidfd_is_forbidden(
    spool: SpoolDir, tmp_path: Path, forbidden: str
) -> None:
    spool.drop("job", "setsid sleep 1000 & sleep 1000", timeout=0.3, max_retries=1)
    pool = spool.drain(1, env=with_code_at_start(tmp_path, forbidden))
    assert spool.states("job") == ["dead"]
    assert processes_with(f"QUEUECTL_SPOOL={spool.path}") == []
    assert not pool.events("error")


def test_without_a_timeout_of_its_own_a_job_has_that_of_the_settings(spool: SpoolDir) -> None:
    spool.configure(job_timeout=0.2)
    assert run_one(spool, "sleep 1000", "dead", max_retries=1)["error_message"].startswith("timed")


def test_what_runs_is_given_more_time_by_the_settings_from_its_start(spool: SpoolDir) -> None:
    spool.configure(job_timeout=3)
    spool.drop("own", "sleep 1000", timeout=1000)
    spool.drop("job", "sleep 1000", max_retries=1)
    with spool.pool(2) as pool:
        for job_id in ("own", "job"):
            pool.wait_for("started", job_id)
        spool.run("config", "set", "job-timeout", "5")
        spool.wait_for("dead", "job")
        assert spool.ids("processing") == ["own"]
        spool.run("cancel", "own")
    why = spool.record("dead", "job")["error_message"]
    assert why.startswith("timed out: still running after 5.0s (the setting job-timeout")


def test_what_runs_by_a_timeout_of_its_own_is_given_no_more_by_the_settings(
    spool: SpoolDir,
) -> None:
    spool.drop("job", "sleep 1000", timeout=2, max_retries=1)
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        spool.configure(job_timeout=1000)
        pool.wait_for("config")
        spool.wait_for("dead", "job")
    why = spool.record("dead", "job")["error_message"]
    assert why == "timed out: still running after 2.0s (its timeout)"


SOON_OVER = """
from queuectl.settings import config
from queuectl.pool import live_config
config.Config.__init__.__kwdefaults__["job_timeout"] = 0.2
live_config._SAVING_S = 0.0
"""


@pytest.mark.parametrize("how", ["lowered", "lost"])
def test_what_runs_is_never_given_less_time(spool: SpoolDir, tmp_path: Path, how: str) -> None:
    spool.configure(job_timeout=1000, poll_interval=0.1)
    spool.drop("job", "sleep 1000")
    with spool.pool(env=with_code_at_start(tmp_path, SOON_OVER)) as pool:
        pool.wait_for("started", "job")
        if how == "lowered":
            spool.run("config", "set", "job-timeout", "0.2")
        else:
            os.unlink(f"{spool.path}/config.json")
        pool.wait_for("config")
        time.sleep(0.5)
        assert spool.ids("processing") == ["job"]
        assert not pool.events("failed")
        assert " of 200ms" not in spool.run("status").out
        assert "200ms (job-timeout)" not in spool.run("show", "job").out
        spool.run("cancel", "job")


def test_a_timeout_of_null_is_none(spool: SpoolDir) -> None:
    spool.configure(job_timeout=0.001)
    assert run_one(spool, "sleep 0.3", "completed", timeout=None)["exit_code"] == 0


def test_a_child_in_the_background_does_not_hold_a_job_open(spool: SpoolDir) -> None:
    run_one(spool, "sleep 1000 & echo done", "completed")
    assert spool.output("job") == "done\n"


# --- what a command finds -------------------------------------------------------------------


def test_a_command_finds_its_cwd_its_env_and_an_empty_stdin(spool: SpoolDir) -> None:
    os.makedirs(f"{spool.path}/a dir")
    run_one(
        spool,
        'pwd; echo "$GREETING"; cat; echo "$HOME"',
        "completed",
        cwd=f"{spool.path}/a dir",
        env={"GREETING": "héllo", "HOME": "/here"},
    )
    assert spool.output("job").splitlines() == [f"{spool.path}/a dir", "héllo", "/here"]


def test_jobs_of_many_places_run_each_in_its_own(spool: SpoolDir, tmp_path: Path) -> None:
    """Each job runs in its cwd, though a pool keeps fewer directories ready than they have."""
    places = {f"job-{number:03}": tmp_path / f"place-{number % 550}" for number in range(700)}
    for place in set(places.values()):
        place.mkdir()
    for job_id, place in places.items():
        spool.drop(job_id, ["/bin/pwd"], cwd=str(place))
    spool.drain(1)
    assert {job_id: spool.output(job_id) for job_id in places} == {
        job_id: f"{place}\n" for job_id, place in places.items()
    }


def test_a_command_has_all_of_many_variables_and_words_and_none_of_those_before_it(
    spool: SpoolDir,
) -> None:
    words = [str(number) for number in range(300)]
    spool.drop("a-few", "echo $HOME $OWN299")
    spool.drop("b-many", "echo $HOME $OWN299", env={f"OWN{word}": word for word in words})
    spool.drop("c-words", ["/bin/echo", *words])
    spool.drop("d-few", "echo $HOME $OWN299")
    spool.drop("e-word", ["/bin/echo", "one"])
    for job_id in ("f-own", "g-own"):  # each has as many variables as the other
        spool.drop(job_id, "echo $HOME $OWN299", env={"OWN299": job_id})
    spool.drain(1, env={"HOME": "/usr"})
    said = [spool.output(job_id) for job_id in ("a-few", "b-many", "c-words", "d-few", "e-word")]
    assert said == ["/usr\n", "/usr 299\n", f"{' '.join(words)}\n", "/usr\n", "one\n"]
    said = [spool.output(job_id) for job_id in ("f-own", "g-own")]
    assert said == ["/usr f-own\n", "/usr g-own\n"]


def test_a_command_knows_which_job_it_is(spool: SpoolDir) -> None:
    command = 'echo "$QUEUECTL_JOB_ID $QUEUECTL_ATTEMPT $QUEUECTL_MAX_RETRIES $QUEUECTL_SPOOL"'
    record = run_one(spool, f"{command}; echo $QUEUECTL_WORKER", "completed", max_retries=4)
    first, worker = spool.output("job").splitlines()
    assert first == f"job 1 4 {spool.path}"
    assert worker == record["worker"] == record["history"][0]["worker"]


def test_a_job_cannot_pose_as_another(spool: SpoolDir) -> None:
    env = {"QUEUECTL_JOB_ID": "other", "QUEUECTL_WORKER": "other"}
    record = run_one(spool, "echo $QUEUECTL_JOB_ID $QUEUECTL_WORKER", "completed", env=env)
    assert spool.output("job") == f"job {record['worker']}\n"


def test_a_dropped_job_without_a_cwd_runs_in_the_home_directory(spool: SpoolDir) -> None:
    spool.drop("job", "pwd")
    spool.drain(1, env={"HOME": "/usr"})
    assert spool.output("job") == "/usr\n"


def test_a_dropped_job_without_a_cwd_runs_where_there_is_no_home_directory(
    spool: SpoolDir,
) -> None:
    spool.drop("job", "pwd")
    spool.drain(1, env={"HOME": "not-absolute"})
    assert spool.output("job") == "/\n"


def test_a_job_has_no_output_of_another_that_had_its_id(spool: SpoolDir) -> None:
    """A job overwrites the output of a job that had its id, whose record was removed by hand."""
    run_one(spool, "echo one; echo two", "completed")
    os.unlink(spool.file("completed", "job"))
    run_one(spool, "echo new", "completed")
    assert spool.output("job") == "new\n"


def test_sigchld_inherited_as_ignored_does_not_hide_a_failure(spool: SpoolDir) -> None:
    spool.api.submit("exit 7", id="job", max_retries=1)
    ignored = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    run = "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    words = spool.command("worker", "start", "--stop-when-empty")[1:]
    done = subprocess.run(
        [sys.executable, "-c", f"{ignored}; {run}", *words],
        env=environment(spool.path),
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    assert spool.record("dead", "job")["exit_code"] == 7


def test_the_settings_name_codes_that_succeed_that_are_fatal_and_that_mean_later(
    spool: SpoolDir,
) -> None:
    spool.configure(success_codes=[0, 3], fatal_codes=[4], later_codes=[5], later_delay=900)
    for code in (3, 4, 5):
        spool.api.submit(f"exit {code}", id=f"exit-{code}", max_retries=9)
    with spool.pool():
        spool.wait_for("completed", "exit-3")
        spool.wait_for("dead", "exit-4")
        spool.wait_for("failed", "exit-5")
    assert spool.record("dead", "exit-4")["attempts"] == 1
    assert spool.record("failed", "exit-5")["attempts"] == 0


def test_pwd_is_where_the_command_runs_and_not_where_its_worker_does(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("words", ["printenv", "PWD"], cwd=str(tmp_path))
    spool.drop("its-own", ["printenv", "PWD"], cwd=str(tmp_path), env={"PWD": "/its/own"})
    spool.drop("old", "echo ${OLDPWD-none}")
    spool.drain(env={"PWD": "/of/the/worker", "OLDPWD": "/before"})
    assert spool.output("words") == f"{tmp_path}\n"
    assert spool.output("its-own") == "/its/own\n"
    assert spool.output("old") == "none\n"


def test_what_a_record_holds_is_utf_8_whatever_the_locale_of_its_worker(spool: SpoolDir) -> None:
    spool.drop("job", 'printf %s "$GREETING é日本"', env={"GREETING": "ñ"})
    spool.drain(1, env={"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert spool.output("job") == "ñ é日本"


def test_a_cwd_that_is_a_program_name_too_and_one_that_is_too_long(spool: SpoolDir) -> None:
    spool.drop("both", ["/tmp"], cwd="/tmp", max_retries=1)
    spool.drop("long", "true", cwd="/" + "x" * 300_000, max_retries=2)
    spool.configure(backoff_base=0)
    spool.drain(1)
    assert spool.record("dead", "both")["exit_code"] == 126
    record = spool.record("dead", "long")
    assert record["attempts"] == 2
    assert len(record["error_message"]) < 1000


def test_a_command_finds_queuectl_wherever_its_pool_was_started(spool: SpoolDir) -> None:
    spool.api.submit("command -v queuectl; echo $PATH", id="a")
    spool.drain(env={"PATH": "/usr/bin:/bin"})
    found, path = spool.output("a").splitlines()
    assert path == f"/usr/bin:/bin:{os.path.dirname(found)}"


def test_an_empty_path_and_one_that_leads_to_queuectl_stay_as_they_are(spool: SpoolDir) -> None:
    for path in ("", f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"):
        job = spool.api.submit('echo "$PATH"')
        spool.drain(env={"PATH": path})
        assert spool.output(job.id) == f"{path}\n"


@pytest.mark.parametrize(("own", "said"), [(True, "its timeout"), (False, "job-timeout")])
def test_a_timeout_says_whose_it_was(spool: SpoolDir, own: bool, said: str) -> None:
    spool.configure(job_timeout=0.2)
    fields: dict[str, Any] = {"timeout": 0.1} if own else {}
    spool.api.submit("sleep 60", id="a", max_retries=1, **fields)
    spool.drain()
    message = spool.record("dead", "a")["error_message"]
    assert message.startswith("timed out: still running after ")
    assert said in message
    assert ("job-timeout" in message) != own
