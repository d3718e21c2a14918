"""`queuectl doctor` finds what is wrong, says what to do, and mends it without losing anything."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from queuectl import Spool, kernel
from queuectl.doctor import contents, filesystem
from queuectl.doctor.finding import problem
from queuectl.errors import MovedOnError, SpoolError
from queuectl.spool import spool as spool_module
from queuectl.spool.filenames import DIRECTORIES
from tests.crash.mounts import mounted, needs_root
from tests.crash.support import Spoolside, command_line, make_spool, places
from tests.support import Child, environment, set_immutable, wait_until, with_code_at_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl.doctor.finding import Finding


def doctor(side: Spoolside, *words: str) -> tuple[int, str]:
    """Run `queuectl doctor`, and return its exit status and standard output."""
    done = side.run("doctor", *words)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def put(side: Spoolside, place: str, job_id: str, **record: Any) -> None:
    """Put a record into a state directory."""
    body = json.dumps({"command": "true", **record})
    (side.path / place / f"{job_id}.json").write_text(body)


def finding(text: str, words: str) -> str:
    """Return the one line that has these words."""
    lines = [line for line in text.splitlines() if words in line]
    assert len(lines) == 1, f"{words!r} in:\n{text}"
    return lines[0]


def leave_orphan(side: Spoolside) -> str:
    """Kill a pool that runs a job, and return the id of that job."""
    job_id = side.submit("test $QUEUECTL_ATTEMPT -gt 1 || sleep 600")
    pool = side.pool("--count", "1").up()
    pool.says("started")
    pool.kill()
    return job_id


def test_a_spool_that_is_well_is_told_so_and_left_as_it_is(side: Spoolside) -> None:
    side.submit()
    before = {file: file.stat().st_mtime_ns for file in side.path.glob("*/*")}
    status, text = doctor(side)
    assert status == 0, text
    assert "problem" not in text
    for words in ("owner", "rename", "links", "locks", "exchanged", "events", "free"):
        assert finding(text, words).startswith("ok")
    assert "takes" in finding(text, "on disk")  # how long depends on the machine
    assert {file: file.stat().st_mtime_ns for file in side.path.glob("*/*")} == before


def test_json_says_the_same(side: Spoolside) -> None:
    side.submit()
    status, text = doctor(side, "--json")
    found: list[dict[str, Any]] = json.loads(text)
    assert status == 0
    assert {item["level"] for item in found} <= {"ok", "warning"}
    assert any("no worker is running" in item["what"] for item in found)
    assert doctor(side, "--strict")[0] == 1


def test_an_orphan_is_found_and_mended_and_then_runs(side: Spoolside) -> None:
    job_id = leave_orphan(side)
    status, text = doctor(side)
    assert status == 1
    assert "is dead" in finding(text, f"{job_id} is held by")
    assert doctor(side, "--fix")[0] == 0
    assert side.state_of(job_id) == "failed"
    side.drain()
    side.check_promise()


def test_nothing_of_a_living_worker_is_touched(side: Spoolside) -> None:
    job_id = side.submit("sleep 600", max_retries=1)
    pool = side.pool("--count", "1").up()
    pool.says("started")
    pool.send(signal.SIGSTOP)  # silent, but alive
    status, text = doctor(side, "--fix")
    assert status == 1, text
    assert "is suspended" in text
    assert side.state_of(job_id) == "processing"
    assert "is running on" in doctor(side, job_id)[1]


def test_an_id_in_two_states_is_a_problem_and_both_files_stay(side: Spoolside) -> None:
    job_id = side.submit()
    side.drain()
    body = (side.path / "completed" / f"{job_id}.json").read_text()
    (side.path / "dead" / f"{job_id}.json").write_text(body.replace('"completed"', '"dead"'))
    status, text = doctor(side, "--fix")
    assert status == 1
    finding(text, f"{job_id} is in completed/ and dead/")
    assert len(places(side.path)[job_id]) == 2


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_an_id_that_waits_and_is_elsewhere_is_only_a_warning(side: Spoolside, state: str) -> None:
    side.submit()
    put(side, state, "twice", state=state)
    put(side, "completed", "twice", state="completed")
    assert finding(doctor(side)[1], "twice is in").startswith("warning")


def test_files_that_were_not_read_are_told(
    side: Spoolside, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.submit()
    side.submit()
    assert "not read" not in doctor(side)[1]
    monkeypatch.setattr(contents, "_READ", 1)
    *_, last = contents.examine(Spool(str(side.path)))
    assert "pending 2" in last.what
    assert last.what.endswith("; 1 of these were not read")


def test_a_body_that_names_another_state_is_told_and_written_down(side: Spoolside) -> None:
    job_id = side.submit()
    side.drain()
    (side.path / "completed" / f"{job_id}.json").rename(side.path / "dead" / f"{job_id}.json")
    status, text = doctor(side)
    assert status == 0
    finding(text, "is in dead/, but its record says completed")
    doctor(side, "--fix")
    assert json.loads((side.path / "dead" / f"{job_id}.json").read_text())["state"] == "dead"


INTERRUPTED = """
import os
from queuectl import kernel
def stopping(step):
    def stopped(source, target):
        before, after = (os.path.basename(os.path.dirname(path)) for path in (source, target))
        if before == "tmp" and after in ("processing", "completed", "dead"):
            raise KeyboardInterrupt
        return step(source, target)
    return stopped
