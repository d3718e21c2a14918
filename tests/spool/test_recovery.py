"""A job that a dead owner left goes where its body says."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from queuectl import Spool, kernel
from queuectl.kernel import processes
from queuectl.record.job import MAX_HISTORY, Job, again
from queuectl.record.outcome import started
from queuectl.record.reading import read_regular
from queuectl.recovery import leftovers, recovery, starts
from queuectl.recovery.recovery import Recovery
from queuectl.system import moving
from queuectl.system.scratch import try_lock
from queuectl.units import utc_text
from queuectl.workers import requests
from queuectl.workers.owners import Worker
from queuectl.workers.registration import Registration
from queuectl.workers.worklog import WorkLog
from tests.support import read_text, set_immutable, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuectl.spool.moves import Claim
    from tests.support import SpoolDir

DEAD = "nobody-1-00000000"
# New in each run: what another run of the tests started under this name would be waited for.
LOCAL = f"{os.uname().nodename}-1-{os.urandom(4).hex()}"
# It has no child that would outlive it into the next test.
STUBBORN = ["sh", "-c", "trap '' TERM; echo; exec sleep 600"]


def recover(spool: SpoolDir) -> int:
    """Run recovery once, as a pool does."""
    api = spool.api
    with Registration(api, 1) as me:
        return Recovery(api, me.name, WorkLog(-1)).run()


def leave(spool: SpoolDir, **fields: Any) -> None:
    """Leave a job in processing/, held by the owner `LOCAL` of this machine, which has died."""
    spool.configure(backoff_base=0)
    body = {"id": "a", "command": "true", "max_retries": 3, **fields}
    if "worker" in body:
        body["worker"] = LOCAL
    with open(f"{spool.path}/processing/a@{LOCAL}.json", "w") as file:
        json.dump(body, file)
    open(f"{spool.path}/workers/{LOCAL}.lock", "x").close()


@pytest.mark.parametrize("state", ["pending", "completed", "failed", "dead"])
def test_an_orphan_goes_to_the_directory_that_its_body_names(spool: SpoolDir, state: str) -> None:
    leave(spool, state=state, attempts=2, worker=DEAD)
    assert recover(spool) == 1
    assert spool.states("a") == [state]
    assert spool.record(state, "a")["attempts"] == 2
    assert spool.leftovers() == []


def test_one_that_was_run_goes_through_the_retry_policy(spool: SpoolDir) -> None:
    leave(spool, state="processing", attempts=1, worker=DEAD)
    recover(spool)
    record = spool.record("failed", "a")
    assert record["attempts"] == 1
    assert record["error_message"].startswith("worker lost")
    assert record["history"][-1]["ended"] == "worker lost"


def test_who_is_interrupted_as_it_waits_keeps_nobody_from_recovering(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted recovery gives back its lock, since a Python program may go on for long."""
    spool.drop("job", "trap '' TERM; while :; do sleep 0.1; done")
    pool = spool.start_pool()
    pool.wait_for("started", "job")
    pool.kill()

    def interrupt(_wait_s: float) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recovery.recover(spool.api, WorkLog(-1))
    lock = try_lock(recovery.lock_file(spool.api))
    assert lock is not None
    os.close(lock)


def register(
    spool: SpoolDir, boot_id: str, *, pid: int = 1, slots: int = 1, pid_namespace: str = ""
) -> None:
    """Leave the record of `LOCAL`, the owner of what `leave` left."""
    worker = Worker(
        worker=LOCAL,
        host=os.uname().nodename,
        machine_id=kernel.machine_id(),
        boot_id=boot_id,
        pid=pid,
        slots=slots,
        since="",
        pid_namespace=pid_namespace,
    )
    with open(f"{spool.path}/workers/{LOCAL}.json", "w") as file:
        json.dump(asdict(worker), file)


@pytest.mark.parametrize("from_outside", [False, True])
def test_what_ran_in_another_container_is_waited_for(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, *, from_outside: bool
) -> None:
    """Recovery waits for the lease, unless it can see into that container.

    A pool that is started there again can see and end what runs.
    """
    leave(spool, state="processing", attempts=1, worker=DEAD)
    register(spool, kernel.boot_id(), pid=7, pid_namespace="pid:[7]")
    ours = processes.INITIAL_NAMESPACE if from_outside else "pid:[8]"
    monkeypatch.setattr(processes, "pid_namespace", lambda: ours)
    with Registration(spool.api, 1) as me:
        recovery = Recovery(spool.api, me.name, WorkLog(-1))
        assert recovery.run() == from_outside
        now_s = time.monotonic() + spool.api.config.lease
        monkeypatch.setattr(time, "monotonic", lambda: now_s)
        recovery.run()
    assert spool.ids("failed") == ["a"]


