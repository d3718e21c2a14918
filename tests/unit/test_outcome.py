from __future__ import annotations

from typing import Any

import pytest

from queuectl.record import outcome
from queuectl.record.job import MAX_HISTORY, Job
from queuectl.record.outcome import Outcome
from queuectl.settings.config import Config

NOW = 1_900_000_000.0
CONFIG = Config(backoff_base=2, later_delay=7)


def running(**fields: Any) -> Job:
    job = Job({"id": "j", "command": "true", "max_retries": 3, **fields})
    return outcome.started(job, worker="w", now=NOW, logs=("j.out", "j.err"))


def settle(job: Job, ended: Outcome, config: Config = CONFIG) -> dict[str, Any]:
    done = outcome.settled(job, ended, config=config, now=NOW + 1, random=lambda: 0.0)
    return dict(done.record)


def test_the_attempt_counts_from_the_start() -> None:
    before = {"finished_at": "2029-01-01T00:00:00Z", "next_retry_at": "2030-01-01T00:00:00Z"}
    record = running(attempts=1, **before).record
    assert record["state"] == "processing"
    assert record["attempts"] == 2
    assert record["worker"] == "w"
    assert (record["finished_at"], record["next_retry_at"]) == (None, None)
    assert (record["stdout_path"], record["stderr_path"]) == ("j.out", "j.err")


def test_exit_status_0_completes() -> None:
    record = settle(running(error_message="old"), Outcome(ended="exit", exit_code=0))
    assert record["state"] == "completed"
    assert record["exit_code"] == 0
    assert record["error_message"] is None
    assert record["next_retry_at"] is None
    assert record["finished_at"] == "2030-03-17T17:46:41.000000Z"


def test_a_failure_is_due_again_after_the_backoff() -> None:
    record = settle(running(attempts=1), Outcome(ended="exit", exit_code=4))
    assert record["state"] == "failed"
    assert record["next_retry_at"] == "2030-03-17T17:46:45.000000Z"
    assert record["error_message"] == "exit status 4"


def test_the_last_failure_is_dead() -> None:
    record = settle(running(attempts=2), Outcome(ended="exit", exit_code=4))
    assert (record["state"], record["attempts"], record["next_retry_at"]) == ("dead", 3, None)


@pytest.mark.parametrize(
    ("ended", "message"),
    [
        (Outcome(ended="exit", exit_code=127), "exit status 127 (command not found)"),
        (Outcome(ended="exit", exit_code=137), "exit status 137 (SIGKILL: out of memory?)"),
        (Outcome(ended="exit", exit_code=126), "exit status 126 (permission denied, or not a"),
        (Outcome(ended="signal", signal=9), "killed by SIGKILL"),
        (Outcome(ended="signal", signal=63), "killed by signal 63"),
        (outcome.timed_out(90, own=True), "timed out: still running after 1m30s"),
        (Outcome(ended="could not start", detail="cwd /x: No"), "could not start: cwd /x: No"),
        (Outcome(ended="worker lost", detail="w died"), "worker lost: w died"),
    ],
)
def test_the_reason_tells_failures_apart(ended: Outcome, message: str) -> None:
    record = settle(running(exit_code=4), ended)
    assert record["error_message"].startswith(message)
    assert record["state"] == "failed"
    assert record["exit_code"] == ended.exit_code  # not that of the run before


def test_a_run_that_was_stopped_is_given_back_uncounted() -> None:
    record = settle(running(attempts=1), Outcome(ended="stopped"))
    assert (record["state"], record["attempts"]) == ("pending", 1)
    assert record["error_message"] == record["history"][-1]["ended"] == "stopped"


def test_a_cancelled_run_is_dead() -> None:
    record = settle(running(), Outcome(ended="cancelled"))
    assert record["state"] == "dead"
    assert record["error_message"].startswith("cancelled")


def test_a_job_that_is_cancelled_while_it_waits_tells_nothing_of_its_last_run() -> None:
    failed = Job(settle(running(), Outcome(ended="exit", exit_code=4)))
    record = outcome.cancelled(failed, Outcome(ended="cancelled", detail="by ann"), NOW).record
    assert (record["state"], record["error_message"]) == ("dead", "cancelled: by ann")
    assert (record["exit_code"], record["next_retry_at"]) == (None, None)