os.rename = stopping(os.rename)
kernel.exchange = stopping(kernel.exchange)
"""


@pytest.mark.parametrize("moved_to", ["completed", "dead"])
def test_what_has_ended_stays_that_though_its_mending_is_interrupted(
    side: Spoolside, tmp_path: Path, moved_to: str
) -> None:
    ended_in = {"completed": "dead", "dead": "completed"}[moved_to]
    job_id = side.submit("exit 1" if ended_in == "dead" else "", max_retries=1)
    side.drain()
    file = side.path / moved_to / f"{job_id}.json"
    (side.path / ended_in / file.name).rename(file)
    done = side.run(
        "doctor", "--fix", env={**environment(), **with_code_at_start(tmp_path, INTERRUPTED)}
    )
    assert done.returncode == 130
    side.drain()
    assert side.times_run() == {job_id: 1}
    assert file.exists()
    assert os.listdir(side.path / "tmp") == []


@pytest.mark.parametrize("can_exchange", [False, True])
def test_a_body_that_was_replaced_meanwhile_is_left_alone(
    side: Spoolside, monkeypatch: pytest.MonkeyPatch, *, can_exchange: bool
) -> None:
    job_id = side.submit()
    side.drain()
    file = side.path / "completed" / f"{job_id}.json"
    other = b'{"command": "true", "state": "completed", "tags": ["other"]}'
    real = kernel.exchange

    def late(one: str, two: str) -> bool:
        monkeypatch.setattr(kernel, "exchange", real)
        file.write_bytes(other)
        return can_exchange and real(one, two)

    monkeypatch.setattr(kernel, "exchange", late)
    with pytest.raises(MovedOnError):
        side.spool.correct("completed", job_id, lambda job: job.changed(state="dead"))
    assert file.read_bytes() == other


@pytest.mark.parametrize("can_exchange", [False, True])
def test_a_body_that_cannot_be_read_again_is_left_alone(
    side: Spoolside, monkeypatch: pytest.MonkeyPatch, *, can_exchange: bool
) -> None:
    job_id = side.submit()
    side.drain()
    file = side.path / "completed" / f"{job_id}.json"
    was = file.read_bytes()
    if not can_exchange:
        monkeypatch.setattr(kernel, "exchange", lambda _one, _other: False)
    looks = iter([was])

    def once(_path: str) -> bytes:
        for data in looks:
            return data
        raise OSError(errno.EIO, "cannot be read")

    monkeypatch.setattr(spool_module, "read_regular", once)
    with pytest.raises(SpoolError):
        side.spool.correct("completed", job_id, lambda job: job.changed(state="dead"))
    assert file.read_bytes() == was
    assert os.listdir(side.path / "tmp") == []


def test_what_was_rejected_is_told_with_the_reason(side: Spoolside) -> None:
    side.drop_bytes("odd", b'{"command": 7}')
    side.drain()
    assert '"command" must be' in finding(doctor(side)[1], "odd was set aside")
    assert '"command" must be' in doctor(side, "odd")[1]


def test_stale_files_of_the_dead_are_told_and_cleared(side: Spoolside) -> None:
    (side.path / "tmp" / "x@gone-1-00000000.json").write_text("{")
    (side.path / "workers" / f"{os.uname().nodename}-1-00000000.lock").touch()
    text = doctor(side)[1]
    finding(text, "tmp/x@gone")
    finding(text, "workers/")
    doctor(side, "--fix")
    side.check_promise()


def test_what_is_not_to_be_had_without_a_directory_is_told_of_each(
    side: Spoolside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    told = {finding.what: finding.todo for finding in filesystem._writable(side.spool)}
    assert "what jobs print is lost until" in told["logs/ cannot be written to by us"]
    assert "no worker starts until" in told["workers/ cannot be written to by us"]
    assert "no job can be moved there until" in told["pending/ cannot be written to by us"]


def test_a_held_file_that_somebody_moved_to_pending_is_to_be_moved_to_its_own_name(
    side: Spoolside,
) -> None:
    side.drop_bytes("one_vm-1-abcd", b'{"id": "one", "command": "true"}')
    side.drain()
    told = finding(doctor(side)[1], "one_vm-1-abcd was set aside")
    assert "move it to pending/one.json" in told


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_missing_directory_is_made_again(side: Spoolside, name: str) -> None:
    where = "dead" if name != "dead" else "failed"
    (side.path / where / "late.json").write_text('{"command": "true", "state": "completed"}')
    shutil.rmtree(side.path / name)
    status, text = doctor(side)
    assert status == 1
    finding(text, f"{name}/ missing")
    status, text = doctor(side, "--fix")
    assert status == 0
    assert (side.path / name).is_dir()
    assert finding(text, f"{name}/ missing").startswith("mended")
    assert finding(text, "says completed").startswith("mended")  # in the same run


def test_a_link_to_what_is_away_is_told_and_ends_no_examination(side: Spoolside) -> None:
    (side.path / "logs").rmdir()
    (side.path / "logs").symlink_to(side.path / "nowhere")
    assert finding(doctor(side)[1], "logs/ missing").startswith("problem")


def test_what_is_open_to_others_is_closed_though_a_directory_is_missing(side: Spoolside) -> None:
    (side.path / "pending").chmod(0o770)
    (side.path / "failed").rmdir()
    text = doctor(side, "--fix")[1]
    assert finding(text, "failed/ missing").startswith("mended")
    assert finding(text, "can be written to by others").startswith("mended")
    assert doctor(side)[0] == 0


def test_nobody_is_promised_to_mend_what_is_in_two_states(side: Spoolside) -> None:
    put(side, "pending", "twice")
    put(side, "completed", "twice", state="pending")
    _, text = doctor(side)
    assert "doctor --fix" not in finding(text, "says pending")
    assert "could not be mended" not in doctor(side, "--fix")[1]


def test_an_owner_without_a_trace_is_not_said_to_be_mended(side: Spoolside) -> None:
    assert side.run("config", "set", "lease", "1").returncode == 0
    held = side.path / "processing" / f"orphan@{os.uname().nodename}-1-00000000.json"
    held.write_text('{"command": "true", "state": "processing"}')
    assert "of whom there is no trace" in doctor(side)[1]
    assert "mended" not in doctor(side, "--fix")[1]
    assert held.exists()
    assert side.run("cancel", "orphan").returncode == 0
    assert not held.exists()


def test_a_spool_that_others_can_write_to_is_a_problem_and_is_closed(side: Spoolside) -> None:
    (side.path / "pending").chmod(0o777)
    status, text = doctor(side)
    assert status == 1
    finding(text, "mode 777")
    assert doctor(side, "--fix")[0] == 0
    assert (side.path / "pending").stat().st_mode & 0o777 == 0o755


@needs_root
def test_a_full_file_system_is_a_problem(tmp_path: Path) -> None:
    with mounted(tmp_path / "m", "-t", "tmpfs", "-o", "size=256k", "none") as point:
        with Spoolside(make_spool(point / "q")) as side:
            (point / "filler").write_bytes(b"\0" * (150 << 10))
            status, text = doctor(side)
        assert status == 1
        finding(text, "make room")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "no worker is running"),
        ({"run_at": "2099-01-01T00:00:00Z"}, "is scheduled for 20"),
        ({"cwd": "/no/such/place"}, "its cwd /no/such/place is not there"),
    ],
)
def test_it_explains_why_a_pending_job_is_not_running(
    fields: dict[str, str], words: str, side: Spoolside
) -> None:
    text = doctor(side, side.submit(**fields))[1]
    assert words in text
    assert "behind" not in text  # nor does it say that the job is about to run


def test_a_file_that_somebody_may_have_meant_as_a_job_is_told_but_no_hidden_one(
    side: Spoolside,
) -> None:
    for name in ("job", ".job.json.swp"):
        file = side.path / "pending" / name
        file.write_text('{"command": "true"}')
        os.utime(file, (0, 0))
    text = doctor(side)[1]
    assert "rename it to job.json" in finding(text, "is read by nobody")


def test_a_directory_that_is_there_is_no_reason(side: Spoolside) -> None:
    assert "cwd" not in doctor(side, side.submit(cwd="/"))[1]


def test_it_explains_a_pause(side: Spoolside) -> None:
    job_id = side.submit()
    (side.path / "paused").touch()
    assert "paused" in doctor(side, job_id)[1]


def test_it_explains_a_queue_before_a_busy_worker(side: Spoolside) -> None:
    side.submit("sleep 600", priority=-1)
    pool = side.pool("--count", "1").up()
    pool.says("started")
    (side.path / "paused").touch()
    pool.says("paused")
    side.submit()
    side.submit(run_at="2099-01-01T00:00:00Z", priority=-9)  # until then ahead of nobody
    job_id = side.submit(priority=5)
    (side.path / "paused").unlink()
    pool.says("unpaused")
    assert "behind 1 other job\n" in doctor(side, job_id)[1]
    failed = json.dumps({"command": "true", "state": "failed", "attempts": 1, "priority": 9})
    (side.path / "failed" / "due.json").write_text(failed)
    assert "behind 2 other jobs\n" in doctor(side, "due")[1]


def test_it_explains_a_wait_for_a_retry(tmp_path: Path) -> None:
    with Spoolside(make_spool(tmp_path / "q", backoff_base=1000)) as side:
        job_id = side.submit("exit 3")
        side.pool().up()
        side.wait_for(job_id, "failed")
        assert "waits for its retry until" in doctor(side, job_id)[1]


def test_it_explains_a_half_written_file(side: Spoolside) -> None:
    side.drop_bytes("half", b'{"command": "tr')
    status, text = doctor(side, "half")
    assert status == 1
    assert "half-written" in text


def test_it_explains_a_dead_job_and_a_completed_one(side: Spoolside) -> None:
    dead, done = side.submit("exit 3", max_retries=1), side.submit()
    side.drain()
    assert "failed once and is dead: exit status 3" in doctor(side, dead)[1]
    status, text = doctor(side, done)
    assert status == 0
    assert "has run" in text
    moved = side.drop("moved", command="true")
    moved.rename(side.path / "dead" / moved.name)
    assert "moved is dead: no reason is recorded" in doctor(side, "moved")[1]


def test_where_a_command_is_not_found_it_says_how_the_path_of_this_shell_is_given(
    side: Spoolside, tmp_path: Path
) -> None:
    (tmp_path / "of-a-venv").write_text("#!/bin/sh\n")
    (tmp_path / "of-a-venv").chmod(0o700)
    job_id = side.spool.submit(["of-a-venv"], max_retries=1).id
    side.drain()
    given = side.spool.submit(["of-a-venv"], max_retries=1, env={"FOO": "bar"}).id
    side.drain()
    assert "--env" not in doctor(side, given)[1]  # that would replace the job's own env
    text = doctor(side, job_id)[1]
    assert f"`queuectl logs --all {job_id}`, then `queuectl edit {job_id} --env PATH`" in text
    env = environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert side.run("edit", job_id, "--env", "PATH", env=env).returncode == 0
    assert side.run("dlq", "retry", job_id).returncode == 0
    side.drain()
    assert side.state_of(job_id) == "completed"


def test_of_a_busy_spool_it_says_nothing_that_is_not_so(side: Spoolside) -> None:
    side.run("config", "set", "durability", "relaxed")
    for number in range(1500):
        side.drop(f"job-{number}", command="true")
    for number in range(40):
        (side.path / "pending" / f"bad-{number}.json").write_text('{"x": 1}')
    pool = side.pool("--count", "4").up()
    while len(os.listdir(side.path / "completed")) < 1500:
        _, told = doctor(side)
        assert "/ and " not in told, told
        assert "no reason beside it" not in told, told
    pool.stop()


def test_what_is_told_together_is_mended_together(side: Spoolside) -> None:
    for number in range(25):
        put(side, "dead", f"job-{number}", state="completed")
    assert "15 more files" in doctor(side)[1]
    doctor(side, "--fix")
    assert {json.loads(file.read_text())["state"] for file in (side.path / "dead").iterdir()} == {
        "dead"
    }


def test_what_cannot_be_mended_keeps_none_of_what_is_told_with_it_from_it(side: Spoolside) -> None:
    for number in range(25):
        put(side, "dead", f"job-{number}", state="completed")
    files = list((side.path / "dead").iterdir())
    told = doctor(side)[1]
    stuck = next(file for file in files if file.stem not in told)  # one of the "15 more files"
    if not set_immutable(str(stuck), on=True):
        pytest.skip("no immutable files here")
    try:
        done = side.run("doctor", "--fix")
    finally:
        set_immutable(str(stuck), on=False)
    assert f"cannot write {stuck}: Operation not permitted" in done.stderr
    left = [file for file in files if json.loads(file.read_text())["state"] != "dead"]
    assert left == [stuck]


def test_a_job_with_a_field_rejected_was_not_set_aside(side: Spoolside) -> None:
    put(side, "dead", "job", state="dead", rejected="x", error_message="exit status 1")
    assert "dlq retry job" in doctor(side, "job")[1]


def test_advice_names_only_what_is_there(side: Spoolside) -> None:
    put(side, "dead", "job", state="dead", command="", rejected="job.json", error_message="bad")
    told = doctor(side, "job")[1]
    assert "dlq purge job" in told
    assert "mend" not in told


def test_a_file_where_a_directory_should_be_is_not_said_to_be_mended(side: Spoolside) -> None:
    (side.path / "failed").rmdir()
    (side.path / "failed").write_text("in the way")
    status, told = doctor(side, "--fix")
    assert status == 1
    assert finding(told, "failed/ missing").startswith("problem")


def test_a_look_that_is_refused_after_many_findings_is_told() -> None:
    def found() -> Iterator[Finding]:
        yield from (problem(f"fault {number}") for number in range(12))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    told = [finding.what for finding in contents._some(found(), "more faults")]
    assert told[10:] == ["could not look further: Input/output error", "2 more faults"]


def test_a_file_that_nobody_reads_is_told(side: Spoolside) -> None:
    forgotten, fresh = side.path / "pending" / "forgotten", side.path / "pending" / "fresh"
    for file in (forgotten, fresh):
        file.write_text('{"command": "true"}')
    os.utime(forgotten, (0, 0))
    told = doctor(side)[1]
    assert "rename it to forgotten.json" in told
    assert "fresh" not in told


def test_what_a_worker_needs_of_the_kernel_is_told_where_it_is_missing(
    side: Spoolside, tmp_path: Path
) -> None:
    code = """
