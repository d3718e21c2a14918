"""Changing many jobs at a time: together, and each as if it were alone."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from queuectl import QueuectlError, Spool, kernel
from queuectl.errors import NoSuchJobError, SpoolError
from queuectl.jobs import verbs
from queuectl.jobs.cancelling import Cancelling
from queuectl.system import moving
from queuectl.workers.registration import Registration
from tests.support import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuectl.spool.layout import Found, Held
    from tests.support import SpoolDir


def many_dead(api: Spool, count: int = 20) -> list[str]:
    """Make `count` dead jobs, by default more than one thread syncs; return their ids."""
    job_ids = [f"j{number:02}" for number in range(count)]
    for job_id in job_ids:
        put_dead(api, job_id)
    return job_ids


def put_dead(api: Spool, job_id: str) -> None:
    with open(api.file("dead", job_id), "w") as file:
        file.write('{"command": "true", "state": "dead"}')


def fails(job_id: str, error: QueuectlError) -> NoReturn:
    pytest.fail(f"{job_id}: {error}")


def call_first(patched: pytest.MonkeyPatch, name: str, first: Callable[[Any], None]) -> None:
    """Have `first` called before each call of a function of `kernel`."""
    call = getattr(kernel, name)

    def both(descriptor: int) -> None:
        first(descriptor)
        call(descriptor)

    patched.setattr(kernel, name, both)


def test_what_is_done_to_many_waits_once_for_each_directory(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_ids = many_dead(api)
    directories: list[str] = []
    call_first(
        monkeypatch, "sync", lambda one: directories.append(os.readlink(f"/proc/self/fd/{one}"))
    )
    assert list(verbs.retry(api, job_ids, ("dead",))) == job_ids
    assert directories == [f"{spool.path}/pending", f"{spool.path}/processing"]
    assert spool.ids("pending") == job_ids
    assert spool.leftovers() == []


def test_an_id_is_told_once_its_job_is_there_and_others_are_taken_later(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_ids = many_dead(api, 5)
    monkeypatch.setattr(verbs, "_TOGETHER", 2)
    there = [(job_id, len(spool.ids("pending"))) for job_id in verbs.retry(api, job_ids, ("dead",))]
    assert there == list(zip(job_ids, (2, 2, 4, 4, 5), strict=True))


def test_what_is_refused_to_one_of_many_is_raised_once_the_others_are_told(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_ids = many_dead(api)

    def refuse_two(descriptor: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        if name.startswith(("j03@", "j07@")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    call_first(monkeypatch, "sync_data", refuse_two)
    told: list[str] = []
    with pytest.raises(SpoolError, match=f"j03.*: {os.strerror(errno.EIO)}"):
        told.extend(verbs.retry(api, job_ids, ("dead",), fails))
    assert spool.ids("dead") == ["j03", "j07"]
    assert told == spool.ids("pending") == sorted({*job_ids} - {"j03", "j07"})
    assert spool.leftovers() == []


def test_a_directory_that_cannot_be_synced_has_nothing_told(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_ids = many_dead(api)

    def refuse(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == f"{spool.path}/pending":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    call_first(monkeypatch, "sync", refuse)
    retried = verbs.retry(api, job_ids, ("dead",))
    with pytest.raises(SpoolError, match=os.strerror(errno.EIO)):
        next(retried)
    assert all(len(spool.states(job_id)) == 1 for job_id in job_ids)


@pytest.mark.parametrize("at", ["sync_data", "sync"])
def test_an_interrupt_puts_back_what_was_only_taken(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    job_ids = many_dead(api, 8)

    def interrupt(_descriptor: int) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        call_first(patched, at, interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(verbs.retry(api, job_ids, ("dead",)))
    assert spool.ids("dead" if at == "sync_data" else "pending") == job_ids
    assert spool.leftovers() == []


class AlarmError(Exception):
    """An error that a program's signal handler may raise, in any line."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, AlarmError])
