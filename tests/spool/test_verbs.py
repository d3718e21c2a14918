"""The moves between the directories, one at a time, through real files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import queuectl
from queuectl import Job, QueuectlError, Spool, kernel
from queuectl.errors import (
    BadJobError,
    JobExistsError,
    MovedOnError,
    NoSuchJobError,
    NotSyncedError,
    SpoolError,
    WrongStateError,
    WrongUserError,
)
from queuectl.jobs import housekeeping, verbs
from queuectl.settings import config
from queuectl.spool.layout import Held
from queuectl.spool.moves import Claim
from queuectl.system import files, moving
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import SpoolDir


# --- the library -----------------------------------------------------------------------------


def test_the_package_offers_the_spool_the_job_and_the_error(spool: SpoolDir) -> None:
    job = Spool(spool.path).submit("echo hi", id="a", priority=3, tags=["x"])
    assert isinstance(job, Job)
    assert job.id == "a"
    assert Spool(spool.path).find("a").job.record == job.record == spool.record("pending", "a")
    assert issubclass(JobExistsError, QueuectlError)


def test_a_command_may_be_any_sequence_of_words(spool: SpoolDir) -> None:
    assert spool.api.submit(("echo", "a b")).command == ["echo", "a b"]


def test_a_program_gives_what_it_has_at_hand(spool: SpoolDir, tmp_path: Path) -> None:
    at = datetime(2100, 1, 1, 8, tzinfo=timezone(timedelta(hours=2)))
    job = spool.api.submit([tmp_path / "program", "x"], cwd=tmp_path, run_at=at, tags=("a", "b"))
    assert job.command == [str(tmp_path / "program"), "x"]
    record = spool.record("pending", job.id)
    assert (record["cwd"], record["tags"]) == (str(tmp_path), ["a", "b"])
    assert job.not_before("pending", 0) == at.timestamp()


def test_what_no_record_can_hold_is_refused_as_a_bad_job(spool: SpoolDir) -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value in (endless, datetime):
        with pytest.raises(BadJobError):
            spool.api.submit("true", mine=value)
    job = spool.api.submit("true", env={"HERE": Path("/srv")}, mine={"path": Path("/x")})
    assert job.record["env"] == {"HERE": "/srv"}
    assert job.record["mine"] == {"path": "/x"}


def test_the_usual_spool_is_that_of_the_commands(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUEUECTL_SPOOL", spool.path)
    assert Spool().path == spool.path
    monkeypatch.delenv("QUEUECTL_SPOOL")
    monkeypatch.setenv("HOME", os.path.realpath(tmp_path))
    assert Spool().path == f"{os.path.realpath(tmp_path)}/.queuectl"


def test_all_that_the_package_offers_is_there() -> None:
    for name in queuectl.__all__:
        assert getattr(queuectl, name) is not None
    with pytest.raises(queuectl.NoSuchJobError):
        Spool("/nowhere/at/all").find("job")


def test_a_path_may_be_given_as_pathlib_does_and_with_a_tilde(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HOME", os.path.realpath(tmp_path))
    assert Spool(tmp_path / "spool").path == spool.path
    assert Spool("~/spool").path == spool.path


def test_making_a_spool_object_makes_no_directory(spool: SpoolDir) -> None:
    assert not spool.api.exists()
    assert not os.path.exists(spool.path)


def test_a_spool_that_cannot_be_made_is_told(tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=f"cannot .* {tmp_path}/file/spool.*: Not a directory"):
        Spool(tmp_path / "file" / "spool").create()


# --- submit ----------------------------------------------------------------------------------


def test_submit_leaves_one_file_and_nothing_in_tmp(api: Spool, spool: SpoolDir) -> None:
    api.submit("true", id="a")
    assert spool.states("a") == ["pending"]
    assert os.stat(spool.file("pending", "a")).st_nlink == 1
    assert spool.leftovers() == []


@pytest.mark.parametrize("state", ["pending", "completed", "failed", "dead"])
def test_submit_refuses_an_id_that_is_there_in_any_state(
    api: Spool, spool: SpoolDir, state: str
) -> None:
    spool.drop_bytes("a", b"old", state)
    with pytest.raises(JobExistsError) as error:
        api.submit("true", id="a")
    assert (error.value.job_id, error.value.state) == ("a", state)
    with open(spool.file(state, "a"), "rb") as file:
        assert file.read() == b"old"
    assert spool.leftovers() == []


def test_submit_refuses_an_id_that_is_held(api: Spool) -> None:
    api.submit("true", id="a")
    api.take("a", "pending", "w")
    with pytest.raises(JobExistsError, match="in processing/"):
        api.submit("true", id="a")


def test_of_two_that_submit_one_id_at_once_one_is_refused(api: Spool, spool: SpoolDir) -> None:
    won, barrier = [], threading.Barrier(8)

    def submit(number: int) -> None:
        job = api.draft({"command": f"echo {number}", "id": "a"})
        barrier.wait()
        try:
            list(spool.api.submit_all([job]))
        except JobExistsError:
            return
        won.append(job)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.record for job in won] == [spool.record("pending", "a")]
    assert spool.leftovers() == []


def test_submit_of_a_wrong_field_queues_nothing(api: Spool, spool: SpoolDir) -> None:
    with pytest.raises(BadJobError, match='"timeout" must be'):
        api.submit("true", timeout=-1)
    assert spool.ids("pending") == []


@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_many_are_queued_batch_by_batch(spool: SpoolDir, durability: str) -> None:
    spool.configure(durability=durability)
    api = spool.api
    jobs = [api.draft({"command": "true", "id": f"j{n:04}"}) for n in range(1200)]
    done = [job.id for batch in api.submit_all(jobs) for job in batch]
    assert done == [job.id for job in jobs] == spool.ids("pending")
    assert spool.leftovers() == []


def test_a_job_that_a_pool_has_in_hand_for_a_moment_is_not_taken_for_another_of_its_id(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.configure(durability="relaxed")
    ours, pool = spool.api, spool.api
    held = Spool.held
    seen: list[Held] = []

    def in_hand(self: Spool) -> Iterator[Held]:
        if self is not ours or seen or not os.path.exists(spool.file("pending", "a")):
            return held(self)
        claim = pool.take("a", "pending", "w")
        seen.extend(held(self))
        pool.release(claim, "pending")
        return iter(seen)

    monkeypatch.setattr(Spool, "held", in_hand)
    ours.submit("true", id="a")
    assert [item.owner for item in seen] == ["w"]
    assert spool.states("a") == ["pending"]


def test_another_of_the_id_that_moves_on_while_it_is_looked_for_is_found(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, pool = spool.api, spool.api
    pool.submit("true", id="a")
    claim = pool.take("a", "pending", "w")
    monkeypatch.setattr(ours, "check_free", lambda _ids: None)  # as if it had missed the job
    is_pending = Spool._is_pending

    def meanwhile(self: Spool, job: Job) -> bool:
        if os.path.exists(claim.path):
            pool.settle(claim, pool.read_claim(claim).changed(state="completed"))
        return is_pending(self, job)

    monkeypatch.setattr(Spool, "_is_pending", meanwhile)
    with pytest.raises(JobExistsError, match="in completed/"):
        ours.submit("false", id="a")
    assert spool.states("a") == ["completed"]


# --- take, rewrite, release ------------------------------------------------------------------


def test_take_moves_the_file_to_a_name_that_says_who_has_it(api: Spool, spool: SpoolDir) -> None:
    api.submit("true", id="a")
    claim = api.take("a", "pending", "w1")
    assert claim.path == f"{spool.path}/processing/a@w1.json"
    assert os.path.exists(claim.path)
    assert spool.states("a") == ["processing"]
    assert list(api.held()) == [Held("a", "w1", claim.path)]


def test_only_one_of_many_takes_a_job(api: Spool) -> None:
    for n in range(50):
        api.submit("true", id=f"j{n}")
    won: list[tuple[str, str]] = []
    barrier = threading.Barrier(6)

    def take_all(owner: str) -> None:
        barrier.wait()
        for n in range(50):
            try:
                api.take(f"j{n}", "pending", owner)
            except FileNotFoundError:
                continue
            won.append((f"j{n}", owner))

    threads = [threading.Thread(target=take_all, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job_id for job_id, _ in won) == sorted(f"j{n}" for n in range(50))
    assert sorted(won) == sorted((held.job_id, held.owner) for held in api.held())


def test_take_of_what_is_gone_is_the_named_error(api: Spool) -> None:
    with pytest.raises(FileNotFoundError):
        api.take("a", "pending", "w")


def test_a_held_job_is_rewritten_and_goes_where_its_body_says(api: Spool, spool: SpoolDir) -> None:
    api.submit("true", id="a", note="kept")
    claim = api.take("a", "pending", "w")
    job = api.read_claim(claim)
    api.settle(claim, job.changed(state="completed", exit_code=0))
    assert spool.states("a") == ["completed"]
    record = spool.record("completed", "a")
    assert (record["state"], record["exit_code"], record["note"]) == ("completed", 0, "kept")
    assert spool.leftovers() == []


@pytest.mark.parametrize("kernel_knows", [True, False])
def test_a_release_does_not_replace_what_is_there(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, *, kernel_knows: bool
) -> None:
    if not kernel_knows:  # as on NFS
        monkeypatch.setattr(kernel, "move_new", lambda _source, _target: False)
    api.submit("true", id="a")
    claim = api.take("a", "pending", "w")
    spool.drop_bytes("a", b"another", "completed")
    with pytest.raises(JobExistsError, match="in completed/"):
        api.release(claim, "completed")
    assert os.path.exists(claim.path)
    with open(spool.file("completed", "a"), "rb") as file:
        assert file.read() == b"another"


def test_a_job_whose_place_is_taken_is_kept_beside_it_with_the_reason(
    api: Spool, spool: SpoolDir
) -> None:
    api.submit("true", id="a")
    claim = api.take("a", "pending", "w")
    spool.drop_bytes("a", b"another", "completed")
    job = api.read_claim(claim)
    api.settle(claim, job.changed(state="completed"))
    assert claim.dead_id == "a.2"
    record = spool.record("dead", "a.2")
    assert record["command"] == "true"
    assert "exists already, in completed/" in record["error_message"]


def test_a_body_that_names_another_state_was_moved_by_hand_and_starts_again(
    api: Spool, spool: SpoolDir
) -> None:
    body = {"command": "true", "state": "dead", "attempts": 3, "history": [{"number": 3}]}
    spool.drop_bytes("a", json.dumps(body).encode())
    job = api.read_claim(api.take("a", "pending", "w"))
    assert (job.attempts, job.state, job.run_number) == (0, "pending", 3)


def test_a_retry_that_is_due_goes_on_counting(api: Spool, spool: SpoolDir) -> None:
    spool.drop_bytes("a", b'{"command":"true","state":"failed","attempts":2}', "failed")
    assert api.read_claim(api.take("a", "failed", "w")).attempts == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of somebody else")
def test_what_somebody_else_put_in_the_place_of_a_job_is_not_run(
    api: Spool, spool: SpoolDir
) -> None:
    """The owner is checked after the claim: the file may have come after the look at pending/."""
    spool.drop("a")
    os.chown(spool.file("pending", "a"), 65534, 65534)
    claim = api.take("a", "pending", "w")
    with pytest.raises(BadJobError, match="owned by user nobody"):
        api.read_claim(claim)


# --- set aside -------------------------------------------------------------------------------


def test_a_body_moved_by_hand_to_failed_goes_on_counting(api: Spool, spool: SpoolDir) -> None:
    spool.drop_bytes("a", b'{"command":"true","state":"dead","attempts":2}', "failed")
    job = api.read_claim(api.take("a", "failed", "w"))
    assert (job.state, job.attempts) == ("dead", 2)


def test_what_is_set_aside_keeps_its_bytes_and_gets_a_reason(api: Spool, spool: SpoolDir) -> None:
    spool.drop_bytes("a", b"\xff not json")
    shown = api.set_aside(api.take_name("a.json", "pending", "w"), "because").job_id
    with open(f"{spool.path}/dead/{shown}.rejected", "rb") as file:
        assert file.read() == b"\xff not json"
    record = spool.record("dead", shown)
    assert record["error_message"] == "rejected: because"
    assert record["rejected"] == "a.json"
    assert spool.ids("processing") == []
    assert spool.leftovers() == []


def test_what_is_set_aside_never_replaces_a_dead_job(api: Spool, spool: SpoolDir) -> None:
    spool.drop_bytes("a", b'{"command":"true","state":"dead"}', "dead")
    for number in (2, 3):
        spool.drop_bytes("a", b"[")
        shown = api.set_aside(api.take_name("a.json", "pending", "w"), "because").job_id
        assert shown == f"a.{number}"
    assert spool.record("dead", "a")["command"] == "true"


def refused(path: str) -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def test_a_reason_that_cannot_be_read_is_not_taken_for_a_job(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is raised, or the mended file would be set aside for good: its id is in dead/."""

    spool.drop_bytes("a", b"[")
    api.set_aside(api.take_name("a.json", "pending", "w"), "because")
    os.unlink(f"{spool.path}/dead/a.rejected")
    with monkeypatch.context() as patched:
        patched.setattr("queuectl.spool.layout.read_regular", refused)
        with pytest.raises(SpoolError, match=os.strerror(errno.EIO)):
            list(verbs.retry(api, ["a"], ["dead"]))
    spool.drop_bytes("a", b'{"command": "true"}')
    claim = api.take("a", "pending", "w")
    with monkeypatch.context() as patched:
        patched.setattr("queuectl.spool.layout.read_regular", refused)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            api.drop_reason(claim)
    assert api.drop_reason(claim)