@pytest.mark.parametrize(
    "ended",
    [{"pid": 1}, {"boot_id": "another"}, {"slots": 0}],
    ids=["its first process", "before a boot", "a command line, which runs nothing"],
)
def test_what_ran_in_another_container_and_has_ended_is_not_waited_for(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, ended: dict[str, Any]
) -> None:
    leave(spool, state="processing", attempts=1, worker=DEAD)
    who = {"boot_id": kernel.boot_id(), "pid": 7, "slots": 1, **ended}
    register(spool, **who, pid_namespace="pid:[7]")
    monkeypatch.setattr(processes, "pid_namespace", lambda: "pid:[8]")
    assert recover(spool) == 1


def test_one_that_had_been_claimed_and_not_begun_has_had_no_attempt(spool: SpoolDir) -> None:
    logs = spool.api.log_files("a", 2)
    counted = {"attempts": 2, "started_at": "2026-01-01T00:00:00Z"}
    counted |= {"stdout_path": logs[0], "stderr_path": logs[1]}
    history = [{"number": 1, "started_at": "2025-01-01T00:00:00Z"}]
    leave(spool, state="processing", worker=DEAD, history=history, **counted)
    register(spool, kernel.boot_id())
    recover(spool)
    record = spool.record("pending", "a")
    assert record["attempts"] == 1
    assert record["history"] == history  # there was no run to add
    assert record["started_at"] == "2025-01-01T00:00:00Z"
    assert (record["stdout_path"], record["stderr_path"]) == (None, None)


def test_one_that_has_never_run_comes_before_what_was_queued_after_it(spool: SpoolDir) -> None:
    """It does so even within one tick, since its `arrived_at` is set back by the longest tick."""
    leave(spool, state="pending", created_at="2026-01-31T08:00:00.000000Z")
    recover(spool)
    assert spool.record("pending", "a")["arrived_at"] == "2026-01-31T07:59:59.990000Z"


def test_files_of_other_programs_in_tmp_are_left_where_nobody_held_a_job(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0)
    theirs = f"{spool.path}/tmp/backup@.json"
    open(theirs, "x").close()
    for owner in ("", "@a.b"):
        spool.drop_bytes(f"a{owner}", b'{"command": "true"}', state="processing")
    recover(spool)
    assert os.path.exists(theirs)