from queuectl import kernel
def missing():
    raise FileNotFoundError(2, "No such file or directory", "/proc/sys/kernel/random/boot_id")
kernel.boot_id = missing
"""
    done = side.run("doctor", env={**environment(), **with_code_at_start(tmp_path, code)})
    assert done.returncode == 1
    assert "boot_id cannot be read: No such file or directory" in done.stdout


def test_what_could_not_be_mended_since_another_recovers_is_not_said_to_be(
    side: Spoolside,
) -> None:
    job_id = leave_orphan(side)
    with FileLock(side.path / "workers" / "recovery.lock"):
        done = side.run("doctor", "--fix")
    assert done.returncode == 1
    assert "another worker or command is recovering jobs here" in done.stderr
    assert "mended" not in done.stdout
    assert finding(done.stdout, f"{job_id} is held by").startswith("problem")


def test_a_job_is_not_kept_waiting_by_one_suspended_pool_of_two(side: Spoolside) -> None:
    for _ in range(2):
        side.pool("--count", "1").up()
    side.pools()[0].send(signal.SIGSTOP)
    (side.path / "paused").touch()
    assert "is suspended" not in doctor(side, side.submit())[1]
    side.pools()[1].send(signal.SIGSTOP)
    assert "is suspended" in doctor(side, side.submit())[1]


def test_jobs_that_wait_for_a_retry_wait_for_a_worker_too(side: Spoolside) -> None:
    put(side, "failed", "job", state="failed", attempts=1)
    assert "1 job waits and no worker is running" in doctor(side)[1]


def test_advice_moves_no_cursor(side: Spoolside) -> None:
    file = side.path / "pending" / "a\x07\rb"
    file.write_text('{"command": "true"}')
    os.utime(file, (0, 0))
    assert r"rename it to a\x07\rb.json" in finding(doctor(side)[1], "is read by nobody")


def test_what_is_mended_needs_nothing_more_to_be_done(side: Spoolside) -> None:
    (side.path / "failed").rmdir()
    assert "(" not in finding(doctor(side, "--fix")[1], "failed/ missing")


def test_a_slow_disk_is_told(side: Spoolside, tmp_path: Path) -> None:
    code = """
