from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from queuectl import Spool
from queuectl.errors import SpoolError
from queuectl.pool import rejects
from queuectl.pool.intake import Intake, News
from queuectl.record import outcome
from queuectl.record.job import MAX_RECORD_BYTES
from queuectl.system import files, moving
from queuectl.units import utc_text
from queuectl.workers.worklog import WorkLog
from tests.support import read_text, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl.pool.backlog import Entry
    from queuectl.record.job import Job
    from queuectl.spool.moves import Claim
    from tests.support import SpoolDir


def ignore(*_: object) -> None:
    pass


def intake_of(spool: SpoolDir, owner: str) -> Intake:
    return Intake(spool.api, WorkLog(-1), owner, News(ready=ignore, due=ignore, scan=ignore))


@pytest.fixture
def intake(spool: SpoolDir) -> Intake:
    spool.api.create()
    return intake_of(spool, "w")


def test_a_half_written_file_that_is_taken_away_is_not_waited_for(
    spool: SpoolDir, intake: Intake
) -> None:
    spool.drop_bytes("half", b'{"command": ')
    intake.arrived("pending", "half.json")
    assert intake.rejects.busy
    os.unlink(f"{spool.path}/pending/half.json")
    intake.scan()
    assert not intake.rejects.busy


def test_a_half_written_file_is_not_waited_for_once_it_is_whole(
    spool: SpoolDir, intake: Intake
) -> None:
    spool.drop_bytes("half", b'{"command": ')
    intake.arrived("pending", "half.json")
    assert intake.rejects.busy
    assert not intake.idle
    with open(spool.file("pending", "half"), "a") as file:
        file.write('"true"}')
    intake.arrived("pending", "half.json")
    assert not intake.rejects.busy
    entry = intake.next()
    assert entry is not None
    assert entry.job_id == "half"


def test_a_file_that_somebody_has_open_is_waited_for_longer(
    spool: SpoolDir, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejects, "QUIET_S", 0.0)
    spool.drop_bytes("closed", b'{"command": ')
    spool.drop_bytes("open", b'{"command": ')
    with open(spool.file("pending", "open"), "a"):
        for _ in range(2):
            intake.scan()
        intake.rejects.set_aside(10)
        assert (spool.ids("pending"), spool.ids("dead")) == (["open"], ["closed"])
        monkeypatch.setattr(rejects, "OPEN_S", 0.0)  # a minute later: it may have been forgotten
        intake.scan()
        intake.rejects.set_aside(10)
    assert spool.ids("dead") == ["closed", "open"]


def wait_of_failed(spool: SpoolDir, intake: Intake, **fields: object) -> float:
    """Return the seconds for which a failed job with these fields has to wait."""
    body = {"command": "true", "state": "failed", **fields}
    spool.drop_bytes("job", json.dumps(body).encode(), "failed")
    intake.scan()
    wait_s = intake.wait_s()
    assert wait_s is not None
    return wait_s


def test_a_job_that_asked_for_later_is_waited_for_longer_than_for_any_retry(
    spool: SpoolDir, intake: Intake
) -> None:
    spool.configure(backoff_max=60, later_delay=3600)
    intake._spool.follow_config()
    due = utc_text(time.time() + 3600)
    assert wait_of_failed(spool, intake, next_retry_at=due) > 1800


def test_a_delay_of_a_jobs_own_may_be_longer_than_all_those_of_the_settings(
    spool: SpoolDir, intake: Intake
) -> None:
    due = utc_text(time.time() + 86400)
    assert wait_of_failed(spool, intake, next_retry_at=due, later_delay=86400) > 43200


def test_a_time_to_start_before_that_of_a_retry_brings_it_not_forward(
    spool: SpoolDir, intake: Intake
) -> None:
    soon, due = (utc_text(time.time() + after_s) for after_s in (60, 1800))
    assert wait_of_failed(spool, intake, run_at=soon, next_retry_at=due) > 600