def test_a_lock_whose_close_fails_is_given_back(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(spool, state="pending")
    assert recover(spool) == 1
    close = os.close

    def refuse(descriptor: int) -> None:
        was_lock = os.readlink(f"/proc/self/fd/{descriptor}").endswith("/recovery.lock")
        close(descriptor)
        if was_lock:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", refuse)
    os.unlink(spool.file("pending", "a"))
    leave(spool, state="pending")
    assert recover(spool) == 1


def test_a_draft_that_cannot_be_removed_keeps_its_writer_dead(spool: SpoolDir) -> None:
    writer = f"{os.uname().nodename}-7-{os.urandom(4).hex()}"
    spool.create()
    draft = f"{spool.path}/tmp/b@{writer}.json"
    for path in (draft, f"{spool.path}/tmp/{writer}.lock"):
        open(path, "x").close()
    if not set_immutable(draft, on=True):
        pytest.skip("no immutable files here")
    try:
        with pytest.raises(OSError, match=writer):
            recover(spool)
    finally:
        set_immutable(draft, on=False)
    lock = try_lock(f"{spool.path}/tmp/{writer}.lock")
    assert lock is not None
    os.close(lock)


def test_one_that_had_not_begun_keeps_the_output_that_its_history_tells_of(
    spool: SpoolDir,
) -> None:
    history = [
        {"number": number, "ended": "exit", "exit_code": 75} for number in range(1, MAX_HISTORY + 1)
    ]
    counted = {"attempts": 1, "stdout_path": spool.api.log_files("a", MAX_HISTORY + 1)[0]}
    leave(spool, state="processing", worker=DEAD, history=history, later_codes=[75], **counted)
    register(spool, kernel.boot_id())
    oldest = spool.api.log_files("a", 1)[0]
    open(oldest, "x").close()
    recover(spool)
    assert spool.record("pending", "a")["history"] == history
    assert os.path.exists(oldest)


def test_one_that_names_no_output_had_begun_without(spool: SpoolDir) -> None:
    leave(spool, state="processing", attempts=2, worker=DEAD, stdout_path=None)
    register(spool, kernel.boot_id())
    recover(spool)
    assert spool.record("failed", "a")["attempts"] == 2


@pytest.mark.parametrize("stream", ["out", "err"])
def test_one_whose_output_has_a_file_had_begun(spool: SpoolDir, stream: str) -> None:
    counted = {"attempts": 2, "stdout_path": spool.api.log_files("a", 2)[0]}
    leave(spool, state="processing", worker=DEAD, history=[{"number": 1}], **counted)
    register(spool, kernel.boot_id())
    open(f"{spool.path}/logs/a.2.{stream}", "x").close()
    recover(spool)
    assert spool.record("failed", "a")["attempts"] == 2


def test_one_of_whose_output_the_disk_does_not_tell_may_have_begun(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs, lstat = spool.api.log_files("a", 2), os.lstat
    counted = {"attempts": 2, "stdout_path": logs[0]}
    leave(spool, state="processing", worker=DEAD, history=[{"number": 1}], **counted)
    register(spool, kernel.boot_id())

    def refused(path: str) -> os.stat_result:
        if path in logs:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", refused)
    recover(spool)
    assert spool.record("failed", "a")["attempts"] == 2


def test_one_from_before_a_reboot_counts_since_its_output_may_be_gone(spool: SpoolDir) -> None:
    leave(spool, state="processing", attempts=2, worker=DEAD)
    register(spool, "another boot")
    recover(spool)
    assert spool.record("failed", "a")["attempts"] == 2


def leave_spare(spool: SpoolDir, number: int, body: bytes) -> None:
    """Leave a spare of `LOCAL`, the owner of what `leave` left."""
    with open(f"{spool.path}/tmp/~spare-{number}@{LOCAL}.json", "wb") as file:
        file.write(body)


def start_of(before: dict[str, Any], now: float) -> Job:
    """Return the body that `LOCAL` would have written to start a job that had the body `before`."""
    held = Job({"id": "a", "command": "true", "max_retries": 3, **before})
    if held.state == "dead":
        held = again(held)
    return started(held, worker=LOCAL, now=now, logs=("/logs/a.1.out", "/logs/a.1.err"))


LATER = 4e9  # after now, which is when `leave` takes the job


def leave_undone(spool: SpoolDir, boot_id: str, before: dict[str, Any], **other: Any) -> None:
    """Leave what a power cut leaves when it undoes the exchange of names before a start.

    The held file has the body `before`. One of the spares has the body of the start, with the
    fields in `other` changed.
    """
    leave(spool, **before)
    register(spool, boot_id)
    leave_spare(spool, 1, b'{"command": "true"}')
    leave_spare(spool, 2, start_of(before, LATER).changed(**other).encode())
    leave_spare(spool, 3, b'{"id": "a", "comm')


def held_file(spool: SpoolDir) -> str:
    return f"{spool.path}/processing/a@{LOCAL}.json"


@pytest.mark.parametrize(
    "before",
    [
        {"state": "pending", "attempts": 0},
        {"command": "true"},
        {"state": "failed", "attempts": 1, "worker": LOCAL, "history": [{"number": 1}]},
        {"state": "dead", "attempts": 3, "history": [{"number": 3}]},
    ],
)
def test_a_start_counts_whose_body_a_power_cut_has_put_back_among_the_spares(
    spool: SpoolDir, before: dict[str, Any]
) -> None:
    leave_undone(spool, "another boot", before)
    recover(spool)
    record = spool.record("failed", "a")
    attempts = before.get("attempts", 0)
    assert record["attempts"] == (1 if before.get("state") == "dead" else attempts + 1)
    assert record["history"][-1]["ended"] == "worker lost"
    assert record["history"][-1]["started_at"] == utc_text(LATER)
    assert spool.leftovers() == []


@pytest.mark.parametrize("began", [False, True])
def test_under_one_boot_a_spare_tells_of_a_start_if_there_is_output(
    spool: SpoolDir, *, began: bool
) -> None:
    leave_undone(spool, kernel.boot_id(), {"state": "pending", "attempts": 0})
    if began:  # and the disk was detached after that
        open(f"{spool.path}/logs/a.1.out", "x").close()
    recover(spool)
    assert spool.record("failed" if began else "pending", "a")["attempts"] == began
    assert spool.leftovers() == []


@pytest.mark.parametrize("damaged", [b"", b"\0" * 100, b'{"command": "tr', b'{"id": "b"}'])
def test_a_start_is_known_by_its_spare_where_a_power_cut_has_damaged_what_was_taken(
    spool: SpoolDir, damaged: bytes
) -> None:
    leave_undone(spool, "another boot", {"state": "pending", "attempts": 0})
    with open(held_file(spool), "wb") as file:
        file.write(damaged)
    recover(spool)
    record = spool.record("failed", "a")
    assert (record["attempts"], record["command"]) == (1, "true")


@pytest.mark.parametrize("body", [b"", b'{"id": "a", "command": "true", "max_retries": 3}'])
def test_a_spare_from_before_its_job_was_taken_says_nothing(spool: SpoolDir, body: bytes) -> None:
    """A spare older than the claim is of an earlier job of this id, or of a claim given back."""
    leave_undone(spool, "another boot", {})
    leave_spare(spool, 2, start_of({}, time.time() - 1).encode())
    with open(held_file(spool), "wb") as file:
        file.write(body)
    recover(spool)
    assert spool.record("pending" if body else "dead", "a").get("attempts", 0) == 0


def test_of_several_starts_in_spares_the_last_counts(spool: SpoolDir) -> None:
    leave_undone(spool, "another boot", {})
    for number in range(4, 9):
        leave_spare(spool, number, start_of({}, LATER - number).encode())
    recover(spool)
    started_at = spool.record("failed", "a")["history"][-1]["started_at"]
    assert started_at == utc_text(LATER)


def test_a_spare_that_cannot_be_read_hides_no_other(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_undone(spool, "another boot", {})

    def read_on_a_bad_disk(path: str, *, any_owner: bool) -> bytes:
        if path.endswith(f"~spare-1@{LOCAL}.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return read_regular(path, any_owner=any_owner)

    monkeypatch.setattr(starts, "read_regular", read_on_a_bad_disk)
    recover(spool)
    assert spool.record("failed", "a")["attempts"] == 1


def test_the_spares_of_an_owner_without_a_trace_are_kept_until_its_job_is_recovered(
    spool: SpoolDir,
) -> None:
    leave_undone(spool, "another boot", {})
    for name in os.listdir(f"{spool.path}/workers"):
        os.unlink(f"{spool.path}/workers/{name}")
    recover(spool)
    assert spool.ids("processing") == ["a"]
    assert len(os.listdir(f"{spool.path}/tmp")) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"id": "b"},
        {"worker": DEAD},
        {"attempts": 2},
        {"command": "false"},
        {"history": [{"number": 1}]},
        {"state": "completed"},
        {"started_at": None},
    ],
)
def test_a_spare_of_another_start_says_nothing(spool: SpoolDir, other: dict[str, Any]) -> None:
    leave_undone(spool, "another boot", {"state": "pending", "attempts": 0}, **other)
    recover(spool)
    assert spool.record("pending", "a")["attempts"] == 0


def test_a_spare_that_is_no_job_says_nothing_of_what_is_damaged(spool: SpoolDir) -> None:
    leave_undone(spool, "another boot", {"state": "pending", "attempts": 0}, attempts="one")
    open(held_file(spool), "w").close()
    recover(spool)
    assert spool.ids("dead") == ["a"]
    assert os.path.exists(f"{spool.path}/dead/a.rejected")


def test_a_spare_without_an_id_says_nothing(spool: SpoolDir) -> None:
    leave(spool, state="pending", attempts=0)
    start = start_of({"state": "pending", "attempts": 0}, LATER).record
    without = {key: value for key, value in start.items() if key != "id"}
    leave_spare(spool, 1, json.dumps(without).encode())
    recover(spool)
    assert spool.record("pending", "a")["attempts"] == 0


def test_one_counts_where_there_is_no_place_for_output(spool: SpoolDir) -> None:
    counted = {"attempts": 2, "stdout_path": spool.api.log_files("a", 1)[0]}
    leave(spool, state="processing", worker=DEAD, **counted)
    register(spool, kernel.boot_id())
    os.rmdir(f"{spool.path}/logs")
    os.symlink("nowhere", f"{spool.path}/logs")
    recover(spool)
    assert spool.record("failed", "a")["attempts"] == 2


def test_one_that_was_run_for_the_last_time_is_dead(spool: SpoolDir) -> None:
    leave(spool, state="processing", attempts=3, worker=DEAD)
    recover(spool)
    assert spool.states("a") == ["dead"]


def test_one_that_was_taken_and_not_yet_counted_is_pending(spool: SpoolDir) -> None:
    leave(spool, state="pending", attempts=1)
    recover(spool)
    assert spool.record("pending", "a")["attempts"] == 1


def test_one_taken_for_a_retry_by_hand_is_pending(spool: SpoolDir) -> None:
    leave(spool, state="dead", attempts=3)
    recover(spool)
    assert spool.record("pending", "a")["attempts"] == 0


def test_one_taken_for_its_next_attempt_keeps_its_count(spool: SpoolDir) -> None:
    leave(spool, state="failed", attempts=2)
    recover(spool)
    assert spool.record("failed", "a")["attempts"] == 2


@pytest.mark.parametrize("owner", [LOCAL, ""], ids=["of this machine", "nobody"])
def test_one_that_was_run_says_who_died_running_it(spool: SpoolDir, owner: str) -> None:
    """The reason names the owner, or says that nobody was running a file put there by hand."""
    leave(spool, state="processing", attempts=1, worker=DEAD)
    if not owner:
        spool.drop("a", id="a", state="processing", attempts=1)
        os.rename(spool.file("pending", "a"), spool.file("processing", "a"))
        os.unlink(held_file(spool))
    recover(spool)
    why = f"worker lost: {f'{owner} died' if owner else 'nobody was'} running it"
    assert spool.record("failed", "a")["error_message"] == why


def test_what_is_set_aside_under_a_long_name_is_recovered(spool: SpoolDir) -> None:
    job_id = "x" * 128
    spool.drop_bytes(job_id, b"[]")
    spool.api.take_name(f"{job_id}.json", "pending", LOCAL)
    open(f"{spool.path}/workers/{LOCAL}.lock", "x").close()
    assert recover(spool) == 1
    assert spool.ids("dead") == [job_id]
    assert spool.record("dead", job_id)["rejected"] == f"{job_id}.json"
    assert os.listdir(f"{spool.path}/processing") == []


def test_an_orphan_that_is_no_job_is_set_aside(spool: SpoolDir) -> None:
    leave(spool)
    (name,) = os.listdir(f"{spool.path}/processing")
    with open(f"{spool.path}/processing/{name}", "w") as file:
        file.write("[")
    recover(spool)
    assert spool.ids("dead") == ["a"]
    assert os.path.exists(f"{spool.path}/dead/a.rejected")
    assert spool.ids("processing") == []


def test_an_orphan_whose_id_has_more_digits_than_a_number_is_set_aside(spool: SpoolDir) -> None:
    leave(spool, id="a." + "9" * 5000)
    recover(spool)
    assert spool.record("dead", "a")["error_message"].startswith('rejected: "id" must be')
    assert spool.ids("processing") == []


def test_an_orphan_whose_place_is_taken_replaces_nothing(spool: SpoolDir) -> None:
    leave(spool, state="completed", worker=DEAD)
    spool.drop_bytes("a", b'{"command":"other"}', "completed")
    recover(spool)
    assert spool.record("completed", "a") == {"command": "other"}
    assert spool.record("dead", "a.2")["command"] == "true"


def test_what_a_living_owner_holds_is_left_alone(spool: SpoolDir) -> None:
    spool.api.submit("true", id="a")
    api = spool.api
    with Registration(api) as living:
        claim = api.take("a", "pending", living.name)
        assert recover(spool) == 0
        assert os.path.exists(claim.path)


def test_recovery_clears_what_the_dead_left_in_workers_and_tmp(spool: SpoolDir) -> None:
    spool.create()
    for path in (
        f"workers/{LOCAL}.lock",
        f"workers/{LOCAL}.json",
        f"workers/{LOCAL}.stop",
        f"workers/{LOCAL}.stalled",
        f"tmp/a@{LOCAL}.json",
        f"tmp/~spare-1@{LOCAL}.json",
        "tmp/b@cli-1-00000000.json",
        "tmp/cli-1-00000000.lock",
    ):
        with open(f"{spool.path}/{path}", "w"):
            pass
    recover(spool)
    assert spool.leftovers() == []


@pytest.mark.parametrize("name", ["README.stop", "notes.cancel.txt", "notes.txt"])
def test_recovery_leaves_what_is_another_programs_in_workers(spool: SpoolDir, name: str) -> None:
    spool.create()
    with open(f"{spool.path}/workers/{name}", "w"):
        pass
    recover(spool)
    assert os.path.exists(f"{spool.path}/workers/{name}")


def test_recovery_leaves_the_drafts_of_the_living(spool: SpoolDir) -> None:
    from queuectl.system.scratch import Scratch

    spool.create()
    with Scratch(f"{spool.path}/tmp") as living:
        draft = f"{spool.path}/tmp/a@{living.owner}.json"
        with open(draft, "w"):
            pass
        recover(spool)
        assert os.path.exists(draft)
        os.unlink(draft)
    assert spool.leftovers() == []


@pytest.mark.parametrize("name", ["report.new", ".report", "a.json", "a@b.json", "a.lock", "x@h-1"])
def test_recovery_leaves_what_another_program_is_writing_into_tmp(
    spool: SpoolDir, name: str
) -> None:
    spool.create()
    with open(f"{spool.path}/tmp/{name}", "w") as file:
        file.write('{"command": "true"}')
    recover(spool)
    os.rename(f"{spool.path}/tmp/{name}", spool.file("pending", "report"))


def test_recovery_leaves_the_drafts_of_who_cannot_be_told_to_be_dead(spool: SpoolDir) -> None:
    spool.create()
    for number in range(8):  # several: which comes first is chance
        dead, unknown = (f"cli-{pid}-0000000{number}" for pid in (1, 2))
        for owner in (dead, unknown):
            open(f"{spool.path}/tmp/a@{owner}.json", "x").close()
        open(f"{spool.path}/tmp/{dead}.lock", "x").close()
        os.mkdir(f"{spool.path}/tmp/{unknown}.lock")
    recover(spool)
    left = {name for name in os.listdir(f"{spool.path}/tmp") if name.endswith(".json")}
    assert left == {f"a@cli-2-0000000{number}.json" for number in range(8)}


def test_recovering_twice_changes_nothing_more(spool: SpoolDir) -> None:
    leave(spool, state="processing", attempts=1, worker=DEAD)
    recover(spool)
    before = spool.record("failed", "a")
    assert recover(spool) == 0
    assert spool.record("failed", "a") == before


def recover_while(spool: SpoolDir, work: Callable[[], None]) -> None:
    """Run recoveries, which must find nothing, until `work` is done, which must not fail."""
    with ThreadPoolExecutor(1) as threads:
        over = threads.submit(work)
        while not over.done():
            assert recover(spool) == 0
    over.result()


def test_a_living_owner_whose_files_were_removed_keeps_its_jobs(spool: SpoolDir) -> None:
    """A living owner keeps its job, whichever step of a recovery its heartbeat falls into."""
    api = spool.api
    api.submit("true", id="a")

    def beat_without_files() -> None:
        for _ in range(300):
            for name in os.listdir(f"{spool.path}/workers"):
                if name.startswith(me.name):
                    os.unlink(f"{spool.path}/workers/{name}")
            me.beat()

    with Registration(api, 1) as me:
        claim = api.take("a", "pending", me.name)
        recover_while(spool, beat_without_files)
        assert os.path.exists(claim.path)
        api.release(claim, "pending")


def test_an_owner_can_register_whenever_a_recovery_clears_tmp(spool: SpoolDir) -> None:
    api = spool.api
    spool.create()

    def come_and_go() -> None:
        for _ in range(300):
            with Registration(api):
                pass

    recover_while(spool, come_and_go)
    assert spool.leftovers() == []


@pytest.mark.parametrize("attempts", [{}, {"attempts": 2}])
def test_what_was_dropped_as_processing_and_only_taken_starts_from_the_beginning(
    spool: SpoolDir, attempts: dict[str, int]
) -> None:
    leave(spool, state="processing", **attempts)
    recover(spool)
    assert spool.states("a") == ["pending"]
    assert spool.record("pending", "a")["attempts"] == 0


def test_a_request_to_a_pool_that_is_not_there_is_withdrawn(spool: SpoolDir) -> None:
    spool.create()
    with Registration(spool.api, 1) as other:
        requests.ask_to_cancel(spool.api, other.name, "b", "cancelled: x")
        requests.ask_to_cancel(spool.api, LOCAL, "a", "cancelled: x")
        requests.ask_to_stop(spool.api, LOCAL, now=False)
        recover(spool)
        left = [name for name in os.listdir(f"{spool.path}/workers") if ".cancel." in name]
        assert left == [f"{other.name}.cancel.b"]
    assert spool.leftovers() == []


def test_what_cannot_be_recovered_is_tried_once_while_another_is_waited_for(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_for, refused_for = (f"{os.uname().nodename}-1-{os.urandom(4).hex()}" for _ in range(2))
    spool.create()
    for job_id, owner in (("a", waited_for), ("b", refused_for)):
        body = {"id": job_id, "command": "true", "state": "processing", "worker": owner}
        with open(f"{spool.path}/processing/{job_id}@{owner}.json", "w") as file:
            json.dump(body, file)
        open(f"{spool.path}/workers/{owner}.lock", "x").close()
    tries: list[object] = []

    def refused(*what: object) -> NoReturn:
        tries.append(what)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    env = {**os.environ, "QUEUECTL_WORKER": waited_for}
    with ended_at_last(subprocess.Popen(STUBBORN, env=env, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        monkeypatch.setattr(Spool, "settle", refused)
        with Registration(spool.api, 1) as me:
            look = Recovery(spool.api, me.name, WorkLog(-1))
            look.run()
            assert look.waiting_s is not None
            for _ in range(5):
                look.go_on()
            assert (len(look.faults), len(tries)) == (1, 1)
            look.close()


def test_what_cannot_be_read_keeps_no_other_owner_from_being_recovered(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(spool, state="processing", attempts=1, worker=DEAD)
    other = LOCAL.replace("-1-", "-2-")
    open(f"{spool.path}/processing/b@{other}.json", "x").close()
    open(f"{spool.path}/workers/{other}.lock", "x").close()
    read = Spool.read_file

    def refused(api: Spool, path: str, job_id: str, **how: bool) -> Job:
        if job_id == "b":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return read(api, path, job_id, **how)

    monkeypatch.setattr(Spool, "read_file", refused)
    assert recover(spool) == 1
    assert spool.states("a") == ["failed"]
    assert spool.states("b") == ["processing"]


def test_where_processes_cannot_be_told_nothing_is_waited_for_until_the_next_run(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery is left to the next run, or it would be tried and logged fifty times a second."""
    leave(spool, state="processing", attempts=1, worker=DEAD)

    def refused(_trees: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    env = {**os.environ, "QUEUECTL_WORKER": LOCAL}
    with (
        ended_at_last(subprocess.Popen(["sleep", "600"], env=env)) as process,
        Registration(spool.api, 1) as me,
    ):
        look = Recovery(spool.api, me.name, WorkLog(-1))
        look.run()
        assert look.waiting_s is not None
        process.wait()
        with monkeypatch.context() as patch:
            patch.setattr(recovery, "processes_of", refused)
            look.go_on()
        assert look.waiting_s is None
        assert spool.states("a") == ["processing"]
        assert look.run() == 1
    assert spool.states("a") == ["failed"]


@contextlib.contextmanager
def one_waits_and_another_looks(spool: SpoolDir) -> Iterator[tuple[Recovery, Recovery]]:
    """Yield a recovery that waits for what a dead owner left running, and another beside it."""
    leave(spool, state="processing", attempts=1, worker=DEAD)
    env = {**os.environ, "QUEUECTL_WORKER": LOCAL}
    with (
        ended_at_last(subprocess.Popen(["sleep", "600"], env=env)),
        Registration(spool.api, 1) as me,
        Registration(spool.api, 1) as other,
    ):
        look = Recovery(spool.api, me.name, WorkLog(-1))
        look.run()
        assert look.waiting_s is not None
        yield look, Recovery(spool.api, other.name, WorkLog(-1))


def test_nobody_else_recovers_while_something_is_waited_for(spool: SpoolDir) -> None:
    with one_waits_and_another_looks(spool) as (look, another):
        assert (another.run(), another.busy) == (0, True)
        look.close()


def test_what_somebody_else_has_dealt_with_is_waited_for_no_more(spool: SpoolDir) -> None:
    """A recovery stops waiting, or it would look without end and nobody else could recover here."""
    with one_waits_and_another_looks(spool) as (look, another):
        os.rename(held_file(spool), spool.file("pending", "a"))
        os.unlink(f"{spool.path}/workers/{LOCAL}.lock")
        look.run()
        assert look.waiting_s is None
        another.run()
        assert not another.busy


def test_what_was_silent_and_left_something_running_is_waited_for_at_the_next_look_too(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner counts as dead at the next look too, without another lease of silence."""
    leave(spool, state="processing", attempts=1, worker=DEAD)
    os.unlink(f"{spool.path}/workers/{LOCAL}.lock")
    env = {**os.environ, "QUEUECTL_WORKER": LOCAL}
    with (
        ended_at_last(subprocess.Popen(STUBBORN, env=env, stdout=subprocess.PIPE)) as process,
        Registration(spool.api, 1) as me,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        look = Recovery(spool.api, me.name, WorkLog(-1))
        look.run()
        assert look.waiting_s is None
        now_s = time.monotonic() + spool.api.config.lease
        monkeypatch.setattr(time, "monotonic", lambda: now_s)
        for _ in range(2):
            look.run()
            assert look.waiting_s is not None
        look.close()


def test_nobody_takes_up_a_name_whose_drafts_are_being_cleared(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of the name is held, or new drafts under that name would be cleared as well."""
    spool.create()
    lock = f"{spool.path}/tmp/cli-1-00000000.lock"
    for path in (lock, f"{spool.path}/tmp/a@cli-1-00000000.json"):
        open(path, "x").close()
    taken: list[int | None] = []

    def taken_before(path: str) -> None:
        taken.append(try_lock(lock))
        moving.unlink_file(path)

    monkeypatch.setattr(leftovers, "unlink_file", taken_before)
    recover(spool)
    assert taken == [None, None]
    assert spool.leftovers() == []


def test_what_cannot_be_removed_of_the_dead_leaves_their_lock(spool: SpoolDir) -> None:
    """The lock stays: without it, an owner would be known to be dead only after the lease."""
    leave(spool, state="processing", attempts=1, worker=DEAD)
    request = f"{spool.path}/workers/{LOCAL}.stop"
    open(request, "x").close()
    if not set_immutable(request, on=True):
        pytest.skip("no immutable files here")
    try:
        recover(spool)
    finally:
        set_immutable(request, on=False)
    assert spool.states("a") == ["failed"]
    assert os.path.exists(f"{spool.path}/workers/{LOCAL}.lock")


def test_whoever_recovers_keeps_its_drafts_whatever_becomes_of_its_files(
    spool: SpoolDir,
) -> None:
    spool.create()
    with Registration(spool.api, 1) as me:
        draft = f"{spool.path}/tmp/~spare-1@{me.name}.json"
        open(draft, "x").close()
        for suffix in (".json", ".lock"):
            os.unlink(f"{spool.path}/workers/{me.name}{suffix}")
        requests.ask_to_stop(spool.api, LOCAL, now=False)
        leftovers.clear(spool.api, me.name, [])  # a new request may be to a new owner
        assert os.path.exists(draft)
        assert requests.is_asked_to_stop(spool.api, LOCAL)
        me.beat()
        leftovers._clear_tmp(spool.api, set())  # as by a look from before it registered
        assert os.path.exists(draft)
        os.unlink(draft)


def test_whose_lock_cannot_be_taken_any_more_is_not_waited_for_until_the_next_run(
    spool: SpoolDir,
) -> None:
    leave(spool, state="processing", attempts=1, worker=DEAD)
    env = {**os.environ, "QUEUECTL_WORKER": LOCAL}
    with (
        ended_at_last(subprocess.Popen(STUBBORN, env=env, stdout=subprocess.PIPE)) as process,
        Registration(spool.api, 1) as me,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        look = Recovery(spool.api, me.name, WorkLog(-1))
        look.run()
        assert look.waiting_s is not None
        lock = f"{spool.path}/workers/{LOCAL}.lock"
        os.unlink(lock)
        os.symlink("nowhere", lock)
        look.go_on()
        assert len(look.faults) == 1
        assert look.waiting_s is None
        os.unlink(lock)
        look.close()


def test_where_a_process_cannot_be_told_to_end_nothing_is_waited_for_until_the_next_run(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(spool, state="processing", attempts=1, worker=DEAD)
    env = {**os.environ, "QUEUECTL_WORKER": LOCAL}

    def refused(*_what: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with (
        ended_at_last(subprocess.Popen(["sleep", "600"], env=env)),
        Registration(spool.api, 1) as me,
    ):
        look = Recovery(spool.api, me.name, WorkLog(-1))
        with monkeypatch.context() as patch:
            patch.setattr(processes, "signal_process", refused)
            look.run()
        assert look.waiting_s is None
        assert len(look.faults) == 1
        assert spool.states("a") == ["processing"]


def test_where_nobody_is_dead_nobody_looks_at_all_processes(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.create()
    listed: list[str] = []
    listdir = os.listdir

    def listing(path: str) -> list[str]:
        listed.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", listing)
    recover(spool)
    assert listed
    assert "/proc" not in listed


@contextlib.contextmanager
def ended_at_last(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            # Popen returns a moment before /proc shows the environment
            wait_until(lambda: read_text(f"/proc/{process.pid}/environ"))
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("job_id", "beside"),
    [("a", "a.2"), ("a", "a.11"), ("a" * 128, "a" * 126 + ".2"), ("a" * 127, "a" * 125 + ".12")],
)
def test_one_that_was_on_its_way_to_another_id_gets_there(
    spool: SpoolDir, job_id: str, beside: str
) -> None:
    fields = {"state": "dead", "attempts": 1, "worker": DEAD, "error_message": "exit status 1; x"}
    leave(spool, id=beside, **fields)
    os.rename(held_file(spool), f"{spool.path}/processing/{job_id}@{LOCAL}.json")
    recover(spool)
    record = spool.record("dead", beside)
    assert record["error_message"] == "exit status 1; x"
    assert spool.states(job_id) == []
    assert spool.leftovers() == []


def test_what_is_set_aside_is_told_under_the_id_that_it_has_in_dead(spool: SpoolDir) -> None:
    leave(spool)
    with open(held_file(spool), "w") as file:
        file.write("[")
    spool.drop_bytes("a", b'{"command": "true"}', "completed")
    done = spool.run("cancel", "a", status=1)
    assert spool.ids("dead") == ["a.2"]
    assert "rejected   a.2" in done.err


def test_an_orphan_that_cannot_be_moved_does_not_hold_up_the_others(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Spool.settle

    def refused(self: Spool, claim: Claim, job: Job) -> None:
        if job.id == "a":
            raise OSError(errno.EIO, os.strerror(errno.EIO), claim.path)
        settle(self, claim, job)

    leave(spool, state="completed", worker=DEAD)
    body = json.dumps({"id": "b", "command": "true", "state": "completed", "worker": LOCAL})
    for job_id in ("0", "b", "c"):
        with open(f"{spool.path}/processing/{job_id}@{LOCAL}.json", "w") as file:
            file.write(body.replace('"b"', f'"{job_id}"'))
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "settle", refused)
        recover(spool)
    assert spool.ids("completed") == ["0", "b", "c"]
    recover(spool)
    assert spool.ids("completed") == ["0", "a", "b", "c"]
    assert spool.leftovers() == []


def test_who_lives_is_not_buried_though_a_backup_has_replaced_its_lock(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registration(api, 1) as living:
        spool.drop("a")
        api.take("a", "pending", living.name)
        lock = f"{spool.path}/workers/{living.name}.lock"
        os.unlink(lock)
        open(lock, "x").close()
        assert recover(spool) == 0
        assert spool.states("a") == ["processing"]
        with Registration(api, 1) as me:
            other = Recovery(api, me.name, WorkLog(-1))
            assert other.run() == 0
            silent_s = time.monotonic() + api.config.lease
            monkeypatch.setattr(time, "monotonic", lambda: silent_s)
            assert other.run() == 1