def test_what_cannot_be_read_is_set_aside_all_the_same(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_for_us(path: str) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    spool.drop_bytes("a b", b"[")
    claim = api.take_name("a b.json", "pending", "w")
    with monkeypatch.context() as patched:
        for looks in ("queuectl.spool.layout.read_regular", "queuectl.spool.asides.read_regular"):
            patched.setattr(looks, not_for_us)
        assert api.set_aside(claim, "because").why == "because"
    assert "tags" not in spool.record("dead", "a_b")


def setting_aside_cut_short(api: Spool, spool: SpoolDir, why: str) -> Claim:
    """Leave what a crash leaves: the reason is in dead/, and the bytes are still held."""
    spool.drop_bytes("a", b"[")
    claim = api.take_name("a.json", "pending", "w")
    held = claim.path
    api.set_aside(claim, why)
    os.rename(claim.path, held)
    os.utime(spool.file("dead", "a"))  # the reason is written after the bytes are taken
    return Claim("a", "w", held, "pending")


def test_a_rejection_that_is_cut_short_is_finished_under_the_same_name(
    api: Spool, spool: SpoolDir
) -> None:
    claim = setting_aside_cut_short(api, spool, "because")
    assert api.set_aside(claim, "because").job_id == "a"
    assert spool.ids("dead") == ["a"]
    assert os.path.exists(f"{spool.path}/dead/a.rejected")


# --- at the same time ------------------------------------------------------------------------


def at_once(*calls: Callable[[], object]) -> None:
    """Make each call in a thread of its own, all as near to one instant as possible."""
    start = threading.Barrier(len(calls))

    def wait_and(call: Callable[[], object]) -> object:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        for future in [threads.submit(wait_and, call) for call in calls]:
            future.result()


def hold_two(api: Spool, spool: SpoolDir, *bodies: bytes) -> list[Claim]:
    """Have two owners each hold a file of the same id."""
    claims = []
    for owner, body in zip(("w-1", "w-2"), bodies, strict=True):
        spool.drop_bytes("a", body)
        claims.append(api.take_name("a.json", "pending", owner))
    return claims


def empty(spool: SpoolDir) -> None:
    for state in ("completed", "dead"):
        for name in os.listdir(f"{spool.path}/{state}"):
            os.unlink(f"{spool.path}/{state}/{name}")


JOB = b'{"command":"true"}'
ROUNDS = 200  # in each, both may be between the same two calls


def test_of_two_jobs_of_one_id_that_end_at_once_both_are_kept(api: Spool, spool: SpoolDir) -> None:
    for _ in range(ROUNDS):
        one, other = hold_two(api, spool, JOB, JOB)
        done = api.read_claim(one).changed(state="completed")
        at_once(lambda: api.settle(one, done), lambda: api.settle(other, done))  # noqa: B023
        assert (spool.ids("completed"), spool.ids("dead")) == (["a"], ["a.2"])
        empty(spool)


def test_of_two_files_of_one_name_that_are_set_aside_at_once_both_are_kept(
    api: Spool, spool: SpoolDir
) -> None:
    for _ in range(ROUNDS):
        one, other = hold_two(api, spool, b"[", b"{")
        at_once(lambda: api.set_aside(one, "why"), lambda: api.set_aside(other, "why"))  # noqa: B023
        names = sorted(os.listdir(f"{spool.path}/dead"))
        assert names == ["a.2.json", "a.2.rejected", "a.json", "a.rejected"]
        empty(spool)


def test_a_job_that_ends_while_a_file_of_its_name_is_set_aside_is_kept_as_that_is(
    api: Spool, spool: SpoolDir
) -> None:
    for _ in range(ROUNDS):
        one, other = hold_two(api, spool, JOB, b"[")
        spool.drop_bytes("a", JOB, "completed")
        done = api.read_claim(one).changed(state="completed")
        at_once(lambda: api.settle(one, done), lambda: api.set_aside(other, "why"))  # noqa: B023
        commands = {job_id: spool.record("dead", job_id)["command"] for job_id in spool.ids("dead")}
        rejected = [job_id for job_id, command in commands.items() if not command]
        assert len(commands) == 2
        assert len(rejected) == 1
        assert os.path.exists(f"{spool.path}/dead/{rejected[0]}.rejected")
        empty(spool)


def test_of_two_jobs_queued_with_one_id_at_once_one_is_refused(api: Spool, spool: SpoolDir) -> None:
    """One is refused even if a pool takes the first from pending/ before the second gets there."""
    for _ in range(ROUNDS // 4):
        said: list[str] = []

        def queue(said: list[str] = said) -> None:
            try:
                api.submit("true", id="a")
            except JobExistsError:
                said.append("refused")
            else:
                said.append("queued")

        def take_the_first() -> None:
            while not os.listdir(f"{spool.path}/processing"):
                with contextlib.suppress(FileNotFoundError):
                    api.take("a", "pending", "w")

        at_once(queue, queue, take_the_first)
        held = os.listdir(f"{spool.path}/processing") + os.listdir(f"{spool.path}/pending")
        assert sorted(said) == ["queued", "refused"]
        assert len(held) == 1
        os.unlink(f"{spool.path}/{'processing' if '@' in held[0] else 'pending'}/{held[0]}")


# --- what is in the way ------------------------------------------------------------------------


def waits_for_a_lock(pid: int) -> bool:
    with open("/proc/locks", encoding="ascii") as locks:
        return any("->" in line and str(pid) in line.split() for line in locks)


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="says who waits for a lock")
def test_who_gives_an_id_waits_for_who_is_giving_one_and_looks_then(spool: SpoolDir) -> None:
    spool.create()
    started: list[subprocess.Popen[bytes]] = []

    def give() -> None:
        process = spool.start("enqueue", "--id", "a", "true", stderr=subprocess.PIPE)
        started.append(process)
        wait_until(lambda: waits_for_a_lock(process.pid) or process.poll() is not None)
        spool.drop_bytes("a", b'{"command": "true", "state": "completed"}', state="completed")

    files.while_locked(spool.api.directory("pending"), give, lambda: None)
    assert b'job "a" exists already' in started[0].communicate()[1]
    assert started[0].returncode == 1
    assert spool.states("a") == ["completed"]


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="says who waits for a lock")
def test_what_somebody_is_giving_is_left_out_only_if_it_is_queued_for_good(spool: SpoolDir) -> None:
    spool.drop("a")
    spool.drop("b")
    started: list[subprocess.Popen[bytes]] = []

    def give() -> None:
        jobs = [f'{{"id": "{job_id}", "command": "mine"}}' for job_id in "abc"]
        words = ("enqueue", "--skip-existing", *jobs)
        process = spool.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        wait_until(lambda: waits_for_a_lock(process.pid) or process.poll() is not None)
        os.unlink(spool.file("pending", "a"))  # as if interrupted: unprinted ids are taken back

    files.while_locked(spool.api.directory("pending"), give, lambda: None)
    out, err = started[0].communicate()
    assert out == b"a\nc\n"
    assert err.endswith(b"\nleft out 1 job that exists already: b\n")
    assert started[0].returncode == 0
    assert spool.record("pending", "a")["command"] == "mine"


