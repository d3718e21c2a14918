"""What everything depends on goes away: room, inodes, descriptors, events, directories, the log."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import pytest

from queuectl import Spool
from queuectl.units import utc_text
from queuectl.workers import owners
from queuectl.workers.registration import Registration
from tests.crash.mounts import disk_of, mounted, needs_root
from tests.crash.support import Spoolside, command_line, make_spool
from tests.crash.tracing import needs_strace
from tests.support import (
    DEADLINE_S,
    Child,
    alive,
    environment,
    processes_with,
    read_text,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STALLED = "is stalled: it can record or start nothing"
_OVERFLOW = 16_384  # the default of fs.inotify.max_queued_events


def limits(**values: int) -> partial[None]:
    """Return a `preexec_fn` that sets resource limits of a child."""
    pairs = {getattr(resource, f"RLIMIT_{name.upper()}"): n for name, n in values.items()}
    return partial(_limit, pairs)


def _limit(pairs: dict[int, int]) -> None:
    for which, value in pairs.items():
        resource.setrlimit(which, (value, value))


@contextmanager
def small_disk(directory: Path, options: str) -> Iterator[Spoolside]:
    """Yield a spool on a tmpfs with little room, with its diary (`runs`) outside."""
    with (
        mounted(directory / "m", "-t", "tmpfs", "-o", options, "none") as point,
        Spoolside(make_spool(point / "q")) as side,
    ):
        side.runs = directory / "runs"
        yield side


def fill_with(step: Callable[[], object]) -> None:
    """Repeat a step until there is no room for it."""
    try:
        while True:
            step()
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017 - how it must end


def fill(path: Path) -> None:
    """Write to a file until there is no room for one more byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            fill_with(partial(file.write, b"\0" * size))


def fill_up(side: Spoolside, what: str, left: int = 0) -> Path:
    """Use up all room, or all inodes but `left`, and return the directory to be removed again."""
    fillers = side.path.parent / "fillers"
    fillers.mkdir()
    if what == "room":
        fill(fillers / "filler")
    else:
        fill_with(partial(tempfile.mkdtemp, dir=fillers))
        for filler in list(fillers.iterdir())[:left]:
            filler.rmdir()
    return fillers


# --- no room ----------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("what", ["room", "inodes"])
def test_a_full_disk_runs_no_job_twice_and_claims_nothing_until_there_is_room(
    what: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path, "size=4m,nr_inodes=400") as side:
        gate = tmp_path / "gate"
        side.submit(f"while [ ! -e {gate} ]; do sleep 0.02; done", id="running")
        pool = side.pool("--count", "1", log_in=tmp_path).up()
        wait_until(lambda: side.times_run()["running"], "the first job runs")
        side.submit(id="waiting")
        fillers = fill_up(side, what)
        gate.touch()
        wait_until(lambda: "end" in side.runs.read_text(), "the first job ends")
        # either its outcome fits into what was kept for it, or the pool waits for room
        wait_until(
            lambda: re.search("stalled|completed", pool.log()), "the outcome is kept, or not"
        )
        shutil.rmtree(fillers)
        side.wait_for("running")
        side.wait_for("waiting")
        pool.stop()
        assert set(side.times_run().values()) == {1}
        side.check_promise()


@needs_root
@pytest.mark.parametrize("what", ["room", "inodes"])
def test_on_a_full_disk_jobs_do_not_fail_one_after_the_other(what: str, tmp_path: Path) -> None:
    """On a full disk, jobs wait instead of failing one after the other.

    Only their output needs room: their bodies are written over those of earlier jobs.
    """
    with small_disk(tmp_path, "size=4m,nr_inodes=900") as side:
        pool = side.pool("--count", "2", log_in=tmp_path).up()
        for number in range(40):  # so that there are bodies to write over
            side.submit("echo", id=f"before{number}")
        side.wait_for("before39")
        gate = tmp_path / "gate"
        waits = f"while [ ! -e {gate} ]; do sleep 0.02; done; echo out || exit 1"
        running = [side.submit(waits, max_retries=1) for _ in range(2)]
        wait_until(lambda: all(job_id in pool.log() for job_id in running), "they run")
        waiting = [side.submit("echo out; sleep 0.01", max_retries=1) for _ in range(30)]
        fillers = fill_up(side, what, left=60)
        gate.touch()
        pool.says("No inodes left on device" if what == "inodes" else "No space left on device")
        assert "stalled" in side.run("status").stdout
        claimed = next(job_id for job_id in waiting if side.state_of(job_id) == "processing")
        told = side.run("doctor", claimed).stdout
        assert f"{claimed} is claimed by " in told
        assert STALLED in told
        time.sleep(1.5)
        assert not [job_id for job_id in waiting if side.state_of(job_id) in ("failed", "dead")]
        shutil.rmtree(fillers)
        for job_id in waiting:
            assert side.wait_for(job_id)["attempts"] == 1
        pool.says("resumed")
        if what == "room":  # these had their output files, and no room in them
            why = "exit status 1 (no room was left on the disk)"
            assert {side.wait_for(job_id, "dead")["error_message"] for job_id in running} == {why}
        pool.stop()