import time
from queuectl.system import files
sync = files.sync_directory
files.sync_directory = lambda path: (time.sleep(0.2), sync(path))
"""
    done = side.run("doctor", env={**environment(), **with_code_at_start(tmp_path, code)})
    slow = finding(done.stdout, "putting a job on disk takes")
    assert slow.startswith("warning")
    assert "a faster disk" in slow


def test_one_job_is_explained_and_not_mended(side: Spoolside) -> None:
    (side.path / "failed").rmdir()
    done = side.run("doctor", "--fix", side.submit())
    assert done.returncode == 2
    assert "give no ID with it" in done.stderr


def test_what_needs_different_things_done_is_looked_at_again(side: Spoolside) -> None:
    for number in range(10):
        (side.path / "pending" / f"bad-{number}.json").write_text('{"x": 1}')
    (side.path / "completed" / "odd.json").write_text("[]")
    put(side, "dead", "moved", state="completed")
    more = finding(doctor(side)[1], "2 more files that are not as they should be")
    assert more.endswith("(look again once those above are mended)")


def test_who_does_not_wait_for_the_disk_is_told_how_to(side: Spoolside) -> None:
    side.run("config", "set", "durability", "relaxed")
    relaxed = finding(doctor(side)[1], "durability is relaxed")
    assert relaxed.startswith("warning")
    assert "config set durability full" in relaxed


def test_a_lock_for_recovery_that_is_no_file_is_a_problem(side: Spoolside) -> None:
    lock = side.path / "workers" / "recovery.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    told = finding(doctor(side)[1], "workers/recovery.lock is not a file")
    assert told.startswith("problem")
    assert f"rm -r {lock}" in told
    lock.rmdir()
    lock.symlink_to(side.path / "nowhere")
    finding(doctor(side)[1], "workers/recovery.lock is not a file")


def test_it_explains_a_file_that_can_never_run(side: Spoolside) -> None:
    side.drop_bytes("bad", b'{"command": 7}')
    status, text = doctor(side, "bad")
    assert status == 1
    assert text.startswith('problem  bad can never run: "command" must be')


def test_a_retry_that_is_due_is_before_what_is_less_urgent(side: Spoolside) -> None:
    side.submit("sleep 600")
    pool = side.pool("--count", "1").up()
    pool.says("started")
    (side.path / "paused").touch()
    pool.says("paused")
    put(side, "failed", "due", state="failed", attempts=1, priority=-9)
    job_id = side.submit()
    (side.path / "paused").unlink()
    pool.says("unpaused")
    assert "behind 1 other job\n" in doctor(side, job_id)[1]


def test_what_a_worker_will_set_aside_is_told_and_when(side: Spoolside) -> None:
    (side.path / "pending" / "half.json").write_text('{"command": "tr')
    (side.path / "pending" / "odd.json").write_text('{"command": 7}')
    text = doctor(side)[1]
    half, odd = (finding(text, f"pending/{name}.json cannot be run") for name in ("half", "odd"))
    when = "once it has been quiet for 3 s, or 60 s while it is open"
    assert half.endswith(f"(a worker sets it aside {when})")
    assert odd.endswith("(a worker sets it aside)")


def test_it_explains_that_a_job_was_cancelled(side: Spoolside) -> None:
    job_id = side.submit()
    side.run("cancel", job_id)
    text = doctor(side, job_id)[1]
    assert f"{job_id} was cancelled: by " in text
    assert f"`queuectl dlq retry {job_id}` queues it again" in text


@pytest.mark.parametrize(
    ("room", "level"),
    [
        ({}, "ok"),
        ({"f_bavail": 255}, "problem"),
        ({"f_bavail": 256}, "warning"),
        ({"f_bavail": 16383}, "warning"),
        ({"f_favail": 99}, "problem"),
        ({"f_favail": 100}, "warning"),
        ({"f_favail": 999}, "warning"),
        ({"f_files": 0, "f_favail": 0}, "ok"),  # btrfs has no limit
        ({"f_blocks": 0, "f_bavail": 0}, "ok"),  # ramfs, and much of FUSE
    ],
)
def test_how_much_room_there_is_left_is_judged(
    side: Spoolside, monkeypatch: pytest.MonkeyPatch, room: dict[str, int], level: str
) -> None:
    blocks = {"f_blocks": 30000, "f_bavail": 16384, "f_frsize": 4096}
    inodes = {"f_files": 5000, "f_favail": 1000}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**{**blocks, **inodes, **room}))
    (found,) = filesystem._room(side.spool)
    assert found.level == level
    assert ("inodes" in found.what) == ("f_files" not in room)


@pytest.mark.parametrize(("ahead_s", "side_of_it"), [(100, "behind"), (-100, "ahead")])
def test_a_clock_that_does_not_agree_is_told(
    side: Spoolside, tmp_path: Path, ahead_s: int, side_of_it: str
) -> None:
    code = f"""