@pytest.mark.parametrize(
    ("behind", "at", "queued"),
    [
        ("move_contended", "/processing/j01@", []),
        ("move", "/processing/j01@", ["j00", "j01"]),
        ("move_new", "/pending/j01", ["j00", "j01"]),
    ],
    ids=["take", "rewrite", "release"],
)
def test_an_interrupt_right_behind_a_rename_leaves_no_job_held(
    api: Spool,
    spool: SpoolDir,
    monkeypatch: pytest.MonkeyPatch,
    *,
    behind: str,
    at: str,
    queued: list[str],
    error: type[BaseException],
) -> None:
    job_ids = many_dead(api, 3)
    rename = getattr(moving, behind)

    def renamed_and_interrupted(source: str, target: str) -> None:
        rename(source, target)
        if at in target:
            raise error

    with monkeypatch.context() as patched:
        patched.setattr(moving, behind, renamed_and_interrupted)
        with pytest.raises(error):
            list(verbs.retry(api, job_ids, ("dead",)))
    if error is KeyboardInterrupt:  # at another error, the jobs taken with it go on
        assert spool.ids("pending") == queued
    assert spool.ids("processing") == []
    assert sorted(spool.ids("pending") + spool.ids("dead")) == job_ids
    assert spool.leftovers() == []


