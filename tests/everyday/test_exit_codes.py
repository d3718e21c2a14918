"""Exit codes that mean success, failure for good, or later: set for a job or as the default."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from queuectl.record.job import MAX_HISTORY
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.support import SpoolDir


def run_once(spool: SpoolDir, code: int, **fields: Any) -> dict[str, Any]:
    """Run a job once; return its record, whose `state` is the directory that it is in."""
    spool.api.submit(f"exit {code}", id="job", **fields)
    with spool.pool() as pool:
        pool.wait_for("started", "job")
    (state,) = spool.states("job")
    record = spool.record(state, "job")
    assert record["state"] == state
    assert record["exit_code"] == code
    return record


@pytest.fixture
def patient(spool: SpoolDir) -> SpoolDir:
    """Return a spool whose retry delays are longer than a test."""
    spool.configure(backoff_base=1000, later_delay=1800)
    return spool


def test_a_success_code_completes_the_job(patient: SpoolDir) -> None:
    record = run_once(patient, 3, success_codes=[0, 3])
    assert (record["state"], record["error_message"]) == ("completed", None)


def test_0_is_a_failure_where_it_is_no_success_code(patient: SpoolDir) -> None:
    assert run_once(patient, 0, success_codes=[3])["state"] == "failed"


def test_a_fatal_code_is_dead_without_a_retry(patient: SpoolDir) -> None:
    record = run_once(patient, 2, fatal_codes=[2], max_retries=5)
    assert (record["state"], record["attempts"]) == ("dead", 1)
    assert record["error_message"] == "exit status 2"


def test_a_later_code_waits_and_counts_no_attempt(patient: SpoolDir) -> None:
    record = run_once(patient, 75, later_codes=[75], max_retries=1)
    assert (record["state"], record["attempts"]) == ("failed", 0)
    assert record["next_retry_at"] > record["finished_at"]


def test_a_job_is_given_its_delay_as_it_is_queued_and_edited(patient: SpoolDir) -> None:
    words = ("--later-codes", "75", "--later-delay", "2h", "--command", "exit 75")
    patient.run("enqueue", "--id", "job", *words)
    patient.run("edit", "job", "--later-delay", "3h")
    assert "later_delay  3h00m\n" in patient.run("show", "job").out
    with patient.pool():
        patient.wait_for("failed", "job")
    assert re.search(r"failed +0/3 +later in 2h59m", patient.run("list").out)


def test_a_job_with_a_short_delay_of_its_own_is_run_again_before_the_others(
    patient: SpoolDir,
) -> None:
    patient.configure(later_codes=[75])
    patient.api.submit("exit 75", id="slow")
    patient.api.submit(
        "[ $(ls logs | wc -l) -gt 6 ] || exit 75", id="quick", later_delay=0.05, cwd=patient.path
    )
    with patient.pool():
        patient.wait_for("completed", "quick")
    assert len(patient.record("failed", "slow")["history"]) == 1


def test_what_is_no_delay_is_refused(spool: SpoolDir) -> None:
    why = spool.refuse("enqueue", "--later-delay", "400d", "true", status=2)
    assert '"later_delay" must be a number of seconds from 0 to 31622400' in why
    assert "is not a duration" in spool.refuse("enqueue", "--later-delay", "x", "true", status=2)


def test_what_means_later_is_not_told_as_a_failure(patient: SpoolDir) -> None:
    run_once(patient, 75, later_codes=[75])
    assert re.search(r"failed +0/3 +later in 29m", patient.run("list").out)
    assert "LAST FAILURES  none" in patient.run("top").out
    assert "exit status 75 (means later)" in patient.run("status").out


def test_a_later_code_may_come_any_number_of_times(spool: SpoolDir) -> None:
    spool.configure(later_delay=0, backoff_base=0)
    command = 'n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n; [ "$n" -ge 4 ] || exit 75'
    spool.api.submit(command, id="job", later_codes=[75], max_retries=1, cwd=spool.path)
    spool.drain()
    record = spool.record("completed", "job")
    assert record["attempts"] == 1
    assert [entry.get("exit_code") for entry in record["history"]] == [75, 75, 75, 75, 0]


@pytest.mark.parametrize(
    ("key", "state"),
    [("success-codes", "completed"), ("fatal-codes", "dead"), ("later-codes", "failed")],
)
def test_the_settings_are_the_default_of_every_job(patient: SpoolDir, key: str, state: str) -> None:
    patient.run("config", "set", key, "9,10")
    assert run_once(patient, 10)["state"] == state


def test_a_jobs_own_codes_go_before_the_settings(patient: SpoolDir) -> None:
    patient.run("config", "set", "fatal-codes", "9")
    assert run_once(patient, 9, fatal_codes=[])["state"] == "failed"


@pytest.mark.parametrize(
    ("own", "default", "state"),
    [
        ("fatal_codes", "success-codes", "dead"),
        ("later_codes", "success-codes", "failed"),
        ("later_codes", "fatal-codes", "failed"),
        ("success_codes", "fatal-codes", "completed"),
    ],
)
def test_what_a_job_says_of_a_code_goes_before_what_another_setting_says_of_it(
    patient: SpoolDir, own: str, default: str, state: str
) -> None:
    patient.run("config", "set", default, "0,7-9")
    assert run_once(patient, 8, **{own: [8]})["state"] == state


@pytest.mark.parametrize(
    ("option", "state"),
    [("--success-codes", "completed"), ("--fatal-codes", "dead"), ("--later-codes", "failed")],
)
def test_a_job_is_given_its_codes_as_it_is_queued(
    patient: SpoolDir, option: str, state: str
) -> None:
    patient.run("enqueue", "--id", "job", option, "0,8", "--command", "exit 8")
    with patient.pool():
        patient.wait_for(state, "job")


def test_0_is_no_failure_for_being_in_a_list_of_failures(patient: SpoolDir) -> None:
    assert run_once(patient, 0, fatal_codes=list(range(256)))["state"] == "completed"


def test_none_are_no_codes(spool: SpoolDir) -> None:
    spool.run("config", "set", "fatal-codes", "none")
    spool.run("enqueue", "--id", "job", "--fatal-codes", "none", "true")
    assert spool.record("pending", "job")["fatal_codes"] == []
    assert "at least one" in spool.refuse("config", "set", "success-codes", "none", status=2)


def test_codes_of_a_job_are_shown_as_they_are_given(spool: SpoolDir) -> None:
    spool.run("enqueue", "--id", "job", "--fatal-codes", "0,1-255", "--command", "true")
    assert "fatal_codes  0-255\n" in spool.run("show", "job").out


@pytest.mark.parametrize("value", ["256", "-1", "x", "1.5"])
def test_what_is_no_exit_code_is_refused(spool: SpoolDir, value: str) -> None:
    why = spool.refuse("config", "set", "fatal-codes", "--", value, status=2)
    assert "exit codes from 0 to 255" in why


def test_codes_of_a_wrong_type_are_refused_with_the_job(spool: SpoolDir) -> None:
    job = '{"command": "true", "fatal_codes": "7"}'
    assert '"fatal_codes" must be a list of exit codes' in spool.refuse("enqueue", job)


def test_of_a_run_that_meant_later_the_output_goes_though_its_successors_worker_dies(
    spool: SpoolDir,
) -> None:
    history = [
        {"number": number, "ended": "exit", "exit_code": 75} for number in range(1, MAX_HISTORY + 1)
    ]
    spool.drop("job", "sleep 100", later_codes=[75], history=history)
    for number in range(1, MAX_HISTORY + 1):
        with open(f"{spool.path}/logs/job.{number}.out", "x"):
            pass
    pool = spool.start_pool()
    pool.wait_for("started", "job")
    pool.kill()
    with spool.pool() as other:
        other.wait_for("recovered", "job")
    assert not os.path.exists(f"{spool.path}/logs/job.1.out")
    assert os.path.exists(f"{spool.path}/logs/job.2.out")


def test_output_of_a_run_that_meant_later_and_cannot_be_deleted_stops_no_pool(
    spool: SpoolDir,
) -> None:
    history = [
        {"number": number, "ended": "exit", "exit_code": 75} for number in range(1, MAX_HISTORY + 1)
    ]
    spool.drop("job", "true", later_codes=[75], history=history)
    os.makedirs(f"{spool.path}/logs/job.1.out/kept")
    with spool.pool() as pool:
        pool.wait_for("completed", "job")
        spool.api.submit("true", id="next")
        pool.wait_for("completed", "next")
        assert pool.process.poll() is None, pool.log()
    assert os.path.isdir(f"{spool.path}/logs/job.1.out/kept")


def test_of_runs_that_meant_later_the_output_goes_with_their_history(spool: SpoolDir) -> None:
    spool.configure(later_delay=0.02, later_codes=[75], backoff_base=0)
    spool.api.submit("echo; exit 75", id="job")
    spool.api.submit("echo; exit 1", id="other", max_retries=25)

    def numbers() -> set[int]:
        names = os.listdir(f"{spool.path}/logs")
        return {int(name.split(".")[1]) for name in names if name.startswith("job")}

    with spool.pool(2):
        wait_until(lambda: max(numbers(), default=0) >= 30)
        spool.wait_for("dead", "other")
        spool.run("worker", "stop", "--now")
    assert max(numbers()) - min(numbers()) in (MAX_HISTORY - 1, MAX_HISTORY)
    assert os.path.exists(f"{spool.path}/logs/other.1.out")