import time
now = time.time
time.time = lambda: now() + {ahead_s}
"""
    done = side.run("doctor", env={**environment(), **with_code_at_start(tmp_path, code)})
    told = finding(done.stdout, "the file system's clock is 1m")
    assert told.startswith("warning")
    assert f" {side_of_it}  (" in told


def test_why_no_worker_starts_is_told_of_a_job_too(side: Spoolside) -> None:
    job_id = side.submit()
    (side.path / "pending").chmod(0o777)
    told = finding(doctor(side, job_id)[1], "a worker refuses to start")
    assert f"chmod go-w {side.path}/pending" in told


def test_what_is_to_be_typed_names_a_path_with_blanks_as_one(tmp_path: Path) -> None:
    with Spoolside(make_spool(tmp_path / "my q")) as side:
        (side.path / "pending").chmod(0o777)
        (side.path / "workers" / "recovery.lock").unlink(missing_ok=True)
        (side.path / "workers" / "recovery.lock").mkdir()
        text = doctor(side)[1]
        assert f"chmod go-w '{side.path}/pending'" in text
        assert f"rm -r '{side.path}/workers/recovery.lock'" in text
        assert f"chmod go-w '{side.path}/pending'" in side.run("worker", "start").stderr


def test_what_is_scheduled_is_in_a_while_and_what_ended_is_ago(side: Spoolside) -> None:
    done = side.submit()
    side.drain()
    assert doctor(side, done)[1].endswith(" ago\n")
    later = finding(doctor(side, side.submit(run_at="2099-01-01T00:00:00Z"))[1], "is scheduled for")
    assert ", in " in later
    put(side, "failed", "due", state="failed", attempts=1, next_retry_at="2020-01-01T00:00:00Z")
    assert "waits for its retry" not in doctor(side, "due")[1]


def test_a_problem_that_is_not_shown_is_one_too(side: Spoolside) -> None:
    for number in range(10):
        (side.path / "pending" / f"bad-{number}.json").write_text('{"x": 1}')
    (side.path / "dead" / "odd.json").write_text("[]")
    status, text = doctor(side)
    assert status == 1
    assert finding(text, "1 more files that are not as they should be").startswith("problem")


def test_a_file_system_that_refuses_what_is_needed_is_a_problem(
    side: Spoolside, tmp_path: Path
) -> None:
    code = """