def test_an_interrupt_puts_back_what_was_taken_whatever_its_body_says(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body may name another state than the directory, as after `mv failed/job.json dead/`."""
    spool.drop_bytes("job", b'{"command": "true", "state": "failed"}', "dead")

    def interrupt(_descriptor: int) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        call_first(patched, "sync_data", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(verbs.retry(api, ["job"], ("dead",)))
    assert spool.states("job") == ["dead"]


def test_an_interrupt_replaces_nothing_that_has_come_into_the_place_of_a_job(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_dead(api, "job")
    take = moving.move_contended

    def taken_and_interrupted(source: str, target: str) -> None:
        take(source, target)
        spool.drop_bytes("job", b'{"command": "another"}', "dead")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(moving, "move_contended", taken_and_interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(verbs.retry(api, ["job"], ("dead",)))
    assert spool.record("dead", "job")["command"] == "another"
    assert spool.ids("processing") == ["job"]


def test_many_are_done_where_threads_or_descriptors_are_few(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_ids = many_dead(api, 50)

    def no_thread(_thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    list(verbs.retry(api, job_ids[:1], ("dead",)))  # the first time imports modules
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 15, limits[1]))
    try:
        assert list(verbs.retry(api, job_ids[1:], ("dead",))) == job_ids[1:]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert spool.ids("pending") == job_ids


@pytest.mark.parametrize("descriptors", [16, 24, 32, 50])
def test_many_are_done_by_a_command_that_has_few_descriptors(
    api: Spool, spool: SpoolDir, descriptors: int
) -> None:
    job_ids = many_dead(api, 64)
    limited = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "-"]
    command = [*limited, *spool.command("retry", *job_ids)]
    done = subprocess.run(command, env=environment(spool.path), capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, job_ids, "")


@pytest.mark.parametrize("descriptors", [20, 50])
def test_many_that_wait_are_cancelled_by_a_command_that_has_few_descriptors(
    api: Spool, spool: SpoolDir, descriptors: int
) -> None:
    """All are cancelled, although those for which no descriptor is left have to be given back.

    Jobs are taken before they are read.
    """
    job_ids = [api.submit("true", id=f"j{number:03}").id for number in range(100)]
    limited = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "-"]
    command = [*limited, *spool.command("cancel", *job_ids)]
    done = subprocess.run(command, env=environment(spool.path), capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, job_ids, "")
    assert spool.ids("dead") == job_ids
    assert spool.leftovers() == []


def test_an_edit_of_a_dead_job_is_told_once_it_is_on_disk(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_dead(api, "job")
    written: list[str] = []
    directories: list[str] = []

    def seen_in(paths: list[str]) -> Callable[[int], None]:
        return lambda one: paths.append(os.readlink(f"/proc/self/fd/{one}"))

    call_first(monkeypatch, "sync_data", seen_in(written))
    call_first(monkeypatch, "sync", seen_in(directories))
    was = api.find("job")
    verbs.edit(api, was, was.job.changed(command="false"))
    assert [os.path.dirname(path) for path in written] == [f"{api.path}/tmp"]
    assert directories == [f"{api.path}/dead"]


def test_who_cannot_show_that_it_lives_says_what_was_refused(api: Spool, spool: SpoolDir) -> None:
    spool.configure(lease=3)
    patient = spool.api
    job_ids = many_dead(api, 65)  # more than are taken together
    retried = verbs.retry(patient, job_ids, ("dead",))
    assert next(retried) == job_ids[0]
    time.sleep(1.1)
    workers = api.directory("workers")
    os.rename(workers, f"{api.path}/away")
    open(workers, "x").close()
    with pytest.raises(SpoolError, match=r"cannot keep up .*: Not a directory"):
        list(retried)
    assert spool.ids("dead") == job_ids[64:]


def test_what_is_no_id_is_no_way_out_of_a_directory(api: Spool, spool: SpoolDir) -> None:
    put_dead(api, "job")
    with pytest.raises(NoSuchJobError):
        list(verbs.retry(api, ["../dead/job"], ("dead",)))
    assert spool.ids("dead") == ["job"]


def test_why_a_file_is_set_aside_is_on_disk_before_it_is_seen(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.drop_bytes("bad", b"[]")
    claim = api.take_name("bad.json", "pending", "vm-1-00000000")
    seen: list[bool] = []
    call_first(monkeypatch, "sync_data", lambda _: seen.append("bad" in spool.ids("dead")))
    api.set_aside(claim, "it is no job")
    assert seen == [False]
    assert spool.ids("dead") == ["bad"]


def test_what_runs_is_looked_at_once_for_many(api: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    job_ids = many_dead(api, 20)
    held = api.held
    looks: list[None] = []

    def looked() -> Iterator[Held]:
        looks.append(None)
        return held()

    monkeypatch.setattr(api, "held", looked)
    assert list(verbs.retry(api, job_ids, ("dead",))) == job_ids
    assert len(looks) <= 2  # the second is when it leaves


def test_a_copy_of_a_job_that_runs_is_not_retried(api: Spool, spool: SpoolDir) -> None:
    """A copy in dead/ of a running job is left alone: two pools would run it at the same time."""
    api.submit("true", id="job")
    api.take("job", "pending", "somebody")
    spool.drop_bytes("job", b'{"command": "true", "state": "dead"}', "dead")
    why = spool.refuse("retry", "job")
    assert 'job "job" is processing; only' in why
    assert sorted(spool.states("job")) == ["dead", "processing"]


def test_what_waits_is_cancelled_while_the_others_are_looked_for(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs are cancelled as they are found, or a pool would run the first ones meanwhile."""
    job_ids = [api.submit("true", id=f"j{number}").id for number in range(6)]
    monkeypatch.setattr(verbs, "_TOGETHER", 2)
    locate = api.locate
    looked_for: list[str] = []

    def located(job_id: str) -> tuple[str, str]:
        looked_for.append(job_id)
        return locate(job_id)

    monkeypatch.setattr(api, "locate", located)
    cancelled = Cancelling(api, ("pending",), fails).cancel(job_ids)
    assert next(cancelled) == "j0"
    assert looked_for == ["j0", "j1"]
    assert list(cancelled) == job_ids[1:]


def test_one_that_is_gone_while_it_is_looked_at_holds_up_no_other(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registration(api, 1) as pool:
        claim = api.take(api.submit("true", id="gone").id, "pending", pool.name)
        api.submit("true", id="other")
        missed: list[str] = []
        cancelling = Cancelling(api, ("pending", "processing"), lambda name, _: missed.append(name))
        cancelled = cancelling.cancel(["gone", "other"])
        assert next(cancelled) == "other"
        api.settle(claim, api.read_claim(claim).changed(state="dead"))
        find = api.find

        def found(job_id: str) -> Found:
            os.unlink(api.file("dead", job_id))
            return find(job_id)

        monkeypatch.setattr(api, "find", found)
        assert list(cancelled) == []
    assert missed == ["gone"]


def test_many_are_done_by_a_command_for_which_there_is_no_thread(
    api: Spool, spool: SpoolDir
) -> None:
    """A command does without threads: each needs a stack of 8 GB, in an address space of 4 GB."""
    job_ids = many_dead(api, 64)
    limited = ["sh", "-c", 'ulimit -s 8000000; ulimit -v 4000000; exec "$@"', "-"]
    command = [*limited, *spool.command("retry", *job_ids)]
    done = subprocess.run(command, env=environment(spool.path), capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, job_ids, "")


def test_many_are_queued_by_a_command_for_which_there_is_no_thread(spool: SpoolDir) -> None:
    limited = ["sh", "-c", 'ulimit -s 8000000; ulimit -v 4000000; exec "$@"', "-"]
    command = [*limited, *spool.command("enqueue", "--commands", "-")]
    env = environment(spool.path)
    done = subprocess.run(command, env=env, input="true\n" * 64, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == spool.ids("pending")


def test_many_are_queued_by_a_command_that_has_few_descriptors(spool: SpoolDir) -> None:
    limited = ["sh", "-c", 'ulimit -n 32; exec "$@"', "-"]
    command = [*limited, *spool.command("enqueue", "--commands", "-")]
    env = environment(spool.path)
    done = subprocess.run(command, env=env, input="true\n" * 64, capture_output=True, text=True)
    assert (done.returncode, len(spool.ids("pending"))) == (0, 64), done.stderr