def test_a_lock_is_given_back_though_a_child_has_its_descriptor(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.create()
    pending, inherited, lock = api.directory("pending"), [], kernel.lock

    def fork_meanwhile(descriptor: int, waits: Callable[[], object]) -> None:
        inherited.append(os.dup(descriptor))  # as a forked child has it
        lock(descriptor, waits)

    monkeypatch.setattr(kernel, "lock", fork_meanwhile)
    files.while_locked(pending, lambda: None, lambda: None)
    other = files.open_directory(pending)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for descriptor in (other, *inherited):
        os.close(descriptor)


def test_what_is_done_but_may_not_last_is_said_to_be_done(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.create()

    def refuse(_: str) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(files, "sync_directory", refuse)
        with pytest.raises(SpoolError, match="it is paused now"):
            verbs.pause(api, "me")
        assert api.paused
        with pytest.raises(SpoolError, match="it is resumed now"):
            verbs.resume(api)
        assert not api.paused
        with pytest.raises(SpoolError, match="config.json is changed now"):
            config.edit(api.path, lambda stored: stored.update({"kill-grace": 1}))
        assert config.load(api.path)[0].kill_grace == 1


def test_what_is_set_aside_takes_no_name_of_a_job_that_is_held(api: Spool, spool: SpoolDir) -> None:
    """Held jobs keep their places in dead/, or they would be refused: the id exists already."""
    for job_id in ("a", "a.2"):
        api.submit("true", id=job_id)
        api.take(job_id, "pending", "w-1")
    spool.drop_bytes("a", b"[")
    assert api.set_aside(api.take_name("a.json", "pending", "w-2"), "because").job_id == "a.3"


def test_a_reason_is_that_of_its_own_file(api: Spool, spool: SpoolDir) -> None:
    claim = setting_aside_cut_short(api, spool, "one reason")
    spool.drop_bytes("a", b"{")
    assert api.set_aside(api.take_name("a.json", "pending", "w"), "another").job_id == "a.2"
    assert spool.record("dead", "a.2")["error_message"] == "rejected: another"
    assert api.set_aside(claim, "its worker died", cut_short=True).job_id == "a"
    assert spool.record("dead", "a")["error_message"] == "rejected: one reason"


def test_a_reason_is_kept_as_long_as_its_file_is_on_the_way_or_in_dead(
    api: Spool, spool: SpoolDir
) -> None:
    spool.drop_bytes("a", b"[")
    bad = api.take("a", "pending", "w-1")
    api.set_aside(bad, "because")
    spool.drop("a")
    good = api.take("a", "pending", "w-2")
    assert not api.drop_reason(good)
    os.rename(f"{spool.path}/dead/a.rejected", api.held_file("a", "w-1"))
    assert not api.drop_reason(good)
    os.unlink(api.held_file("a", "w-1"))
    assert api.drop_reason(good)
    assert spool.ids("dead") == []


def test_a_withdrawn_batch_leaves_anothers_job_of_the_same_id(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_and_queued_anew(_descriptor: int) -> NoReturn:
        os.unlink(spool.file("pending", "a"))  # as a pool that takes it does
        spool.drop("a", "echo another's")
        raise OSError(errno.EIO, "not synced")

    monkeypatch.setattr(kernel, "sync", taken_and_queued_anew)
    job = api.draft({"command": "true", "id": "a"})
    with pytest.raises(SpoolError):
        api._submit_batch([job], ["a"], "w")
    assert spool.record("pending", "a")["command"] == "echo another's"


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "not synced"), KeyboardInterrupt()])
def test_what_a_pool_has_taken_of_a_batch_that_is_withdrawn_is_told(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    taken, other = (api.draft({"command": "true"}) for _ in range(2))
    notes: list[str] = []

    def taken_and_refused(_descriptor: int) -> NoReturn:
        api.take(taken.id, "pending", "w-1")
        raise fault

    monkeypatch.setattr(kernel, "sync", taken_and_refused)
    api.note = notes.append
    with pytest.raises((SpoolError, KeyboardInterrupt)) as raised:
        list(api.submit_all([taken, other]))
    assert spool.ids("pending") == []
    told = f"1 of these jobs may run all the same: {taken.id}"
    assert (str(raised.value).endswith(f"not synced; {told}"), notes) in [
        (True, []),
        (False, [told]),
    ]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENFILE])