def test_a_retry_that_was_written_with_the_clock_ahead_waits_for_its_own_span(
    spool: SpoolDir, intake: Intake
) -> None:
    now = time.time()
    ended, due = utc_text(now + 7200), utc_text(now + 7260)
    # Not <= 60: now + 60 - now may be 60.0000007 in floats.
    assert 30 < wait_of_failed(spool, intake, finished_at=ended, next_retry_at=due) < 61


def test_the_backlog_gives_what_arrived_by_priority_then_by_arrival(
    spool: SpoolDir, intake: Intake
) -> None:
    for job_id, priority in (("late", 1), ("first", 0), ("second", 0), ("urgent", -1)):
        spool.api.submit("true", id=job_id, priority=priority)
    intake.scan()
    order = [intake.next() for _ in range(4)]
    assert [entry and entry.job_id for entry in order] == ["urgent", "first", "second", "late"]
    assert intake.next() is None


def test_what_came_within_a_tick_of_the_clock_stands_as_it_was_queued(
    spool: SpoolDir, intake: Intake
) -> None:
    names = [f"{number * 7919 % 200:03}" for number in range(200)]
    drafts = [spool.api.draft({"command": "true", "id": name}) for name in names]
    list(spool.api.submit_all(drafts, given=names))
    intake.scan()
    assert [entry and entry.job_id for entry in (intake.next() for _ in names)] == names


def give_back_the_next(spool: SpoolDir, intake: Intake) -> str:
    """Claim and count the next job and give it back, as a pool does without a lane for it."""
    entry = intake.next()
    assert entry is not None
    api = spool.api
    claim = api.take(entry.job_id, entry.state, "w", entry.arrived_us)
    before = api.read_claim(claim)
    logs = api.log_files(before.id, 1)
    counted = outcome.started(before, worker="w", now=time.time(), logs=logs)
    files.carry_out(api.counting(claim, counted))
    api.settle(claim, outcome.given_back(before, entry.state, claim.arrived_us))
    intake.arrived(entry.state, f"{entry.job_id}.json")
    return entry.job_id


def test_a_job_that_is_given_back_stands_where_it_stood_whoever_looks(
    spool: SpoolDir, intake: Intake
) -> None:
    for job_id in ("first", "second"):
        spool.api.submit("true", id=job_id)
    intake.scan()
    for _ in range(2):  # also the second time
        assert give_back_the_next(spool, intake) == "first"
    another = intake_of(spool, "another")
    another.scan()
    order = [another.next() for _ in range(2)]
    assert [entry and entry.job_id for entry in order] == ["first", "second"]


def test_the_largest_job_may_be_given_back(spool: SpoolDir, intake: Intake) -> None:
    job = spool.api.draft({"command": "true", "id": "job", "tags": [""]})
    room = "x" * (MAX_RECORD_BYTES - len(job.encode()))
    list(spool.api.submit_all([job.changed(tags=[room])], given=["job"]))
    intake.scan()
    for _ in range(2):
        assert give_back_the_next(spool, intake) == "job"


def test_a_retry_that_is_given_back_stands_where_it_stood(spool: SpoolDir, intake: Intake) -> None:
    spool.drop_bytes("retry", b'{"command":"true","state":"failed","attempts":1}', "failed")
    intake.scan()
    spool.api.submit("true", id="younger")
    intake.arrived("pending", "younger.json")
    intake.advance()
    assert give_back_the_next(spool, intake) == "retry"
    intake.advance()
    back = intake.next()
    assert back is not None
    assert back.job_id == "retry"


@pytest.mark.parametrize("how", ["is edited", "is another's"])
def test_what_was_given_back_and_then_changed_goes_to_the_end(
    spool: SpoolDir, intake: Intake, how: str
) -> None:
    for job_id in ("first", "second"):
        spool.api.submit("true", id=job_id)
    intake.scan()
    assert give_back_the_next(spool, intake) == "first"
    if how == "is edited":
        spool.run("edit", "first", "--tag", "edited")
    else:
        os.unlink(spool.file("pending", "first"))
        intake.arrived("pending", "first.json")
        spool.api.submit("true", id="first")
    intake.arrived("pending", "first.json")
    after = intake.next()
    assert after is not None
    assert after.job_id == "second"


