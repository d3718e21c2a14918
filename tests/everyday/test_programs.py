"""What Python programs do with queued jobs: wait, cancel, retry."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import pytest

from queuectl import NoSuchJobError, Spool, WrongStateError
from tests.support import DEADLINE_S, inotify_instances, waiting_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir


# --- wait -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "state", "code"), [("exit 0", "completed", 0), ("exit 3", "dead", 3)]
)
def test_a_program_waits_for_the_end_through_retries(
    spool: SpoolDir, command: str, state: str, code: int
) -> None:
    spool.configure(backoff_base=0.1, max_retries=2)
    with spool.pool():
        job = spool.api.submit(command)
        found = spool.api.wait(job.id, timeout=DEADLINE_S)
    assert (found.state, found.job.record["exit_code"]) == (state, code)


def test_what_has_ended_is_there_at_once_and_needs_no_worker(spool: SpoolDir) -> None:
    job = spool.api.submit("true")
    spool.drain()
    assert spool.api.wait(job.id, timeout=0).state == "completed"


def test_who_waits_in_vain_is_told_and_the_job_is_as_it_was(spool: SpoolDir) -> None:
    job = spool.api.submit("true")
    with pytest.raises(TimeoutError, match=f'job "{job.id}" has not ended'):
        spool.api.wait(job.id, timeout=0.2)
    assert spool.states(job.id) == ["pending"]


def test_what_is_not_there_or_is_deleted_is_not_waited_for(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.2)
    with pytest.raises(NoSuchJobError, match="nothing"):
        spool.api.wait("nothing")
    spool.drop("job")
    told: list[Exception] = []

    def waits() -> None:
        try:
            spool.api.wait("job", timeout=DEADLINE_S)
        except NoSuchJobError as error:
            told.append(error)

    waiting = threading.Thread(target=waits)
    waiting.start()
    time.sleep(0.3)  # by then it has found the job
    os.unlink(spool.file("pending", "job"))
    waiting.join()
    assert told


def test_who_waits_is_woken_by_the_end(spool: SpoolDir) -> None:
    spool.configure(poll_interval=DEADLINE_S * 10)
    go = f"{spool.path}.go"
    job = spool.api.submit(waiting_for(go))
    with spool.pool():
        ends = threading.Timer(1, lambda: open(go, "x").close())
        ends.start()
        assert spool.api.wait(job.id, timeout=DEADLINE_S).state == "completed"


@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info < (3, 11), reason="inotify, as watchdog 7 uses it"
)
def test_many_who_wait_leave_inotify_instances_to_others(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.2)
    go = f"{spool.path}.go"
    job = spool.api.submit(waiting_for(go))
    states: list[str] = []
    before = inotify_instances()
    waiting = [
        threading.Thread(target=lambda: states.append(spool.api.wait(job.id, DEADLINE_S).state))
        for _ in range(50)
    ]
    for thread in waiting:
        thread.start()
    time.sleep(1)
    watching = inotify_instances()
    with spool.pool():
        open(go, "x").close()
        for thread in waiting:
            thread.join()
    assert states == ["completed"] * 50
    assert (watching - before, inotify_instances() - before) == (1, 0)


@pytest.mark.parametrize("verb", ["find", "wait", "cancel", "retry"])
def test_a_job_in_the_place_of_its_id_is_told_from_one_that_is_not_there(
    spool: SpoolDir, verb: str
) -> None:
    job = spool.api.submit("true")
    with pytest.raises(TypeError, match=r"an id is a str, not a Job; that of a Job is its `\.id`"):
        getattr(spool.api, verb)(job)


# --- cancel ---------------------------------------------------------------------------------------


def test_a_program_cancels_what_waits_and_what_runs(spool: SpoolDir) -> None:
    waits, runs = spool.api.submit("true", priority=1), spool.api.submit("sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", runs.id)
        for job in (waits, runs):
            spool.api.cancel(job.id, timeout=DEADLINE_S)
            assert spool.record("dead", job.id)["error_message"].startswith("cancelled: by ")


def test_what_a_suspended_worker_holds_is_cancelled_once_it_goes_on_or_given_up(
    spool: SpoolDir,
) -> None:
    job = spool.api.submit("sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", job.id)
        pool.signal(signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError, match=f'job "{job.id}" has not ended'):
                spool.api.cancel(job.id, timeout=0.3)
        finally:
            pool.signal(signal.SIGCONT)
        assert not [name for name in os.listdir(f"{spool.path}/workers") if ".cancel." in name]
        assert spool.states(job.id) == ["processing"]
        spool.api.cancel(job.id)


def test_a_cancel_without_events_has_a_last_look_before_it_gives_up(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "queuectl.system.arrivals", None)
    monkeypatch.setattr("queuectl.system.changes._WITHOUT_EVENTS_S", DEADLINE_S)
    spool.configure(poll_interval=DEADLINE_S)
    job = spool.api.submit("sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", job.id)
        spool.api.cancel(job.id, timeout=5)  # the job ends long before that
    assert spool.states(job.id) == ["dead"]


def test_what_a_dead_worker_held_is_cancelled_though_standard_error_is_no_file(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = spool.api.submit("sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", job.id)
        pool.kill()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    spool.api.cancel(job.id, timeout=DEADLINE_S)
    assert spool.states(job.id) == ["dead"]


def test_a_program_that_cancels_what_a_dead_worker_held_has_nothing_written_for_it(
    spool: SpoolDir, capfd: pytest.CaptureFixture[str]
) -> None:
    job = spool.api.submit("sleep 60")
    with spool.pool() as pool:
        pool.wait_for("started", job.id)
        pool.kill()
    capfd.readouterr()
    spool.api.cancel(job.id, timeout=DEADLINE_S)
    assert capfd.readouterr() == ("", "")


def test_what_is_not_there_or_has_ended_cannot_be_cancelled(spool: SpoolDir) -> None:
    with pytest.raises(NoSuchJobError, match="nothing"):
        spool.api.cancel("nothing")
    job = spool.api.submit("true")
    spool.drain()
    with pytest.raises(WrongStateError, match="is completed: too late"):
        spool.api.cancel(job.id)


# --- retry ----------------------------------------------------------------------------------------


def test_a_program_runs_a_job_again_that_has_ended(spool: SpoolDir) -> None:
    job = spool.api.submit("false", max_retries=1)
    spool.drain()
    spool.api.retry(job.id)
    assert (spool.states(job.id), spool.record("pending", job.id)["attempts"]) == (["pending"], 0)


def test_what_is_not_there_or_waits_cannot_be_retried(spool: SpoolDir) -> None:
    with pytest.raises(NoSuchJobError, match="nothing"):
        spool.api.retry("nothing")
    job = spool.api.submit("true")
    with pytest.raises(WrongStateError, match="is pending; only completed, failed or dead"):
        spool.api.retry(job.id)


def test_no_spool_is_made_by_who_looks_for_a_job_where_there_is_none(tmp_path: Path) -> None:
    mistyped = Spool(tmp_path / "mistyped")
    for change in (mistyped.cancel, mistyped.retry, mistyped.wait):
        with pytest.raises(NoSuchJobError, match="mistyped"):
            change("job")
    assert os.listdir(tmp_path) == []


def test_a_spool_that_is_kept_follows_the_settings_when_it_cancels_or_retries(
    spool: SpoolDir,
) -> None:
    """Once a spool is shared, what an open `Spool` cancels or retries is open to the group.

    Otherwise the group could not run what was retried.
    """
    kept = spool.api
    fails = kept.submit("false", max_retries=1)
    spool.drain()
    waits = kept.submit("true")
    spool.run("config", "set", "shared", "true")
    kept.cancel(waits.id)
    kept.retry(fails.id)
    for state, job in (("dead", waits), ("pending", fails)):
        assert os.stat(spool.file(state, job.id)).st_mode & 0o777 == 0o660


def test_what_a_signal_handler_raises_lets_go_of_a_job_that_is_retried(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is given back: otherwise the claim would live on with the program, for a lease."""

    class AlarmError(Exception):
        pass

    def raises(_: object) -> NoReturn:
        raise AlarmError

    job = spool.api.submit("false", max_retries=1)
    spool.drain()
    monkeypatch.setattr("queuectl.jobs.verbs.again", raises)
    with pytest.raises(AlarmError):
        spool.api.retry(job.id)
    assert spool.states(job.id) == ["dead"]


def test_who_is_interrupted_as_a_wait_begins_leaves_no_thread(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> NoReturn:
        raise KeyboardInterrupt

    job = spool.api.submit("true")
    before = threading.active_count()
    monkeypatch.setattr("queuectl.system.arrivals.Arrivals.rearm", interrupt)
    with pytest.raises(KeyboardInterrupt):
        spool.api.wait(job.id, timeout=DEADLINE_S)
    assert threading.active_count() == before
