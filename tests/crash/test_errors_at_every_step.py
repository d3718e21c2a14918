"""An error in each file system call: a command line refuses clearly, a pool outlives it."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from tests.crash.support import Spoolside, make_spool, places
from tests.crash.tracing import (
    STEADY,
    Point,
    failed_descriptors_asked_again,
    inject,
    needs_strace,
    points,
    trace,
)
from tests.support import environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    TellFaults = Callable[[int], None]

ERRORS = ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EINTR", "EMFILE")
NAMES = (
    "openat",
    "write",
    "fsync",
    "fdatasync",
    "close",
    "rename",
    "renameat2",
    "link",
    "linkat",
    "unlink",
)
ENQUEUE = ("enqueue", "--id", "one", "--", "/bin/true")


def every(cases: Iterable[tuple[Point, str]], check: Callable[[Point, str], str]) -> int:
    """Check each pair of a point and an error, some at a time, and return how many there were."""
    with ThreadPoolExecutor(4) as threads:
        said = list(threads.map(lambda case: check(*case), cases))
    bad = [text for text in said if text]
    assert len(said) > 5
    assert not bad, f"{len(bad)} of {len(said)}:\n" + "\n".join(bad[:12])
    return len(said)


def some(found: Sequence[Point]) -> list[tuple[Point, str]]:
    """Return each point with one error; the errors take turns."""
    return list(zip(found, cycle(ERRORS), strict=False))


def all_of(found: Sequence[Point]) -> list[tuple[Point, str]]:
    """Return each point with each error."""
    return [(point, error) for point in found for error in ERRORS]


# --- enqueue ----------------------------------------------------------------------------------


def enqueue_points(directory: Path) -> list[Point]:
    log = directory / "counted.trace"
    with Spoolside(make_spool(directory / "counted")) as side:
        side.run(*ENQUEUE, before=trace(log, *NAMES), env=STEADY)
        found = points(log, side.path, NAMES)
    # without the output, which comes after everything, and without the interpreter's own files
    return [p for p in found if "write(1," not in p.line and "/lib/" not in p.line]


def refused_enqueue(directory: Path) -> Callable[[Point, str], str]:
    def check(point: Point, error: str) -> str:
        name = f"{point.name}-{point.number}-{error}"
        log = directory / f"{name}.trace"
        with Spoolside(make_spool(directory / name)) as side:
            before = inject(log, point, f"error={error}", "fsync", "fdatasync", "close")
            done = side.run(*ENQUEUE, before=before, env=STEADY)
            try:
                judge_enqueue(side, done, point)
                assert not failed_descriptors_asked_again(log)
            except AssertionError as fault:
                return f"{point} {error}: {fault}\n  said: {done.stderr[-300:]!r}"
        return ""

    return check


def judge_enqueue(side: Spoolside, done: subprocess.CompletedProcess[str], point: Point) -> None:
    """Check that the job is queued and its id printed, or that it is not and one line says why."""
    there = places(side.path).get("one", [])
    if done.returncode == 0:
        assert done.stdout == "one\n"
        assert len(there) == 1
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("queuectl: "), "not our line"
        assert done.stderr.count("\n") == 1, "more than a line"
        assert not there, "refused, and there all the same"
    if point.name not in ("unlink", "close"):  # then a draft is left, for the pools to clear
        left = [file.name for file in (side.path / "tmp").iterdir()]
        assert not left, f"in tmp/: {left}"
    side.drain()
    side.accepted = done.stdout.split()
    side.check_promise()


@needs_strace
def test_an_enqueue_that_meets_an_error_at_any_call_is_refused_in_one_line(
    tmp_path: Path, tell_faults: TellFaults
) -> None:
    tell_faults(every(some(enqueue_points(tmp_path)), refused_enqueue(tmp_path)))


@needs_strace
@pytest.mark.slow
def test_an_enqueue_that_meets_any_error_at_any_call_is_refused_in_one_line(
    tmp_path: Path, tell_faults: TellFaults
) -> None:
    tell_faults(every(all_of(enqueue_points(tmp_path)), refused_enqueue(tmp_path)))


# --- what is done to many jobs ----------------------------------------------------------------

MANY = [f"job{number:02}" for number in range(20)]
# without close: the interpreter's own cannot be told from ours
RETRY_NAMES = tuple(name for name in NAMES if name != "close")


def prepare_many(directory: Path) -> Path:
    path = make_spool(directory / "template")
    for job_id in MANY:
        (path / "dead" / f"{job_id}.json").write_text('{"command": "/bin/true", "state": "dead"}')
    return path


def retry_points(directory: Path, template: Path) -> list[Point]:
    log = directory / "counted.trace"
    with Spoolside(shutil.copytree(template, directory / "counted")) as side:
        side.run("retry", *MANY, before=trace(log, *RETRY_NAMES), env=STEADY)
        found = points(log, side.path, RETRY_NAMES)
    return [p for p in found if "write(1," not in p.line and "/lib/" not in p.line]


def hardy_retry(directory: Path, template: Path) -> Callable[[Point, str], str]:
    def check(point: Point, error: str) -> str:
        name = f"{point.name}-{point.number}-{error}"
        log = directory / f"{name}.trace"
        with Spoolside(shutil.copytree(template, directory / name)) as side:
            before = inject(log, point, f"error={error}", "fsync", "fdatasync", "close")
            done = side.run("retry", *MANY, before=before, env=STEADY)
            try:
                judge_retry(side, done)
                assert not failed_descriptors_asked_again(log)
            except AssertionError as fault:
                return f"{point} {error}: {fault}\n  said: {done.stderr[-300:]!r}"
        return ""

    return check


def judge_retry(side: Spoolside, done: subprocess.CompletedProcess[str]) -> None:
    """Check that printed ids are queued, and that every other job is in one place and can go on."""
    told = done.stdout.split()
    if done.returncode == 0:
        assert told == MANY
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("queuectl: "), "not our line"
    found = places(side.path)
    assert [job_id for job_id in MANY if len(found.get(job_id, [])) != 1] == []
    queued = {job_id for job_id in MANY if side.state_of(job_id) == "pending"}
    assert queued.issuperset(told)
    if queued - set(told):
        assert "are retried now" in done.stderr, "queued, and nothing says so"
    side.drain()
    side.accepted = MANY
    side.check_promise(("completed", "dead"))
    assert [job_id for job_id in told if side.state_of(job_id) != "completed"] == []


@needs_strace
@pytest.mark.parametrize("stride", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_a_retry_of_many_that_meets_an_error_at_any_call_loses_none(
    stride: int, tmp_path: Path, tell_faults: TellFaults
) -> None:
    template = prepare_many(tmp_path)
    cases = some(retry_points(tmp_path, template))[::stride]
    tell_faults(every(cases, hardy_retry(tmp_path, template)))


# --- pause ------------------------------------------------------------------------------------

PAUSE_NAMES = (*RETRY_NAMES, "read")


def prepare_held(directory: Path) -> Path:
    """Return a spool with a job that a dead worker holds."""
    path = make_spool(directory / "template")
    with Spoolside(path) as side:
        side.drop("held", "sleep 1000")
        pool = side.pool().up()
        wait_until(lambda: side.state_of("held") == "processing")
        pool.kill()
    return path


def pause_points(directory: Path, template: Path) -> list[Point]:
    log = directory / "counted.trace"
    with Spoolside(shutil.copytree(template, directory / "counted")) as side:
        side.run("pause", before=trace(log, *PAUSE_NAMES), env=STEADY)
        found = points(log, side.path, PAUSE_NAMES)
    return [p for p in found if "write(1," not in p.line and "/lib/" not in p.line]


def honest_pause(directory: Path, template: Path) -> Callable[[Point, str], str]:
    def check(point: Point, error: str) -> str:
        name = f"{point.name}-{point.number}-{error}"
        with Spoolside(shutil.copytree(template, directory / name)) as side:
            before = inject(directory / f"{name}.trace", point, f"error={error}")
            done = side.run("pause", before=before, env=STEADY)
            says = done.stdout.startswith("paused;") or "it is paused now" in done.stderr
            if (side.path / "paused").exists() == says:
                return ""
        return f"{point} {error}: {done.returncode} {done.stdout!r} {done.stderr!r}"

    return check


@needs_strace
def test_a_pause_that_meets_an_error_at_any_call_says_whether_it_is_paused(
    tmp_path: Path, tell_faults: TellFaults
) -> None:
    template = prepare_held(tmp_path)
    cases = all_of(pause_points(tmp_path, template))[::3]
    tell_faults(every(cases, honest_pause(tmp_path, template)))


# --- a pool -----------------------------------------------------------------------------------

POOL_NAMES = (*(name for name in NAMES if name not in ("openat", "close")), "io_submit")
# where the kernel has no queue for fsyncs, threads call fsync, and each call is a step of its own
QUEUES: dict[str, tuple[str, ...]] = {
    "fsyncs queued": (),
    "fsyncs in threads": ("-e", "inject=io_setup:error=ENOSYS"),
}
in_both_ways = pytest.mark.parametrize(
    "queue",
    ["fsyncs queued", pytest.param("fsyncs in threads", marks=pytest.mark.slow)],
)


def prepare(directory: Path) -> Path:
    path = make_spool(directory / "template")
    with Spoolside(path) as side:
        side.spool.submit(["/bin/true"], id="good")
        side.spool.submit(["/bin/false"], id="fails", max_retries=2)
        side.drop_bytes("bad", b"[1]")
    return path


def pool_points(directory: Path, template: Path, queue: str) -> list[Point]:
    log = directory / "counted.trace"
    with Spoolside(shutil.copytree(template, directory / "counted")) as side:
        before = [*trace(log, *POOL_NAMES, "io_setup"), *QUEUES[queue]]
        pool = side.pool("--count", "2", "--stop-when-empty", before=before, env=STEADY)
        assert pool.wait() == 0, pool.log()
        found = points(log, side.path, POOL_NAMES)
    # without the log, and without the bytes that the pool writes to itself: no files of the spool
    return [p for p in found if not re.match(r'write\((2,|\d+, "w", 1\))', p.line)]


def hardy_pool(directory: Path, template: Path, queue: str) -> Callable[[Point, str], str]:
    def check(point: Point, error: str) -> str:
        name = f"{point.name}-{point.number}-{error}"
        log = directory / f"{name}.trace"
        with Spoolside(shutil.copytree(template, directory / name)) as side:
            side.accepted = ["good", "fails"]
            also = ("fsync", "fdatasync", "close", "io_setup")
            before = [*inject(log, point, f"error={error}", *also), *QUEUES[queue]]
            pool = side.pool("--count", "2", "--stop-when-empty", before=before, env=STEADY)
            try:
                judge_pool(side, pool.wait(), pool.log())
                assert not failed_descriptors_asked_again(log)
            except AssertionError as fault:
                return f"{point} {error}: {fault}\n  said: {pool.log()[-600:]}"
        return ""

    return check


def judge_pool(side: Spoolside, status: int, log: str) -> None:
    assert "Traceback" not in log
    if " up " in log:  # a pool that cannot even register says why and leaves
        assert status == 0, f"it left with {status}"
    side.drain()
    side.check_promise(("completed", "dead"))
    assert (side.state_of("good"), side.state_of("fails")) == ("completed", "dead")


@pytest.mark.slow
@needs_strace
@in_both_ways
def test_a_pool_that_meets_an_error_goes_on_when_it_is_over(
    queue: str, tmp_path: Path, tell_faults: TellFaults
) -> None:
    template = prepare(tmp_path)
    cases = some(pool_points(tmp_path, template, queue))[::3]
    tell_faults(every(cases, hardy_pool(tmp_path, template, queue)))


@needs_strace
@pytest.mark.slow
@in_both_ways
def test_a_pool_that_meets_an_error_at_any_call_goes_on_when_it_is_over(
    queue: str, tmp_path: Path, tell_faults: TellFaults
) -> None:
    template = prepare(tmp_path)
    cases = some(pool_points(tmp_path, template, queue))
    tell_faults(every(cases, hardy_pool(tmp_path, template, queue)))


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("error", ["EIO", pytest.param("ENOSPC", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "refused", ["io_setup:error=ENOSYS", "io_submit:error=EAGAIN"], ids=["threads wait", "it waits"]
)
def test_a_pool_waits_while_nothing_can_be_synced_and_runs_each_job_once(
    refused: str, error: str, tmp_path: Path
) -> None:
    with Spoolside(make_spool(tmp_path / "q")) as side:
        for _ in range(3):
            side.submit()
        before = [
            *trace(tmp_path / "trace", "fsync", "io_setup", "io_submit"),
            *("-e", f"inject=fsync:error={error}:when=1..4"),
            *("-e", f"inject={refused}"),
        ]
        pool = side.pool("--stop-when-empty", before=before, env=STEADY)
        assert pool.wait() == 0, pool.log()
        assert "stalled" in pool.log()
        side.check_promise()
        assert set(side.times_run().values()) == {1}


# --- a rename that is done and reported as failed ---------------------------------------------

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>
/* What a client of NFS sees when an answer was lost and the question sent again. */
int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    if (real(from, to) != 0) return -1;
    errno = ENOENT;
    return -1;
}
int link(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "link");
    if (real(from, to) != 0) return -1;
    errno = EEXIST;
    return -1;
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    int (*real)(int, const char *, int, const char *, int) = dlsym(RTLD_NEXT, "linkat");
    if (real(a, from, b, to, flags) != 0) return -1;
    errno = EEXIST;
    return -1;
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    errno = EINVAL;
    return -1;
}
"""


@pytest.fixture
def forgetful(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which renames and links are done and reported as failed."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    source, library = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return environment(LD_PRELOAD=str(library))


def test_a_job_runs_once_where_every_rename_is_done_and_reported_lost(
    side: Spoolside, forgetful: dict[str, str]
) -> None:
    done = side.run("enqueue", "--id", "one", "--command", side.command(), env=forgetful)
    assert done.stdout == "one\n", done.stderr
    side.accepted.append("one")
    pool = side.pool("--stop-when-empty", env=forgetful)
    assert pool.wait() == 0, pool.log()
    side.check_promise()
    assert side.times_run() == {"one": 1}


def test_a_taken_id_is_still_refused_where_every_link_is_reported_lost(
    side: Spoolside, forgetful: dict[str, str]
) -> None:
    side.submit(id="one")
    done = side.run("enqueue", "--id", "one", "--", "/bin/false", env=forgetful)
    assert done.returncode == 1
    side.drain()
    side.check_promise()