def test_what_is_done_but_may_not_outlast_a_power_cut_is_told_so(
    api: Spool, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(path: str) -> None:
        raise OSError(code, os.strerror(code), path)

    for job_id in ("a", "b", "c"):
        api.submit("true", id=job_id)
    waiting = api.find("c")
    monkeypatch.setattr(files, "sync_directory", refused)
    with pytest.raises(NotSyncedError, match=r"\(a, b are cancelled now\): sync .*/dead"):
        list(verbs.cancel(api, ["a", "b"], "by us", missed=lambda *_: None))
    with pytest.raises(NotSyncedError, match=r"\(c is edited now\): sync .*/pending"):
        verbs.edit(api, waiting, waiting.job.changed(priority=3))
    dead = api.find("a")
    with pytest.raises(NotSyncedError, match=r"\(a is changed now\): sync .*/dead"):
        verbs.edit(api, dead, dead.job.changed(priority=3))
    doomed = housekeeping.doomed(api, "dead", ["a", "b"])
    with pytest.raises(NotSyncedError, match=r"\(a, b are deleted now\): sync .*/dead"):
        list(housekeeping.delete_each(api, doomed, lambda *_: None))
    assert (list(api.names("dead")), api.find("c").job.priority) == ([], 3)
    with pytest.raises(SpoolError, match="^cannot move "):  # refused, since it is not `waiting` now
        verbs.edit(api, waiting, waiting.job.changed(priority=9))
    assert api.find("c").job.priority == 3


@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_a_batch_that_fails_half_way_leaves_nothing(spool: SpoolDir, durability: str) -> None:
    spool.configure(durability=durability)
    api = spool.api
    api.submit("true", id="j10")
    jobs = [api.draft({"command": "true", "id": f"j{n:02}"}) for n in range(20)]
    with pytest.raises(JobExistsError):
        list(api.submit_all(jobs))
    assert spool.ids("pending") == ["j10"]
    assert spool.leftovers() == []


def test_what_is_refused_when_a_file_is_closed_was_not_stored(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submit fails if `close` does, which is how a network file system reports a full disk."""
    close = os.close

    def refused(descriptor: int) -> None:
        writes = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        close(descriptor)
        if writes:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", refused)
        with pytest.raises(SpoolError, match=os.strerror(errno.EDQUOT)):
            api.submit("true", id="a")
    assert spool.states("a") == []
    assert spool.leftovers() == []


def test_a_draft_that_is_linked_elsewhere_is_not_published_by_that(tmp_path: Path) -> None:
    draft, target = tmp_path / "draft", tmp_path / "target"
    draft.write_text("mine")
    target.write_text("another's")
    os.link(draft, tmp_path / "snapshot")
    with pytest.raises(FileExistsError):
        moving.publish(str(draft), str(target))


def test_a_verb_that_finds_no_room_leaves_the_job_where_it_was(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.drop_bytes("a", b'{"command":"true","state":"dead"}', "dead")

    writing_new = files.writing_new

    def no_room(path: str, data: bytes, *, sync: bool, mode: int) -> files.Steps[None]:
        if "/a@" in path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return writing_new(path, data, sync=sync, mode=mode)

    with monkeypatch.context() as patched:
        patched.setattr(files, "writing_new", no_room)
        with pytest.raises(SpoolError, match="No space left"):
            list(verbs.retry(api, ["a"], ["dead"]))
    assert spool.states("a") == ["dead"]


def test_a_verb_tells_where_the_job_went_if_not_where_it_was_to_go(
    api: Spool, spool: SpoolDir
) -> None:
    spool.drop_bytes("a", b'{"command":"true","state":"dead"}', "dead")

    def anew(job: Job) -> Job:
        spool.drop("a")  # another program's, at that instant
        return job.changed(state="pending")

    verb = verbs.Verb(states=["dead"], new_body=anew, done="retried")
    with pytest.raises(WrongStateError, match="exists already, in pending/.*dead/a.2.json"):
        list(verbs.apply(api, ["a"], verb))


def test_a_job_that_cannot_be_put_back_does_not_end_what_is_done_to_many(
    api: Spool, spool: SpoolDir
) -> None:
    for job_id in ("a", "b"):
        spool.drop_bytes(job_id, b'{"command":"true","state":"failed"}', "failed")

    def anew(job: Job) -> Job:
        if job.id == "a":
            spool.drop_bytes("a", b'{"command":"true"}', "failed")  # another program's, meanwhile
            raise WrongStateError("no")
        return job.changed(state="pending")

    verb = verbs.Verb(states=["failed"], new_body=anew, done="retried")
    missed: list[str] = []
    done = verbs.apply(api, ["a", "b"], verb, lambda job_id, _: missed.append(job_id))
    assert (list(done), missed) == (["b"], ["a"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes into anybody's spool")
def test_root_is_refused_in_a_users_spool(api: Spool, spool: SpoolDir) -> None:
    os.chown(spool.path, 65534, 65534)
    with pytest.raises(WrongUserError, match="belongs to user nobody.*sudo -u"):
        api.submit("true")
    assert "belongs to user nobody" in spool.refuse("pause")
    assert "belongs to user nobody" in spool.refuse("worker", "stop", "--now")
    spool.configure(shared=True)
    Spool(spool.path).submit("true")


# --- looking ---------------------------------------------------------------------------------


def test_find_tells_the_state_and_who_holds_it(api: Spool) -> None:
    api.submit("true", id="a")
    assert (api.find("a").state, api.find("a").owner) == ("pending", None)
    api.take("a", "pending", "w-1")
    found = api.find("a")
    assert (found.state, found.owner) == ("processing", "w-1")
    assert found.record()["state"] == "processing", "the directory, not the body"


def test_find_of_nothing_says_where_it_looked(api: Spool, spool: SpoolDir) -> None:
    with pytest.raises(NoSuchJobError, match=f'no job "a" in {spool.path}'):
        api.find("a")


def test_find_follows_a_job_that_moves_all_the_time(api: Spool, spool: SpoolDir) -> None:
    api.submit("true", id="a")
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            api.release(api.take("a", "pending", "w"), "completed")
            os.rename(spool.file("completed", "a"), spool.file("pending", "a"))

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(300):
            with contextlib.suppress(NoSuchJobError):  # it was missed twice in a row
                assert api.find("a").job.id == "a"
    finally:
        stop.set()
        mover.join()


def test_names_are_ids_in_processing_too(api: Spool, spool: SpoolDir) -> None:
    for job_id in ("a", "b"):
        api.submit("true", id=job_id)
    api.take("a", "pending", "w")
    spool.drop_bytes(".hidden", b"", "pending")
    assert list(api.names("processing")) == ["a"]
    assert list(api.names("pending")) == ["b"]


def test_jobs_leaves_out_what_is_gone_or_unreadable(api: Spool, spool: SpoolDir) -> None:
    api.submit("true", id="a")
    spool.drop_bytes("bad", b"[")
    found = api.jobs("pending", ["bad", "gone", "a"])
    assert [item.job.id for item in found] == ["a"]


def test_a_directory_that_cannot_be_listed_is_told(api: Spool, spool: SpoolDir) -> None:
    os.rmdir(f"{spool.path}/failed")
    assert list(api.names("failed")) == []
    with open(f"{spool.path}/failed", "w"):
        pass
    with pytest.raises(SpoolError, match=f"cannot read {spool.path}/failed"):
        list(api.names("failed"))


@pytest.mark.parametrize(
    ("command", "fields", "why"),
    [
        ("true", {"note": float("nan")}, "NaN is not JSON"),
        ("true", {"note": object()}, "cannot be written as JSON"),
        ("true", {"note": json.loads("[" * 70 + "]" * 70)}, "nested more than 64"),
        ({"command": "true"}, {}, '"command" must be'),
        (None, {}, '"command" must be'),
    ],
)
def test_what_could_not_be_run_is_not_accepted(
    api: Spool, command: Any, fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(BadJobError, match=why):
        api.submit(command, **fields)


def test_a_tuple_is_a_list(api: Spool) -> None:
    job = api.submit(("echo", "x"), tags=("a", "b"))
    assert (job.command, job.tags) == (["echo", "x"], ["a", "b"])


def test_a_spool_has_a_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        Spool("")
    assert Spool(os.fsencode(tmp_path / "s")).path == str(tmp_path / "s")  # type: ignore[arg-type]


def test_a_file_in_the_place_of_a_directory_is_told(api: Spool) -> None:
    os.rmdir(api.directory("failed"))
    open(api.directory("failed"), "x").close()
    with pytest.raises(SpoolError, match="failed"):
        api.create()


def test_without_a_home_directory_there_is_no_spool_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_uid: int) -> NoReturn:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(QueuectlError, match="no home directory is known for ~/.queuectl"):
        Spool("~/.queuectl")
    with pytest.raises(QueuectlError, match="no home directory is known for ~nobody-of-this-name"):
        Spool("~nobody-of-this-name/jobs")


def test_a_slip_of_the_pen_in_a_keyword_is_a_warning(api: Spool) -> None:
    with pytest.warns(UserWarning, match='"max_retires" is kept, .* mean "max_retries"'):
        job = api.submit("true", max_retires=7)
    assert job.record["max_retires"] == 7


def test_a_command_that_takes_long_shows_that_it_lives(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long command has a heartbeat, or pools elsewhere would take its jobs after the lease."""
    monkeypatch.setattr(verbs, "_TOGETHER", 1)
    for job_id in ("one", "two", "three"):
        spool_dead(api, job_id)
    retried = verbs.retry(api, ["one", "two", "three"], ("dead",))
    next(retried)
    (record,) = (entry for entry in os.scandir(api.directory("workers")) if "json" in entry.name)
    os.utime(record.path, (0, 0))
    next(retried)
    assert os.stat(record.path).st_mtime == 0
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + api.config.lease / 3 + 1)
    next(retried)
    assert os.stat(record.path).st_mtime > 0
    assert list(retried) == []


def spool_dead(api: Spool, job_id: str) -> None:
    with open(api.file("dead", job_id), "w") as file:
        file.write('{"command": "true", "state": "dead"}')


def test_a_job_that_moves_on_is_not_said_to_be_in_two_places(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.drop_bytes("a", b'{"command": "true", "state": "failed"}', "failed")
    found_in = api.found_in

    def moved_first(*args: Any, **named: Any) -> str | None:
        if os.path.exists(spool.file("failed", "a")):
            os.rename(spool.file("failed", "a"), spool.file("completed", "a"))
        return found_in(*args, **named)

    monkeypatch.setattr(api, "found_in", moved_first)
    with pytest.raises(MovedOnError, match="is completed; only failed jobs"):
        list(verbs.retry(api, ["a"], ("failed",)))