def test_what_cannot_be_set_aside_yet_is_told_once_and_takes_no_more_memory_each_time(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.create()
    log = f"{spool.path}.log"
    with open(log, "wb") as file:
        news = News(ready=lambda _: None, due=lambda: None, scan=lambda: None)
        intake = Intake(spool.api, WorkLog(file.fileno()), "w", news)
        for number in range(5):
            spool.drop_bytes(f"bad{number}", b'{"command": 7}')
        with monkeypatch.context() as patched:
            patched.setattr(moving, "move_new", no_room)
            for _ in range(10):
                spool.drop("good")  # so that the next look is at everything
                intake.forget_scans()
                intake.scan()
                intake.rejects.set_aside(20)
        assert len(intake.rejects._waiting) == 4
        assert read_text(log).count("cannot set aside bad") == 1
        intake.rejects.set_aside(20)
    assert len(spool.ids("dead")) == 5
    assert not intake.rejects.busy


def no_room(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_job_that_arrives_during_the_last_look_is_not_left_behind(
    spool: SpoolDir, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool does not leave if the thread for arrivals enters a job during its last look."""
    assert intake.idle_after_a_look()
    spool.api.submit("true", id="late")
    names = Spool.file_names

    def arrives_meanwhile(this: Spool, state: str) -> list[str]:
        intake.arrived("pending", "late.json")
        return list(names(this, state))

    monkeypatch.setattr(Spool, "file_names", arrives_meanwhile)
    assert not intake.idle_after_a_look()
    assert intake.next() is not None


def test_what_has_fallen_due_is_waited_for_no_more(spool: SpoolDir, intake: Intake) -> None:
    """A job that is due is not waited for, or a paused pool would wait for 0 s over and over."""
    spool.api.submit("true", id="soon", run_at=utc_text(time.time() + 0.2))
    intake.scan()
    assert intake.next() is None
    wait_until(lambda: intake.wait_s() == 0)
    intake.advance()
    assert intake.wait_s() is None
    assert intake.next() is not None


def test_a_slow_look_at_pending_does_not_hide_that_the_job_has_failed_meanwhile(
    spool: SpoolDir, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = utc_text(time.time() + 3600)
    spool.api.submit("false", id="once")
    read = Intake._read

    def runs_meanwhile(this: Intake, state: str, job_id: str) -> tuple[Job, int]:
        monkeypatch.setattr(Intake, "_read", read)
        found = read(this, state, job_id)
        os.unlink(spool.file("pending", "once"))
        body = {"command": "false", "state": "failed", "next_retry_at": later, "attempts": 1}
        spool.drop_bytes("once", json.dumps(body).encode(), "failed")
        intake.arrived("failed", "once.json")
        return found

    monkeypatch.setattr(Intake, "_read", runs_meanwhile)
    intake.scan()
    stale = intake.next()
    assert stale is not None
    assert not os.path.exists(spool.file(stale.state, "once"))  # a hint: a claim fails and goes on
    assert intake.next() is None
    assert intake.wait_s()


def test_a_slow_look_does_not_hide_what_another_thread_has_seen_since(
    spool: SpoolDir, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer body counts, or the job would wait for the time in the body that was replaced."""
    spool.api.submit("true", id="job", run_at=utc_text(time.time() + 3600))
    read = Intake._read

    def is_replaced_meanwhile(this: Intake, state: str, job_id: str) -> tuple[Job, int]:
        monkeypatch.setattr(Intake, "_read", read)
        found = read(this, state, job_id)
        spool.drop("job")
        intake.arrived("pending", "job.json")
        return found

    monkeypatch.setattr(Intake, "_read", is_replaced_meanwhile)
    intake.scan()
    intake.advance()
    assert intake.next() is not None


def test_a_bad_file_that_is_mended_in_time_is_not_set_aside(
    spool: SpoolDir, intake: Intake
) -> None:
    spool.drop_bytes("job", b'{"command": "true", "priority": "high"}')
    intake.scan()
    spool.drop("job", priority=1)
    intake.rejects.set_aside(10)
    assert spool.ids("dead") == []
    assert intake.next() is not None


def test_what_could_not_be_set_aside_runs_once_it_is_another(
    spool: SpoolDir, intake: Intake
) -> None:
    """A good file in the place of a bad one is found whether or not an event reports it."""
    processing = spool.api.directory("processing")
    spool.drop_bytes("odd", b'{"command": 7}')
    os.rmdir(processing)
    open(processing, "x").close()  # not a directory: nothing can be taken
    intake.scan()
    intake.rejects.set_aside(1)
    intake.scan()
    assert intake.rejects.next_look_s is None  # it is not tried again until it changes

    def finds_something() -> bool:
        intake.forget_scans()
        intake.scan()  # rests for a time in proportion to how long the last look took
        return intake.next() is not None

    spool.drop("odd")
    wait_until(finds_something)


@pytest.mark.parametrize("run_at", [None, "2100-01-01T00:00:00Z"])
def test_what_could_not_be_moved_and_now_waits_is_entered_once(
    spool: SpoolDir, intake: Intake, run_at: str | None
) -> None:
    """Later looks do not enter the job again while it waits for its time or for a resume."""
    spool.drop("job", run_at=run_at)
    intake.rejects.leave("pending", "job", OSError(errno.EACCES, "refused"))
    os.utime(spool.file("pending", "job"))
    for _ in range(10):
        intake.scan()
    assert len(intake._backlog._ready) + len(intake._backlog._at) == 1


def test_what_cannot_be_looked_at_again_hides_nothing_that_waits(
    spool: SpoolDir, intake: Intake
) -> None:
    spool.drop("job")
    spool.drop_bytes("stuck", b"{}", "failed")
    intake.rejects.leave("failed", "stuck", PermissionError(errno.EPERM, "is immutable"))
    os.rename(f"{spool.path}/failed", f"{spool.path}/was-failed")
    Path(f"{spool.path}/failed").touch()
    with pytest.raises(OSError, match="Not a directory"):
        intake.scan()
    entry = intake.next()
    assert entry is not None
    assert entry.job_id == "job"


def test_a_look_that_the_file_system_refuses_is_made_again_and_ends_no_thread(
    spool: SpoolDir, intake: Intake
) -> None:
    pending = spool.api.directory("pending")
    os.rmdir(pending)
    open(pending, "x").close()  # not a directory: nothing there can be looked at
    intake.arrived("pending", "an odd name.json")
    intake.arrived("pending", "job.json")
    os.unlink(pending)
    os.mkdir(pending)
    spool.drop("job")
    intake.scan()
    assert intake.next() is not None


@pytest.mark.parametrize("bad", [b'{"command": 7}', b'{"command": 7777777777777}'])
def test_a_good_file_in_the_place_of_a_bad_one_is_not_set_aside_with_it(
    spool: SpoolDir, intake: Intake, monkeypatch: pytest.MonkeyPatch, bad: bytes
) -> None:
    """The good file stays in pending/, even if both have the same size."""
    spool.drop_bytes("odd", bad)
    intake.scan()
    take = Spool.take_name

    def take_what_was_mended_now(api: Spool, name: str, state: str, owner: str) -> object:
        spool.drop("odd", "echo mended")
        return take(api, name, state, owner)

    monkeypatch.setattr(Spool, "take_name", take_what_was_mended_now)
    intake.rejects.set_aside(1)
    assert spool.states("odd") == ["pending"]
    intake.arrived("pending", "odd.json")
    entry = intake.next()
    assert entry is not None
    assert entry.job_id == "odd"


def test_a_bad_file_that_is_taken_away_at_that_moment_keeps_no_other_from_being_set_aside(
    spool: SpoolDir, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.drop_bytes("gone", b'{"command": 7}')
    spool.drop_bytes("other", b'{"command": 7}')
    intake.arrived("pending", "gone.json")
    intake.arrived("pending", "other.json")
    take = Spool.take_name

    def removed_once_taken(api: Spool, name: str, state: str, owner: str) -> Claim:
        claim = take(api, name, state, owner)
        if name == "gone.json":
            os.unlink(claim.path)
        return claim

    monkeypatch.setattr(Spool, "take_name", removed_once_taken)
    intake.rejects.set_aside(2)
    assert os.path.exists(f"{spool.path}/dead/other.rejected")
    assert not intake.rejects.busy


def test_a_job_that_could_not_be_taken_is_tried_again_though_nothing_has_changed(
    spool: SpoolDir, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is tried again after a minute: a file that is no longer immutable looks as before."""
    spool.drop("job")
    intake.scan()
    assert intake.next() is not None
    intake.rejects.leave("pending", "job", OSError(errno.EPERM, "refused"))
    intake.scan()
    assert intake.next() is None
    now_s = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    intake.scan()
    assert intake.next() is not None


def test_what_others_have_run_is_forgotten(spool: SpoolDir, intake: Intake) -> None:
    for number in range(1100):
        spool.drop(f"job-{number}")
    intake.scan()
    for number in range(1, 1100):
        os.unlink(spool.file("pending", f"job-{number}"))

    def is_forgotten() -> bool:
        intake.forget_scans()
        intake.scan()  # rests for a time in proportion to how long the last look took
        return len(intake._backlog) == 1

    wait_until(is_forgotten)
    assert [entry and entry.job_id for entry in (intake.next(), intake.next())] == ["job-0", None]


def test_who_was_told_to_stop_remembers_nothing_of_what_comes(
    spool: SpoolDir, intake: Intake
) -> None:
    spool.drop("before")
    intake.arrived("pending", "before.json")
    intake.stop()
    spool.drop("after")
    intake.arrived("pending", "after.json")
    assert [entry.job_id for entry in iter(intake.next, None)] == ["before"]


def test_an_edit_of_a_job_that_waits_for_its_time_is_found_by_a_look(
    spool: SpoolDir, intake: Intake
) -> None:
    """A look finds an edit of which no event came and which did not change the directory."""
    spool.drop("job", run_at="2100-01-01T00:00:00Z")
    intake.scan()
    assert intake.next() is None
    with open(spool.file("pending", "job"), "w") as file:
        file.write('{"command": "true"}')
    intake.forget_scans()

    def found() -> Entry | None:
        intake.scan()  # rests for a time in proportion to how long the last look took
        return intake.next()

    assert wait_until(found).job_id == "job"


def test_a_look_that_was_asked_for_and_is_refused_is_not_asked_for_at_once_again(
    spool: SpoolDir, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Spool, state: str) -> Iterator[str]:
        if state == "pending":
            raise SpoolError("read", state, OSError(errno.EACCES, os.strerror(errno.EACCES)))
        return iter(self.file_names(state))

    spool.drop_bytes("job", b'{"command": "true", "state": "failed"}', "failed")
    intake.forget_scans()
    assert intake.asked_in_s is not None
    monkeypatch.setattr(Spool, "file_names_by_place", refused)
    with pytest.raises(SpoolError):
        intake.scan()
    assert intake.asked_in_s is None
    intake.advance()
    entry = intake.next()
    assert entry is not None
    assert entry.job_id == "job"  # from the other directory


def test_who_is_about_to_leave_stays_for_what_could_not_be_read(
    spool: SpoolDir, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool does not leave while a job cannot be read, as when no descriptor is free just then."""

    def refused(_path: str, **_: bool) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    spool.drop("job")
    monkeypatch.setattr("queuectl.pool.intake.read_with_status", refused)
    assert intake.idle  # it knows of nothing that waits
    assert not intake.idle_after_a_look()
