"""`queuectl cancel`, `retry`, `edit`, `pause`, `resume`."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from queuectl import SpoolError, library
from queuectl.workers import requests
from queuectl.workers.registration import Registration
from tests.looking.terminal import Terminal, terminal
from tests.support import (
    DEADLINE_S,
    environment,
    processes_with,
    read_text,
    set_immutable,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl import Spool
    from queuectl.spool.moves import Claim
    from tests.support import SpoolDir

BY = re.compile(r"cancelled: by \S+@\S+ at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


# --- cancel: waiting ------------------------------------------------------------------------


def job_processes(spool: SpoolDir, job_id: str) -> list[int]:
    """Return the living processes of a job of this spool; other spools have jobs of the same id."""
    ours = set(processes_with(f"QUEUECTL_SPOOL={spool.path}"))
    return sorted(ours & set(processes_with(f"QUEUECTL_JOB_ID={job_id}")))


def test_a_cancelled_waiting_job_never_runs_and_says_who_and_when(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    assert spool.run("cancel", "job").lines == ["job"]
    spool.api.submit("true", id="other")
    spool.drain()
    assert spool.states("job") == ["dead"]
    record = spool.record("dead", "job")
    assert BY.fullmatch(record["error_message"])
    assert record["attempts"] == 0
    assert spool.ids("completed") == ["other"]


def test_a_job_waiting_for_a_retry_or_for_its_time_is_cancelled(spool: SpoolDir) -> None:
    spool.configure(backoff_base=1000)
    spool.api.submit("exit 1", id="failed")
    spool.api.submit("true", id="later", run_at="2100-01-01T00:00:00Z")
    with spool.pool():
        spool.wait_for("failed", "failed")
        assert spool.run("cancel", "failed", "later").lines == ["failed", "later"]
    assert spool.ids("dead") == ["failed", "later"]
    assert spool.record("dead", "failed")["next_retry_at"] is None


def test_a_cancelled_job_can_be_given_another_life(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    spool.run("cancel", "job")
    spool.run("dlq", "retry", "job")
    spool.drain()
    assert spool.states("job") == ["completed"]


def test_what_is_over_cannot_be_cancelled_and_the_others_are(spool: SpoolDir) -> None:
    spool.api.submit("true", id="done")
    spool.drain()
    spool.api.submit("true", id="job")
    result = spool.run("cancel", "done", "job", status=1)
    assert result.lines == ["job"]
    assert 'job "done" is completed: too late to cancel it' in result.err
    assert "`queuectl prune done` deletes it" in result.err


def test_a_file_that_is_no_job_is_put_back_when_it_is_cancelled(spool: SpoolDir) -> None:
    spool.drop_bytes("bad", b"{not json")
    assert "not JSON" in spool.run("cancel", "bad", status=1).err
    assert spool.states("bad") == ["pending"]
    assert spool.leftovers() == []


def test_a_job_that_fails_and_runs_again_without_end_is_cancelled(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0)
    spool.drop("spin", "false", max_retries=1_000_000)
    with spool.pool(2) as pool:
        pool.wait_for("started", "spin")
        for _ in range(5):
            spool.run("cancel", "spin")
            assert spool.states("spin") == ["dead"]
            spool.run("dlq", "retry", "spin")
        for _ in range(10):
            assert spool.run("doctor", "spin").err == ""
        spool.run("cancel", "spin")


# --- cancel: running ------------------------------------------------------------------------


def test_a_cancelled_running_job_is_ended_with_all_its_processes(spool: SpoolDir) -> None:
    spool.api.submit("sleep 600 & setsid sleep 601 & wait", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        assert spool.run("cancel", "job").lines == ["job"]
        assert job_processes(spool, "job") == []
        spool.api.submit("true", id="next")
        spool.wait_for("completed", "next")
    record = spool.record("dead", "job")
    assert BY.fullmatch(record["error_message"])
    assert [entry["ended"] for entry in record["history"]] == ["cancelled"]
    assert record["attempts"] == 1
    assert spool.leftovers() == []


def test_a_request_that_cannot_be_removed_holds_up_no_other(spool: SpoolDir) -> None:
    spool.api.submit("sleep 600", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        for number in range(100):
            os.makedirs(f"{spool.path}/workers/{pool.name}.cancel.not-here-{number}/and-not-empty")
        assert spool.run("cancel", "job").lines == ["job"]


def test_a_job_is_cancelled_on_whatever_pool_it_runs(spool: SpoolDir) -> None:
    ids = [f"job{number}" for number in range(4)]
    for job_id in ids:
        spool.api.submit("sleep 600", id=job_id)
    with spool.pool(2), spool.pool(2):
        wait_until(lambda: spool.ids("processing") == ids)
        wait_until(lambda: len(processes_with(f"QUEUECTL_SPOOL={spool.path}")) >= 4)
        assert sorted(spool.run("cancel", "--all").lines) == ids
    assert spool.ids("dead") == ids


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(spool: SpoolDir) -> None:
    spool.configure(kill_grace=0.2)
    spool.api.submit("trap '' TERM; while :; do sleep 0.1; done", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        spool.run("cancel", "job")
    assert BY.fullmatch(spool.record("dead", "job")["error_message"])


def leave_running(spool: SpoolDir) -> None:
    """Start `job` and kill its pool, so that the command goes on without one."""
    spool.configure(kill_grace=0.2)
    spool.api.submit("sleep 600", id="job")
    pool = spool.start_pool()
    pool.wait_for("started", "job")
    pool.kill()


def test_a_job_of_a_dead_worker_is_recovered_and_cancelled(spool: SpoolDir) -> None:
    leave_running(spool)
    assert spool.run("cancel", "job").lines == ["job"]
    assert spool.states("job") == ["dead"]
    assert job_processes(spool, "job") == []


def test_who_cancels_what_another_recovers_is_told_once_what_it_waits_for(spool: SpoolDir) -> None:
    leave_running(spool)
    said = f"{spool.path}.err"
    with FileLock(f"{spool.path}/workers/recovery.lock"), open(said, "wb") as err:
        cancelling = spool.start("cancel", "job", stderr=err)
        wait_until(lambda: "waiting for job: another worker or command" in read_text(said))
        time.sleep(0.7)  # it looks several times meanwhile
    assert cancelling.wait(DEADLINE_S) == 0
    assert read_text(said).count("waiting") == 1
    assert "ending" not in read_text(said)
    assert spool.states("job") == ["dead"]


def test_where_the_dead_cannot_be_recovered_from_the_others_are_cancelled(spool: SpoolDir) -> None:
    leave_running(spool)
    for job_id in ("b", "c"):
        spool.api.submit("true", id=job_id)
    lock = f"{spool.path}/workers/recovery.lock"
    os.unlink(lock)
    os.mkdir(lock)
    done = spool.run("cancel", "job", "b", "c", status=1)
    assert done.lines == ["b", "c"]
    assert f"cannot go on at {lock}: Is a directory" in done.err
    with pytest.raises(SpoolError, match="Is a directory"):
        library.Spool(spool.path).cancel("job")
    os.rmdir(lock)
    assert spool.run("cancel", "job").lines == ["job"]


def cancelled_by_its_pool(api: Spool, claim: Claim, why: str) -> None:
    """Settle a job that a pool holds to dead/, with `why` as the reason."""
    job = api.read_file(claim.path, claim.job_id)
    api.settle(claim, job.changed(state="dead", worker=claim.owner, error_message=why))


def test_what_ended_of_itself_before_its_pool_could_end_it_is_not_told_as_cancelled(
    spool: SpoolDir,
) -> None:
    api = spool.api
    api.submit("true", id="job")
    with Registration(api, 1) as pool:
        claim = api.take("job", "pending", pool.name)
        with spool.start("cancel", "job", stdout=PIPE, stderr=PIPE) as cancelling:
            wait_until(lambda: requests.read_cancels(api, pool.name))
            cancelled_by_its_pool(api, claim, "exit status 1")
            out, err = cancelling.communicate()
    assert (cancelling.returncode, out) == (1, b"")
    assert b'job "job" ended first, and is dead: too late to cancel it' in err
    assert b"prune" not in err
    assert spool.leftovers() == []


def test_of_jobs_that_end_one_after_the_other_each_is_told_once(spool: SpoolDir) -> None:
    api = spool.api
    job_ids = [api.submit("true", id=job_id).id for job_id in ("a", "b", "c")]
    with Registration(api, 1) as pool:
        claims = [api.take(job_id, "pending", pool.name) for job_id in job_ids]
        with spool.start("cancel", *job_ids, stdout=PIPE, stderr=PIPE) as cancelling:
            assert cancelling.stdout is not None
            wait_until(lambda: len(requests.read_cancels(api, pool.name)) == 3)
            for claim in claims:
                cancelled_by_its_pool(api, claim, "cancelled: by me")
                assert cancelling.stdout.readline() == f"{claim.job_id}\n".encode()
            assert cancelling.stdout.read() == b""
    assert cancelling.returncode == 0


def test_a_refusal_hides_none_that_pools_have_cancelled(spool: SpoolDir) -> None:
    api = spool.api
    job_ids = [api.submit("true", id=job_id).id for job_id in ("ran", "waits")]
    processing = f"{spool.path}/processing"
    with Registration(api, 1) as pool, Registration(api) as command:
        ran = api.take("ran", "pending", pool.name)
        waits = api.take("waits", "pending", command.name)
        with spool.start("cancel", *job_ids, stdout=PIPE, stderr=PIPE) as cancelling:
            wait_until(lambda: requests.read_cancels(api, pool.name))
            cancelling.send_signal(signal.SIGSTOP)
            cancelled_by_its_pool(api, ran, "cancelled: by me")
            api.release(waits, "pending")
            may = set_immutable(processing, on=True)
            try:
                cancelling.send_signal(signal.SIGCONT)
                out, err = cancelling.communicate()
            finally:
                set_immutable(processing, on=False)
    if not may:
        pytest.skip("no immutable directories here")
    assert (cancelling.returncode, out) == (1, b"ran\n")
    assert b"cannot take" in err


def test_what_was_cancelled_before_is_not_cancelled_again(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    spool.run("cancel", "job")
    why = spool.refuse("cancel", "job")
    assert 'job "job" is dead: too late to cancel it; `queuectl prune job` deletes it' in why


def test_a_command_that_holds_a_job_is_asked_nothing(spool: SpoolDir) -> None:
    api = spool.api
    api.submit("true", id="job")
    with Registration(api) as command:
        claim = api.take("job", "pending", command.name)
        with spool.start("cancel", "job", stdout=PIPE, stderr=PIPE) as cancelling:
            time.sleep(1)
            asked = requests.read_cancels(api, command.name)
            api.release(claim, "pending")
            out, _ = cancelling.communicate()
    assert (asked, cancelling.returncode, out) == ([], 0, b"job\n")


def test_a_pool_that_has_given_a_job_back_is_asked_no_more(spool: SpoolDir) -> None:
    api = spool.api
    api.submit("true", id="job")
    with Registration(api, 1) as first, Registration(api, 1) as second:
        claim = api.take("job", "pending", first.name)
        with spool.start("cancel", "job", stdout=PIPE, stderr=PIPE) as cancelling:
            wait_until(lambda: requests.read_cancels(api, first.name))
            cancelling.send_signal(signal.SIGSTOP)
            api.release(claim, "pending")
            claim = api.take("job", "pending", second.name)
            cancelling.send_signal(signal.SIGCONT)
            wait_until(lambda: requests.read_cancels(api, second.name))
            asked = requests.read_cancels(api, first.name)
            cancelled_by_its_pool(api, claim, "cancelled: by me")
            out, _ = cancelling.communicate()
    assert (asked, cancelling.returncode, out) == ([], 0, b"job\n")


def test_that_a_worker_is_suspended_is_told_once(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.1)
    spool.api.submit("sleep 600", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGSTOP)
        with spool.start("cancel", "job", stdout=PIPE, stderr=PIPE) as cancelling:
            assert cancelling.stderr is not None
            told = cancelling.stderr.readline()
            assert b"is suspended" in told
            time.sleep(1)
            pool.signal(signal.SIGCONT)
            out, err = cancelling.communicate()
    assert (cancelling.returncode, out) == (0, b"job\n")
    assert b"is suspended" not in err


def test_a_job_that_is_gone_meanwhile_keeps_none_of_the_others_from_being_cancelled(
    spool: SpoolDir,
) -> None:
    api = spool.api
    for job_id in ("a", "b"):
        api.submit("true", id=job_id)
    with Registration(api, 1) as pool:
        gone, other = (api.take(job_id, "pending", pool.name) for job_id in ("a", "b"))
        with spool.start("cancel", "a", "b", stdout=PIPE, stderr=PIPE) as cancelling:
            assert cancelling.stderr is not None
            assert b"ending 2 jobs that workers hold" in cancelling.stderr.readline()
            os.unlink(gone.path)
            os.rename(other.path, spool.file("pending", "b"))
            out, err = cancelling.communicate(timeout=DEADLINE_S)
            assert cancelling.returncode == 1
    assert out == b"b\n"
    assert b'no job "a"' in err
    assert spool.states("b") == ["dead"]
    assert spool.leftovers() == []


def test_cancelling_is_not_disturbed_by_what_the_id_looks_like(spool: SpoolDir) -> None:
    ids = ["a.json", "b.lock", "c.stop", "d.cancel.d"]
    for job_id in ids:
        spool.api.submit("sleep 600", id=job_id)
    spool.configure(poll_interval=0.1)
    with spool.pool(4) as pool:
        for job_id in ids:
            pool.wait_for("started", job_id)
        assert sorted(spool.run("cancel", *ids).lines) == ids
        spool.api.submit("true", id="next")
        spool.wait_for("completed", "next")
    assert spool.ids("dead") == ids


# --- retry ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "state"), [("true", "completed"), ("exit 1", "dead")])
def test_a_finished_job_is_run_again_with_its_history_kept(
    spool: SpoolDir, command: str, state: str
) -> None:
    spool.api.submit(command, id="job", max_retries=1)
    spool.drain()
    assert spool.run("retry", "job").lines == ["job"]
    waiting = spool.record("pending", "job")
    assert (waiting["state"], waiting["attempts"]) == ("pending", 0)
    spool.drain()
    record = spool.record(state, "job")
    assert [entry["number"] for entry in record["history"]] == [1, 2]
    assert os.path.exists(f"{spool.path}/logs/job.2.out")


def test_a_job_that_waits_for_its_retry_is_run_at_once(spool: SpoolDir) -> None:
    spool.configure(backoff_base=1000)
    spool.api.submit("[ -e go ] || { touch go; exit 1; }", id="job", cwd=spool.path)
    with spool.pool():
        spool.wait_for("failed", "job")
        spool.run("retry", "job")
        spool.wait_for("completed", "job")


def test_what_waits_or_runs_is_not_retried(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    assert 'job "job" is pending' in spool.refuse("retry", "job")
    assert spool.states("job") == ["pending"]


# --- edit -----------------------------------------------------------------------------------


def editor(tmp_path: Path, body: str) -> str:
    """Return the path of an editor that runs `body` on the file $1."""
    path = tmp_path / "editor"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return str(path)


def sed(tmp_path: Path, script: str) -> str:
    return editor(tmp_path, f"sed -i '{script}' \"$1\"")


def edit(spool: SpoolDir, command: str, status: int = 0) -> Any:
    env = {"VISUAL": "", "EDITOR": command, "TMPDIR": os.path.dirname(spool.path)}
    return spool.run("edit", "job", status=status, **env)


def test_what_an_editor_has_saved_before_it_failed_is_kept(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job")
    result = edit(spool, editor(tmp_path, 'echo "my work" > "$1"; kill -SEGV $$'), status=1)
    assert kept_text(result) == "my work\n"
    unchanged = edit(spool, editor(tmp_path, "exit 1"), status=1)
    assert "your text" not in unchanged.err


def test_without_a_terminal_there_is_no_usual_editor(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    told = spool.refuse("edit", "job", status=2, VISUAL="", EDITOR="")
    assert "there is no terminal for an editor" in told
    assert 'no job "other"' in spool.refuse("edit", "other", VISUAL="", EDITOR="")


def test_an_editor_that_cannot_be_understood_is_told(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    assert "cannot start the editor vi ': No closing quotation" in edit(spool, "vi '", status=1).err


def test_a_slip_of_the_pen_in_an_edit_is_told(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job", max_retries=7)
    assert (
        'did you mean "max_retries"?'
        in edit(spool, sed(tmp_path, "s/max_retries/max_retires/")).err
    )


def kept_text(result: Any) -> str:
    """Return the text that an edit which changed nothing says it has kept."""
    path = Path(result.err.rpartition("your text is in ")[2].strip())
    assert path.stat().st_mode & 0o777 == 0o600
    return path.read_text()


def test_a_waiting_job_is_changed_as_it_was_edited(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("echo old", id="job", priority=3, note="kept")
    assert edit(spool, sed(tmp_path, "s/old/new/; /priority/d")).out == "job\n"
    record = spool.record("pending", "job")
    assert record["command"] == "echo new"
    assert "priority" not in record
    assert record["note"] == "kept"
    spool.drain()
    assert spool.output("job") == "new\n"


def test_a_waiting_job_is_changed_as_options_say(spool: SpoolDir) -> None:
    spool.api.submit("true", id="a", priority=3, run_at="2100-01-01T00:00:00Z", tags=["x"])
    words = ("--priority", "-5", "--timeout", "none", "--run-at", "now", "--tag", "y")
    assert spool.run("edit", "a", *words).lines == ["a"]
    record = spool.record("pending", "a")
    assert (record["priority"], record["timeout"], record["tags"]) == (-5, None, ["y"])
    assert record["run_at"] < "2100"
    assert (
        spool.run("edit", "a", "--priority", "-5").err
        == "a is like that already: nothing was changed\n"
    )
    assert "--priority" in spool.refuse("edit", "a", "--priority", "x", status=2)


def test_many_are_changed_alike_and_what_cannot_be_is_told(spool: SpoolDir) -> None:
    for job_id in ("a", "b"):
        spool.api.submit("true", id=job_id)
    result = spool.run("edit", "a", "none", "b", "--priority", "7", status=1)
    assert result.lines == ["a", "b"]
    assert 'no job "none"' in result.err
    assert [spool.record("pending", job_id)["priority"] for job_id in ("a", "b")] == [7, 7]
    assert "the editor takes one" in spool.refuse("edit", "a", "b", status=2)


def test_what_was_set_aside_is_not_edited_here(spool: SpoolDir) -> None:
    spool.drop_bytes("bad", b"[]")
    spool.drain()
    assert "mend dead/bad.rejected" in spool.refuse("edit", "bad", "--priority", "1")


def test_a_new_time_stands_for_that_of_a_retry(spool: SpoolDir) -> None:
    spool.configure(backoff_base=1000, poll_interval=0.1)
    spool.api.submit('[ "$QUEUECTL_ATTEMPT" = 2 ]', id="a")
    with spool.pool():
        spool.wait_for("failed", "a")
        spool.run("edit", "a", "--run-at", "now")
        spool.wait_for("completed", "a")
    assert spool.record("completed", "a")["attempts"] == 2


def test_a_running_pool_follows_what_was_edited(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("echo ran", id="job", run_at="2100-01-01T00:00:00Z")
    with spool.pool():
        edit(spool, sed(tmp_path, "s/2100/2000/"))
        spool.wait_for("completed", "job")


def test_an_edited_job_that_was_moved_by_hand_starts_again_and_no_other(spool: SpoolDir) -> None:
    spool.configure(max_retries=0)
    spool.api.submit("exit 1", id="moved")
    spool.drain()
    os.rename(spool.file("dead", "moved"), spool.file("pending", "moved"))
    spool.drop("counted", "exit 1", state="pending", attempts=1)
    for job_id, attempts in (("moved", 0), ("counted", 1)):
        spool.run("edit", job_id, "--priority", "7")
        record = spool.record("pending", job_id)
        assert (record["state"], record["attempts"]) == ("pending", attempts)


def test_a_failed_job_is_edited_where_it_is(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(backoff_base=1000)
    spool.api.submit("exit 1", id="job")
    with spool.pool():
        spool.wait_for("failed", "job")
    before = spool.record("failed", "job")
    edit(spool, sed(tmp_path, "s/exit 1/true/"))
    spool.run("edit", "job", "--priority", "7")
    after = spool.record("failed", "job")
    assert (after["command"], after["priority"]) == ("true", 7)
    for field in ("attempts", "next_retry_at", "history", "created_at"):
        assert after[field] == before[field]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("s/true/ /", '"command" must be'),
        ("s/}/,}/", "not JSON"),
        ('s/"command"/"comand"/', '"command" is missing'),
        ('s/{/{"attempts": 9,/', '"attempts" cannot be edited'),
        ('s/{/{"id": "other",/', '"id" cannot be edited'),
    ],
)
def test_what_is_wrong_is_refused_and_the_job_stays_as_it_was(
    spool: SpoolDir, tmp_path: Path, script: str, why: str
) -> None:
    spool.api.submit("true", id="job")
    before = read_text(spool.file("pending", "job"))
    result = edit(spool, sed(tmp_path, script), status=1)
    assert why in result.err
    assert 'job "job" stays as it was' in result.err
    assert kept_text(result) != ""
    assert read_text(spool.file("pending", "job")) == before
    assert spool.leftovers() == []


def test_a_job_with_half_a_character_can_be_edited(spool: SpoolDir, tmp_path: Path) -> None:
    spool.drop_bytes("job", b'{"command": "true", "note": "\\ud800"}')
    edit(spool, sed(tmp_path, "s/true/false/"))
    record = spool.record("pending", "job")
    assert (record["command"], record["note"]) == ("false", "\ud800")


def test_options_make_no_job_larger_than_a_mebibyte(spool: SpoolDir) -> None:
    spool.drop("job", "true", note="x" * ((1 << 20) - 2000))
    before = spool.record("pending", "job")
    assert "larger than" in spool.refuse("edit", "job", "--command", "y" * 10_000)
    assert spool.record("pending", "job") == before


def test_a_job_may_not_be_edited_to_more_than_a_mebibyte(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job")
    many = "head -c 1048576 /dev/zero | tr '\\0' y"
    large = f"""{{ printf '{{"command":"true","x":"'; {many}; echo '"}}'; }} > "$1" """
    assert "larger than" in edit(spool, editor(tmp_path, large), status=1).err
    assert spool.record("pending", "job")["command"] == "true"


def test_a_job_that_changed_meanwhile_is_left_alone(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job")
    path = spool.file("pending", "job")
    body = f"sed -i 's/true/theirs/' {path}; sed -i 's/true/mine/' \"$1\""
    result = edit(spool, editor(tmp_path, body), status=1)
    assert "changed meanwhile" in result.err
    assert json.loads(kept_text(result))["command"] == "mine"
    assert spool.record("pending", "job")["command"] == "theirs"
    assert spool.leftovers() == []


def test_a_job_that_was_taken_meanwhile_is_left_alone(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job")
    body = f"mv {spool.path}/pending/job.json {spool.path}/dead/; sed -i 's/true/mine/' \"$1\""
    assert "is dead" in edit(spool, editor(tmp_path, body), status=1).err
    assert spool.record("dead", "job")["command"] == "true"


def test_an_editor_that_fails_changes_nothing(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job")
    command = editor(tmp_path, 'echo "{}" > "$1"; exit 3')
    assert 'ended with status 3; job "job" stays as it was' in edit(spool, command, status=1).err
    assert "cannot start the editor" in edit(spool, "/nowhere/ed", status=1).err
    assert spool.record("pending", "job")["command"] == "true"


def test_an_editor_that_leaves_no_file_changes_nothing(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job")
    err = edit(spool, editor(tmp_path, 'rm "$1"'), status=1).err
    assert 'the editor left no file: No such file or directory; job "job" stays as it was' in err


def test_an_edit_without_a_change_changes_nothing(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    before = os.stat(spool.file("pending", "job")).st_ino
    assert "nothing was changed" in edit(spool, "true").err
    assert os.stat(spool.file("pending", "job")).st_ino == before


def test_visual_goes_before_editor_and_may_have_arguments(spool: SpoolDir) -> None:
    spool.api.submit("echo old", id="job")
    spool.run("edit", "job", VISUAL="sed -i -e s/old/new/", EDITOR="false")
    assert spool.record("pending", "job")["command"] == "echo new"


def test_the_file_in_the_editor_is_private_and_gone_afterwards(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.api.submit("true", id="job", env={"SECRET": "x"})
    seen = tmp_path / "seen"
    edit(spool, editor(tmp_path, f'stat -c %a "$(dirname "$1")" > {seen}; echo "$1" >> {seen}'))
    mode, path = seen.read_text().split()
    assert mode == "700"
    assert not os.path.exists(path)


def test_a_dead_job_is_edited_where_it_is_and_retried_afterwards(spool: SpoolDir) -> None:
    spool.api.submit("tru", id="job", max_retries=1)
    spool.drain()
    before = spool.record("dead", "job")
    edited = spool.run("edit", "job", "--command", "true")
    assert edited.lines == ["job"]
    assert "dead jobs stay dead; `queuectl retry ID` queues one again" in edited.err
    after = spool.record("dead", "job")
    assert after == {**before, "command": "true", "updated_at": after["updated_at"]}
    spool.run("retry", "job")
    spool.drain()
    assert spool.states("job") == ["completed"]


@pytest.mark.parametrize("state", ["pending", "dead"])
def test_an_edit_is_dated_and_only_of_what_is_dead_that_is_said(
    spool: SpoolDir, state: str
) -> None:
    body = {"id": "job", "command": "true", "state": state, "updated_at": "2020-01-01T00:00:00Z"}
    spool.drop_bytes("job", json.dumps(body).encode(), state)
    assert ("dead" in spool.run("edit", "job", "--priority", "3").err) == (state == "dead")
    assert spool.record(state, "job")["updated_at"] > "2026"


def test_a_dead_job_that_another_edited_meanwhile_is_left_alone(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.api.submit("false", id="job", max_retries=1)
    spool.drain()
    theirs = " ".join(spool.command("edit", "job", "--priority", "3"))
    body = f"{theirs}; sed -i 's/false/mine/' \"$1\""
    result = edit(spool, editor(tmp_path, body), status=1)
    assert "changed meanwhile" in result.err
    assert json.loads(kept_text(result))["command"] == "mine"
    record = spool.record("dead", "job")
    assert (record["priority"], record["command"]) == (3, "false")
    assert spool.leftovers() == []


def test_what_has_completed_is_not_edited(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    spool.drain()
    assert "only pending, failed or dead jobs" in edit(spool, "true", status=1).err


# --- pause and resume -----------------------------------------------------------------------


def test_who_pauses_is_told_how_many_commands_run_and_not_what_was_only_taken(
    spool: SpoolDir,
) -> None:
    spool.drop("taken")
    spool.api.take("taken", "pending", "nobody")
    assert spool.run("pause").out.startswith("paused; 0 still running")


def test_what_a_dead_worker_ran_does_not_go_on_in_a_pause(spool: SpoolDir) -> None:
    leave_running(spool)
    assert spool.run("pause").out.startswith("paused; 0 still running")


def test_a_paused_spool_starts_nothing_until_it_is_resumed(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=3600, lease=36000)  # so that only an event can tell the pool
    gate = tmp_path / "gate"
    spool.api.submit(f"while [ ! -e {gate} ]; do sleep 0.02; done", id="running")
    with spool.pool(2) as pool:
        pool.wait_for("started", "running")
        spool.run("pause")
        pool.wait_for("paused")
        spool.api.submit("true", id="job")
        gate.touch()
        spool.wait_for("completed", "running")
        assert spool.states("job") == ["pending"]
        spool.run("resume")
        spool.wait_for("completed", "job")


def test_what_comes_right_after_a_pause_does_not_start(spool: SpoolDir) -> None:
    """A batch that is dropped during a pause waits, then starts in the order of its priorities."""
    spool.configure(durability="relaxed", poll_interval=3600, lease=36000)
    with spool.pool(2) as pool:
        for number in range(20):
            open(f"{spool.path}/paused", "x").close()
            spool.drop(f"job{number}")
            wait_until(lambda paused=number + 1: len(pool.events("paused")) == paused, pool.log)  # type: ignore[misc]
            assert spool.states(f"job{number}") == ["pending"]
            os.unlink(f"{spool.path}/paused")
            spool.wait_for("completed", f"job{number}")


def test_a_pause_survives_a_restart_of_the_workers(spool: SpoolDir) -> None:
    spool.create()
    spool.run("pause")
    spool.api.submit("true", id="job")
    with spool.pool() as pool:
        pool.wait_for("paused")
    with spool.pool() as pool:
        pool.wait_for("paused")
        assert spool.states("job") == ["pending"]
        spool.run("resume")
        spool.wait_for("completed", "job")


def test_a_pause_that_cannot_be_ended_is_told(spool: SpoolDir) -> None:
    spool.create()
    os.mkdir(f"{spool.path}/paused")
    assert f"cannot remove {spool.path}/paused" in spool.refuse("resume")
    assert spool.api.paused


def test_the_file_that_pauses_says_who_did_it(spool: SpoolDir) -> None:
    spool.create()
    spool.run("pause")
    path = f"{spool.path}/paused"
    text = read_text(path)
    assert re.fullmatch(r"by \S+@\S+ at \S+Z\n", text)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert "paused already" in spool.run("pause").out
    assert read_text(path) == text
    assert json.loads(spool.run("status", "--json").out)["paused"] is True
    spool.run("resume")
    assert not os.path.exists(path)
    assert "not paused" in spool.run("resume").out


def test_ctrl_c_while_a_job_is_being_ended_says_what_may_happen_and_leaves_no_request(
    spool: SpoolDir,
) -> None:
    spool.configure(kill_grace=3600)
    spool.api.submit("trap '' TERM; while :; do sleep 0.1; done", id="job")
    pool = spool.start_pool()
    try:
        pool.wait_for("started", "job")
        with spool.start("cancel", "job", stderr=subprocess.PIPE) as cancelling:
            assert cancelling.stderr is not None
            assert b"ending 1 job that a worker holds" in cancelling.stderr.readline()
            wait_until(lambda: any(".cancel." in n for n in os.listdir(f"{spool.path}/workers")))
            cancelling.send_signal(signal.SIGINT)
            said = cancelling.communicate(timeout=DEADLINE_S)[1]
            assert cancelling.returncode == 130
            hint = b"jobs that were told to end may still end; `queuectl list` shows them\n"
            assert said == hint + b"\nqueuectl: interrupted\n"
        assert not any(".cancel." in n for n in os.listdir(f"{spool.path}/workers"))
        assert spool.states("job") == ["processing"]
    finally:
        pool.kill()


def test_a_cancel_that_is_interrupted_takes_back_what_was_not_answered(spool: SpoolDir) -> None:
    go = f"{spool.path}.go"
    spool.api.submit(waiting_for(go), id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGSTOP)
        try:
            cancel = spool.start("cancel", "job", stderr=subprocess.DEVNULL)
            wait_until(lambda: any(".cancel." in n for n in os.listdir(f"{spool.path}/workers")))
            cancel.send_signal(signal.SIGINT)
            assert cancel.wait(DEADLINE_S) == 130
            assert not any(".cancel." in n for n in os.listdir(f"{spool.path}/workers"))
        finally:
            pool.signal(signal.SIGCONT)
        with open(go, "x"):
            pass
        spool.wait_for("completed", "job")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_retry_that_is_ended_by_a_signal_holds_no_job_any_more(
    spool: SpoolDir, number: signal.Signals
) -> None:
    spool.create()
    body = json.dumps({"command": "true", "state": "dead", "worker": "w"}).encode()
    for each in range(1000):
        spool.drop_bytes(f"job-{each}", body, "dead")
    with spool.start("retry", "--all", "--yes", stdout=subprocess.PIPE) as retrying:
        assert retrying.stdout is not None
        told = retrying.stdout.readline()
        retrying.send_signal(number)
        told += retrying.stdout.read()
    assert spool.ids("processing") == []
    assert set(told.decode().split()) <= set(spool.ids("pending"))
    assert 0 < len(spool.ids("dead")) < 1000
    assert len(spool.ids("dead")) + len(spool.ids("pending")) == 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_typed_is_there_when_a_signal_ends_an_edit(
    spool: SpoolDir, tmp_path: Path, number: signal.Signals
) -> None:
    spool.api.submit("true", id="job")
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho typed > "$1"; : > "$0.here"; exec sleep 1000\n')
    editor.chmod(0o755)
    env = {**environment(spool.path), "EDITOR": str(editor), "TMPDIR": str(tmp_path)}
    with spool.start("edit", "job", env=env) as editing:
        wait_until((tmp_path / "editor.here").exists)
        editing.send_signal(number)
    assert editing.returncode == -number
    (left,) = tmp_path.glob("*/job.json")
    assert left.read_text() == "typed\n"


INTERRUPTED = """
import os, signal
from queuectl.workers import requests
ask = requests.ask_to_cancel
def ask_and_be_interrupted(*args):
    ask(*args)
    os.kill(os.getpid(), signal.SIGINT)