@needs_root
def test_a_file_system_that_tells_of_no_limit_is_not_full(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=0") as side:
        assert os.statvfs(side.path).f_blocks == 0
        job_id = side.submit("echo out")
        side.drain()
        assert side.state_of(job_id) == "completed"
        assert "ok       no size limit" in side.run("doctor").stdout
        metrics = side.run("status", "--format", "prometheus").stdout
        assert "\nqueuectl_jobs" in metrics
        assert "\nqueuectl_free_bytes" not in metrics  # 0 would be an alarm


@needs_root
def test_a_full_file_system_of_the_output_alone_is_named(side: Spoolside) -> None:
    with mounted(side.path / "logs", "-t", "tmpfs", "-o", "size=512k,mode=700", "none"):
        side.submit("echo out")
        pool = side.pool().up()
        pool.says(f"{side.path}/logs: No space left on device; waiting")
        assert re.search(r"free, \d+ inodes in logs/  \(make room", side.run("doctor").stdout)
        pool.stop()


@needs_root
@pytest.mark.parametrize("how", ["stop", "pause", "cancel"])
def test_what_waits_for_room_is_given_back_or_ended_when_told(how: str, tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=4m,nr_inodes=300") as side:
        pool = side.pool("--count", "1", log_in=tmp_path).up()
        soon = utc_text(time.time() + 1)
        job_id = side.submit("echo out", run_at=soon)
        filler = side.path.parent / "filler"
        fill(filler)
        pool.says("stalled")
        os.truncate(filler, filler.stat().st_size - (1 << 16))  # for requests
        if how == "cancel":
            assert side.run("cancel", job_id).returncode == 0
            assert side.wait_for(job_id, "dead")["attempts"] == 0
        else:
            if how == "pause":
                assert side.run("pause").returncode == 0
            else:
                pool.send(signal.SIGTERM)
            wait_until(lambda: side.state_of(job_id) == "pending", pool.log)
            assert side.spool.find(job_id).job.attempts == 0
        pool.stop()


@needs_root
def test_who_can_do_nothing_shows_so_where_there_is_no_file_to_be_had(tmp_path: Path) -> None:
    with disk_of(tmp_path, "ext4") as disk:
        spool = Spool(make_spool(disk.point / "q"))
        numbers = count()
        with Registration(spool, 1) as me:
            fill_with(lambda: open(disk.point / f"{next(numbers)}", "x").close())
            me.show_stalled(stalled=True)
            assert owners.is_stalled(spool, me.name)
            me.show_stalled(stalled=False)
            assert not owners.is_stalled(spool, me.name)


@needs_root
def test_a_stop_on_a_full_disk_is_told_with_another_way_that_works(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=4m,nr_inodes=400") as side:
        side.submit("sleep 600", tags=["x" * 5000])
        pool = side.pool("--count", "1", log_in=tmp_path).up()
        wait_until(lambda: side.runs.exists() and "start" in side.runs.read_text(), "it runs")
        fill(side.path.parent / "filler")
        done = side.run("worker", "stop", "--now")
        assert done.returncode == 1
        assert f"No space left on device; `kill {pool.process.pid}` asks it too" in done.stderr
        for asked in ("a second signal ends them", "ending 1"):
            pool.send(signal.SIGTERM)
            pool.says(asked)
        assert pool.wait() == 0, pool.log()


@needs_root
@pytest.mark.parametrize("what", ["room", "inodes"])
def test_what_fills_a_disk_is_ended_by_a_cancel_and_nothing_follows_a_pause(
    what: str, tmp_path: Path
) -> None:
    with disk_of(tmp_path, "ext4") as disk, Spoolside(make_spool(disk.point / "q")) as side:
        job_id = side.submit("sleep 600", tags=["x" * 5000])
        pool = side.pool("--count", "1", log_in=tmp_path).up()
        pool.says("started")
        running = processes_with(f"QUEUECTL_SPOOL={side.path}")
        fillers = fill_up(side, what)
        with Child([*command_line("--spool", str(side.path)), "cancel", job_id]) as cancelling:
            wait_until(lambda: not any(map(alive, running)), pool.log)
            assert side.run("pause").returncode == (0 if what == "room" else 1)
            shutil.rmtree(fillers)
            assert cancelling.wait(DEADLINE_S) == 0
        assert str(side.wait_for(job_id, "dead")["error_message"]).startswith("cancelled")
        pool.stop()


@needs_root
def test_who_cancels_what_runs_on_a_full_disk_is_told_why_it_takes_so_long(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=4m,nr_inodes=400") as side:
        job_id = side.submit("sleep 600", tags=["x" * 5000])
        pool = side.pool("--count", "1", log_in=tmp_path).up()
        pool.says("started")
        filler = side.path.parent / "filler"
        fill(filler)
        said = tmp_path / "said"
        words = [*command_line("--spool", str(side.path)), "cancel", job_id]
        with said.open("wb") as file, Child(words, stderr=file) as cancelling:
            pool.says("cannot record the outcome")
            wait_until(lambda: STALLED in said.read_text())
            time.sleep(1.5)  # it looks once more
            assert STALLED in side.run("doctor", job_id).stdout
            filler.unlink()
            assert cancelling.wait(DEADLINE_S) == 0
        assert said.read_text().count(STALLED) == 1
        pool.stop()


@needs_root
def test_who_stops_what_cannot_record_an_outcome_is_not_told_to_give_it_up(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=4m,nr_inodes=400") as side:
        gate = tmp_path / "gate"
        job_id = side.submit(f"while [ ! -e {gate} ]; do sleep 0.02; done", tags=["x" * 5000])
        pool = side.pool("--count", "1", log_in=tmp_path).up()
        pool.says("started")
        filler = side.path.parent / "filler"
        fill(filler)
        gate.touch()
        pool.says("cannot record the outcome")
        said = tmp_path / "said"
        words = [*command_line("--spool", str(side.path)), "worker", "stop"]
        with said.open("wb") as file, Child(words, stderr=file) as stopping:
            wait_until(lambda: f"not recorded: {job_id}\n" in said.read_text())
            filler.unlink()
            assert stopping.wait(DEADLINE_S) == 0
        assert STALLED in said.read_text()
        assert side.state_of(job_id) == "completed"


@needs_root
@pytest.mark.parametrize("options", ["size=4m,nr_inodes=400", "size=4m,nr_inodes=0"])
def test_enqueue_on_a_full_disk_is_refused_in_one_line_and_leaves_nothing(
    options: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path, options) as side:
        fill(side.path.parent / "filler")
        done = side.run("enqueue", "--id", "one", "--", "/bin/true")
        assert done.returncode == 1, done
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
        assert "No space left" in done.stderr
        side.check_promise()


@pytest.mark.parametrize("limit", [0, 1], ids=["nothing", "a part of it is written"])
def test_a_limit_on_the_size_of_files_refuses_and_damages_nothing(
    side: Spoolside, limit: int
) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'ulimit -f {limit}; exec "$@"',
            "-",
            *command_line("--spool", str(side.path)),
            "enqueue",
            "--",
            "true",
            "x" * 5000,
        ],
        capture_output=True,
        text=True,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    side.drain()
    side.check_promise()


# --- no descriptors, no events ----------------------------------------------------------------


def test_a_pool_with_sixteen_descriptors_runs_everything_once(side: Spoolside) -> None:
    for _ in range(12):
        side.submit("sleep 0.05")
    pool = side.pool("--count", "8", "--stop-when-empty", preexec_fn=limits(nofile=16))
    assert pool.wait() == 0, pool.log()
    side.check_promise()
    assert set(side.times_run().values()) == {1}


def test_a_reload_with_no_descriptor_left_to_tell_of_it_stops_nothing(
    side: Spoolside, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    for _ in range(12):
        side.submit(f"while [ ! -e {gate} ]; do sleep 0.02; done")
    env = environment(NOTIFY_SOCKET=f"{tmp_path}/notify")  # the pool has somebody to notify
    options = ("--count", "12", "--stop-when-empty")
    pool = side.pool(*options, env=env, preexec_fn=limits(nofile=16))
    pool.says("Too many open files")
    pool.send(signal.SIGHUP)
    pool.says("reloaded")
    gate.touch()
    assert pool.wait() == 0, pool.log()
    side.check_promise()
    assert set(side.times_run().values()) == {1}


def own_inotify_limit() -> list[str]:
    """Return the words that run a program where it can get no inotify instance."""
    script = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "-"]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    done = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no user namespaces: {done.stderr.strip()}")
    return words


def test_without_inotify_a_pool_warns_once_and_polls(side: Spoolside) -> None:
    pool = side.pool("--count", "1", before=own_inotify_limit()).up()
    pool.says("no file system events")
    job_id = side.submit()
    side.wait_for(job_id)
    pool.stop()
    assert pool.log().count("no file system events") == 1
    side.check_promise()


def test_a_pool_that_would_signal_other_processes_than_it_sees_does_not_start(
    side: Spoolside,
) -> None:
    words = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("no namespaces")
    job_id = side.submit()
    pool = side.pool("--stop-when-empty", before=words)
    assert pool.wait() == 1
    why = "/proc is that of other processes: mount one"
    assert why in pool.log()
    assert (side.path / "pending" / f"{job_id}.json").exists()
    doctor = [*words, *command_line(), "doctor"]
    told = subprocess.run(
        doctor, env=environment(str(side.path)), stdout=subprocess.PIPE, text=True, check=False
    )
    assert told.returncode == 1
    assert f"problem  {why}" in told.stdout


@pytest.mark.slow
def test_all_jobs_run_after_the_queue_of_events_ran_over(side: Spoolside) -> None:
    pool = side.pool("--count", "4").up()
    pool.send(signal.SIGSTOP)
    noise = side.path / "pending" / ".noise"
    for _ in range(_OVERFLOW // 2 + 2000):  # two events each: create and close
        noise.write_bytes(b"x")
        noise.unlink()
    for number in range(20):
        side.drop(f"after-{number}")
    pool.send(signal.SIGCONT)
    for job_id in side.accepted:
        side.wait_for(job_id)
    pool.stop()
    side.check_promise()


# --- directories that go away -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["pending", "failed", "completed", "tmp", "logs", "processing"])
def test_a_directory_removed_while_running_is_made_again_and_jobs_go_on(
    name: str, side: Spoolside
) -> None:
    pool = side.pool("--count", "2").up()
    shutil.rmtree(side.path / name)
    pool.says(f"{name}/ was gone")
    wait_until((side.path / name).is_dir, f"{name}/ is there again")
    side.wait_for(side.submit())
    side.drop("dropped")
    side.wait_for("dropped")
    pool.stop()
    side.check_promise()


def test_a_state_directory_swapped_while_running_is_watched_anew(side: Spoolside) -> None:
    pool = side.pool("--count", "2").up()
    other = side.path / "other"
    other.mkdir(mode=0o700)
    (side.path / "pending").rename(side.path.parent / "old-pending")
    other.rename(side.path / "pending")
    side.drop("after-the-swap")
    side.wait_for("after-the-swap")
    pool.stop()
    side.check_promise()


def test_a_live_pool_without_its_worker_files_is_not_taken_for_dead(tmp_path: Path) -> None:
    with Spoolside(make_spool(tmp_path / "q", lease=3)) as side:
        gate = tmp_path / "gate"
        job_id = side.submit(f"while [ ! -e {gate} ]; do sleep 0.02; done")
        first = side.pool("--count", "1").up()
        wait_until(lambda: side.times_run()[job_id], "it runs")
        for file in (side.path / "workers").iterdir():
            file.unlink()
        second = side.pool("--count", "1").up()
        wait_until(lambda: len(list((side.path / "workers").glob("*.json"))) == 2, "it is back")
        gate.touch()
        side.wait_for(job_id)
        first.stop()
        second.stop()
        assert side.times_run() == {job_id: 1}
        side.check_promise()


# --- what cannot be written to ----------------------------------------------------------------


@needs_root
def test_a_read_only_spool_is_refused_for_writing_and_can_be_looked_at(
    side: Spoolside, tmp_path: Path
) -> None:
    job_id = side.submit()
    with mounted(tmp_path / "ro", "--bind", side.path) as point:
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
        with Spoolside(point) as closed:
            for words in (("enqueue", "--", "true"), ("worker", "start", "--stop-when-empty")):
                done = closed.run(*words)
                assert done.returncode == 1, done
                assert done.stderr.count("\n") == 1, done.stderr
                assert "Read-only" in done.stderr
            for looking in (["status"], ["list"], ["show", job_id], ["resume"]):
                done = closed.run(*looking)
                assert done.returncode == 0, done.stderr
    side.drain()
    side.check_promise()


@needs_root
def test_jobs_run_where_their_output_cannot_be_kept(side: Spoolside) -> None:
    job_id = side.submit("echo lost")
    with mounted(side.path / "logs", "-t", "tmpfs", "-o", "ro,mode=700", "none"):
        pool = side.pool("--stop-when-empty")
        assert pool.wait() == 0, pool.log()
        assert "output is lost" in pool.log()
    record = side.wait_for(job_id)
    assert [record["exit_code"], record["stdout_path"], record["stderr_path"]] == [0, None, None]
    side.check_promise()


@needs_root
def test_a_command_without_output_that_kills_its_pool_is_not_run_without_end(
    side: Spoolside,
) -> None:
    killer = side.submit("kill -9 $PPID", max_retries=2)
    with mounted(side.path / "logs", "-t", "tmpfs", "-o", "ro,mode=700", "none"):
        for _ in range(2):
            assert side.pool("--stop-when-empty").wait() != 0
        assert side.pool("--stop-when-empty").wait() == 0
    record = side.wait_for(killer, "dead")
    assert [record["attempts"], record["error_message"][:11]] == [2, "worker lost"]
    assert [record["stdout_path"], record["stderr_path"]] == [None, None]
    assert side.times_run() == {killer: 2}


def test_a_log_that_takes_nothing_stops_no_job(side: Spoolside) -> None:
    for _ in range(3):
        side.submit()
    with open("/dev/full", "wb") as full:
        pool = side.pool("--stop-when-empty", stderr=full)
        assert pool.wait() == 0
    side.check_promise()


_FULL_FOR_A_WHILE = """
import os, resource, sys
from queuectl.workers.worklog import WorkLog
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
log = WorkLog(file, as_json=sys.argv[2] == "json")
log.event("completed", "first")
resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(sys.argv[1]).st_size + 20, -1))
log.event("completed", "cut")
log.event("completed", "missing")
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
log.event("completed", "last")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_that_was_full_goes_on_in_a_new_line_and_says_what_is_missing(
    form: str, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", _FULL_FOR_A_WHILE, path, form], check=True)
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    assert "2 lines are missing here: the log could not be written" in lines[2]
    assert "last" in lines[3]
    if form == "json":
        assert [json.loads(line)["event"] for line in (lines[0], *lines[2:])] == [
            *("completed", "warning", "completed")
        ]


@needs_strace
def test_what_was_run_again_while_its_output_was_deleted_is_not_deleted(side: Spoolside) -> None:
    side.pool().up()
    job_id = side.submit()
    side.wait_for(job_id, "completed")
    output = side.path / "logs" / f"{job_id}.1.out"
    stops = "inject=unlink:signal=STOP"  # as if it took long, on a slow disk
    words = ["strace", "-o", os.devnull, "-P", str(output), "-e", "trace=unlink", "-e", stops]
    prune = command_line("--spool", str(side.path), "prune", "--yes", "--keep", "0")
    env = environment(str(side.path))  # by which it is found and ended if the test fails
    with Child([*words, *prune], env=env, stdout=subprocess.PIPE) as pruning:
        wait_until(lambda: not output.exists(), "it is being deleted")
        assert side.run("retry", job_id).returncode == 0
        wait_until(lambda: side.times_run()[job_id] == 2, "it is run again")
        side.wait_for(job_id, "completed")
        traced = read_text(f"/proc/{pruning.pid}/task/{pruning.pid}/children")
        os.kill(int(traced), signal.SIGCONT)
        assert pruning.stdout is not None
        assert job_id.encode() not in pruning.stdout.read()
    assert side.state_of(job_id) == "completed"


@needs_root
def test_on_a_full_disk_doctor_says_to_make_room(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=4m,nr_inodes=400") as side:
        fill(side.path.parent / "filler")
        text = side.run("doctor").stdout
        assert "cannot write a file: No space left on device  (make room, and look again)" in text
        assert "put the spool on a local" not in text