import os
def link(*_):
    raise PermissionError(1, "Operation not permitted")
os.link = link
"""
    env = {**environment(), **with_code_at_start(tmp_path, code)}
    done = side.run("doctor", env=env)
    assert done.returncode == 1
    told = finding(done.stdout, "hard links cannot be made (Operation not permitted), as on FAT")
    assert told.startswith("problem")
    assert "local file system" in told
    assert list((side.path / "tmp").iterdir()) == []


def test_what_the_file_system_leaves_open_is_not_called_mended(
    side: Spoolside, tmp_path: Path
) -> None:
    code = """
import os
os.chmod = lambda *_: None
"""  # like a mount that keeps no modes
    side.path.chmod(0o777)
    env = {**environment(), **with_code_at_start(tmp_path, code)}
    done = side.run("doctor", "--fix", env=env)
    assert "mended" not in done.stdout, done.stdout
    assert "keeps no modes: mount it with umask=077" in done.stdout + done.stderr


def test_what_was_set_aside_can_be_mended_or_purged(side: Spoolside) -> None:
    side.drop_bytes("bad", b'{"command": 7}')
    side.drain()
    told = finding(doctor(side)[1], "bad was set aside")
    assert "mend dead/bad.rejected" in told
    assert "or `queuectl dlq purge bad`" in told


@pytest.mark.parametrize("fields", [{}, {"run_at": "2099-01-01T00:00:00Z"}])
def test_what_cannot_run_is_not_said_to_be_about_to(
    side: Spoolside, fields: dict[str, str]
) -> None:
    text = doctor(side, side.submit(**fields))[1]
    assert "about to run" not in text
    assert "slots" not in text


def test_what_another_machine_holds_is_told_once_that_is_silent(
    side: Spoolside, tmp_path: Path
) -> None:
    code = """