requests.ask_to_cancel = ask_and_be_interrupted
"""


def test_a_cancel_that_is_interrupted_as_it_asks_takes_that_back(
    spool: SpoolDir, tmp_path: Path
) -> None:
    go = f"{spool.path}.go"
    spool.api.submit(waiting_for(go), id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGSTOP)
        try:
            spool.run("cancel", "job", status=130, **with_code_at_start(tmp_path, INTERRUPTED))
            assert not any(".cancel." in n for n in os.listdir(f"{spool.path}/workers"))
        finally:
            pool.signal(signal.SIGCONT)
        open(go, "x").close()
        spool.wait_for("completed", "job")


def test_a_person_whose_edit_is_wrong_may_go_on_with_it(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job")
    mend = 'grep -q broken "$1" && exec sed -i \'s/broken //\' "$1"'
    script = f"{mend}\nsed -i 's/true/false/; s/{{/broken {{/' \"$1\""
    with terminal(spool, "edit", "job", VISUAL="", EDITOR=editor(tmp_path, script)) as screen:
        wait_until(lambda: "edit again?" in screen.raw, lambda: screen.raw)
        screen.type("\n")  # the default answer
        assert screen.wait() == 0
    assert spool.record("pending", "job")["command"] == "false"


@pytest.mark.parametrize(
    "answer", [lambda screen: screen.type("n\n"), Terminal.interrupt], ids=["no", "ctrl-c"]
)
def test_a_person_who_gives_an_edit_up_finds_it_kept(
    spool: SpoolDir, tmp_path: Path, answer: Callable[[Terminal], None]
) -> None:
    """Both no and Ctrl-C keep the text; Ctrl-C has its effect again once the editor has ended."""
    spool.api.submit("true", id="job")
    nonsense = editor(tmp_path, 'echo nonsense > "$1"')
    with terminal(
        spool, "edit", "job", width=500, VISUAL="", EDITOR=nonsense, TMPDIR=str(tmp_path)
    ) as screen:
        wait_until(lambda: "edit again?" in screen.raw, lambda: screen.raw)
        answer(screen)
        assert screen.wait() == 1
        assert 'job "job" stays as it was; your text is in ' in screen.raw
    assert spool.record("pending", "job")["command"] == "true"


def test_ctrl_backslash_ends_the_editor_and_its_text_is_kept(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.api.submit("true", id="job")
    script = 'sed -i s/true/mine/ "$1"; echo ready; read -r _'
    with terminal(
        spool, "edit", "job", width=500, VISUAL="", EDITOR=editor(tmp_path, script),
        TMPDIR=str(tmp_path),
    ) as screen:  # fmt: skip
        wait_until(lambda: "ready" in screen.raw, lambda: screen.raw)
        screen.type("\x1c")
        assert screen.wait() == 1
        assert "was ended by signal 3" in screen.raw
        assert 'job "job" stays as it was; your text is in ' in screen.raw


def test_ctrl_c_is_for_the_editor_to_understand(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job")
    script = "trap 'echo undone' INT; echo ready; read -r _; sed -i s/true/false/ \"$1\""
    with terminal(spool, "edit", "job", VISUAL="", EDITOR=editor(tmp_path, script)) as screen:
        wait_until(lambda: "ready" in screen.raw)
        screen.type("\x03")
        wait_until(lambda: "undone" in screen.raw or screen.process.poll() is not None)
        screen.type("\n")
        assert screen.wait() == 0
    assert spool.record("pending", "job")["command"] == "false"


def test_an_editor_that_fails_is_heard_where_children_are_ignored(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.api.submit("true", id="job")
    failing = editor(tmp_path, 'sed -i s/true/false/ "$1"; exit 1')
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        own = {"VISUAL": "", "EDITOR": failing, "TMPDIR": str(tmp_path)}
        editing = spool.start("edit", "job", env=environment(spool.path, **own))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert editing.wait(DEADLINE_S) == 1
    assert spool.record("pending", "job")["command"] == "true"


def test_who_left_the_editor_with_an_error_is_not_asked_to_go_on(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.api.submit("true", id="job")
    failing = editor(tmp_path, "exit 1")  # as :cq does in vi
    with terminal(spool, "edit", "job", width=500, VISUAL="", EDITOR=failing) as screen:
        assert screen.wait() == 1
        assert "ended with status 1" in screen.raw
        assert "edit again?" not in screen.raw


def test_what_runs_is_not_edited(spool: SpoolDir) -> None:
    spool.drop("job")
    spool.api.take("job", "pending", "nobody")
    why = spool.refuse("edit", "job", "--priority", "1")
    assert why.endswith("only pending, failed or dead jobs can be edited")


def test_what_queuectl_writes_may_be_named_as_it_is(spool: SpoolDir, tmp_path: Path) -> None:
    spool.api.submit("true", id="job")
    script = 's/{/{"id": "job", "attempts": 0,/; s/true/false/'
    assert edit(spool, sed(tmp_path, script)).out == "job\n"
    assert spool.record("pending", "job")["command"] == "false"