def test_the_jobs_own_exit_codes_decide_before_the_settings() -> None:
    config = Config(success_codes=(0, 3), fatal_codes=(4,), later_codes=(5,), later_delay=7)
    three, four, five = (Outcome(ended="exit", exit_code=code) for code in (3, 4, 5))
    assert settle(running(), three, config)["state"] == "completed"
    assert settle(running(), four, config)["state"] == "dead"
    later = settle(running(attempts=1), five, config)
    assert (later["state"], later["attempts"]) == ("failed", 1)
    assert later["next_retry_at"] == "2030-03-17T17:46:48.000000Z"
    assert settle(running(success_codes=[0]), three, config)["state"] == "failed"
    assert settle(running(fatal_codes=[3], success_codes=[0]), three, config)["state"] == "dead"
    zero = Outcome(ended="exit", exit_code=0)
    assert settle(running(success_codes=[3]), zero, config)["state"] == "failed"
    assert settle(running(fatal_codes=[3], later_codes=[3]), three, config)["state"] == "dead"
    assert settle(running(later_codes=[4]), four, config)["state"] == "failed"


def test_the_jobs_own_delay_counts_only_where_its_exit_code_means_later() -> None:
    four, five = (Outcome(ended="exit", exit_code=code) for code in (4, 5))
    own = {"later_codes": [5], "later_delay": 0.5}
    later = settle(running(**own), five)
    assert later["next_retry_at"] == "2030-03-17T17:46:41.500000Z"
    assert later["later_delay"] == 0.5
    failed = settle(running(**own), four)
    assert failed["next_retry_at"] == "2030-03-17T17:46:43.000000Z"


@pytest.mark.parametrize(
    ("code", "message", "is_told"),
    [
        (4, "exit status 4 (no room was left on the disk)", True),
        (127, "exit status 127 (command not found; no room was left on the disk)", True),
        (0, None, False),
        (75, "exit status 75 (means later)", False),
    ],
)
def test_a_full_disk_is_told_of_what_failed_and_beside_what_else_is_known(
    code: int, message: str | None, *, is_told: bool
) -> None:
    how = outcome.without_room(Outcome(ended="exit", exit_code=code))
    record = settle(running(later_codes=[75]), how)
    assert record["error_message"] == message
    assert ("detail" in record["history"][-1]) == is_told


def test_each_run_has_an_entry_in_the_history() -> None:
    record = settle(running(), Outcome(ended="signal", signal=15))
    assert record["history"] == [
        {
            "number": 1,
            "started_at": "2030-03-17T17:46:40.000000Z",
            "finished_at": "2030-03-17T17:46:41.000000Z",
            "ended": "signal",
            "signal": "SIGTERM",
            "worker": "w",
        }
    ]


def test_the_history_is_bounded_and_its_numbers_go_on() -> None:
    job = Job({"id": "j", "command": "true", "max_retries": 1000})
    for _ in range(MAX_HISTORY + 5):
        job = outcome.started(job, worker="w", now=NOW, logs=("", ""))
        job = Job(settle(job, Outcome(ended="exit", exit_code=1)))
    assert [entry["number"] for entry in job.history] == list(range(6, MAX_HISTORY + 6))


def test_unknown_fields_survive_a_run() -> None:
    assert settle(running(ours=[1, {"a": 2}]), Outcome(ended="exit", exit_code=0))["ours"] == [
        1,
        {"a": 2},
    ]


def test_a_start_is_known_however_its_times_are_written() -> None:
    """Any form of time will do, since programs that follow spool-layout.md claim jobs too."""
    before = Job({"id": "a", "command": "true", "state": "failed", "attempts": 1,
                  "next_retry_at": "2026-01-01T00:00:00Z"})  # fmt: skip
    counted = before.changed(state="processing", attempts=2, worker="w", started_at="now")
    assert outcome.is_start_of(before, counted)
    assert not outcome.is_start_of(before, counted.changed(attempts=3))
    assert not outcome.is_start_of(before, counted.changed(command="false"))


def test_how_a_run_ended_is_shown_whatever_a_file_made_by_hand_says() -> None:
    assert outcome.ended_text({"ended": ["x"]}) == "['x']"
    assert outcome.ended_text({}) == "?"
    assert outcome.ended_text({"ended": "exit", "exit_code": 4}) == "exit status 4"
    assert outcome.ended_text({"ended": "signal", "signal": "SIGKILL"}) == "killed by SIGKILL"
    assert outcome.ended_text({"ended": "timeout"}) == "timed out"