from queuectl import kernel
kernel.host = lambda: "another_host"
kernel.boot_id = kernel.machine_id = lambda: "another"
"""
    job_id = side.submit("sleep 600")
    pool = side.pool(env={**environment(), **with_code_at_start(tmp_path, code)}).up()
    pool.says("started")
    assert "is held by" not in doctor(side)[1]
    told = finding(doctor(side, job_id)[1], f"{job_id} is held by another-host-")
    assert told.startswith("ok")
    assert "on another machine" in told
    pool.kill()
    what = f"{job_id} is held by another-host-"
    wait_until(lambda: what in doctor(side)[1], "its silence")
    for words in ((), (job_id,)):
        told = finding(doctor(side, *words)[1], what)
        assert told.startswith("warning")
        assert "silent on another machine" in told
        assert "after the lease" in told


HOLDING = """
import sys, time
from queuectl import Spool
from queuectl.workers.registration import Registration
spool = Spool(sys.argv[1])
with Registration(spool) as me:
    spool.take(sys.argv[2], "pending", me.name)
    print(flush=True)
    time.sleep(600)
"""


def test_a_command_that_stands_still_with_a_job_is_told(side: Spoolside) -> None:
    job_id = side.submit()
    words = [sys.executable, "-c", HOLDING, str(side.path), job_id]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment()) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert "is held by the command of process" in side.run("doctor", job_id).stdout
            holder.send_signal(signal.SIGSTOP)
            wait_until(lambda: "is suspended" in side.run("doctor").stdout, "it stands still")
            for text in (side.run("doctor").stdout, side.run("doctor", job_id).stdout):
                assert f"`kill -CONT {holder.pid}`" in finding(text, "problem  the command ")
            words = command_line("--spool", str(side.path), "cancel", job_id)
            with (
                open(f"{side.path}.told", "w+") as told,
                Child(words, stderr=told, env=environment()) as cancel,
            ):
                note = f"suspended; `kill -CONT {holder.pid}` lets it go on"
                wait_until(lambda: note in Path(told.name).read_text(), "cancel says so")
                cancel.send_signal(signal.SIGINT)
        finally:
            holder.kill()
    side.drain()
