"""Selecting jobs, which every command does in the same way, and the question before many."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from queuectl.cli.matching import Selection, select
from queuectl.cli.naming import resolve_id
from queuectl.errors import NoSuchJobError
from queuectl.ids import new_id
from queuectl.states import STATES
from queuectl.units import utc_text
from tests.looking.terminal import Terminal
from tests.support import DEADLINE_S, environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuectl.spool.layout import Found
    from tests.support import SpoolDir

OLD = "2001-01-01T00:00:00.000000Z"


@pytest.fixture
def mixed(spool: SpoolDir) -> SpoolDir:
    """Return a spool with jobs in every waiting and finished state."""
    spool.configure(backoff_base=1000)
    api = spool.api
    api.submit("exit 1", id="failed", tags=["night", "web"])
    api.submit("rsync a b; exit 1", id="dead1", max_retries=1, tags=["night"])
    api.submit(["sh", "-c", "exit 1"], id="dead2", max_retries=1)
    api.submit("true", id="done", tags=["web"])
    with spool.pool():
        spool.wait_for("failed", "failed")
        spool.wait_for("dead", "dead1", "dead2")
        spool.wait_for("completed", "done")
    api.submit("rsync c d", id="wait1", tags=["night"])
    api.submit("true", id="wait2", priority=1)
    return spool


def age(spool: SpoolDir, state: str, job_id: str) -> None:
    """Make the file of a job look as if it had been written long ago."""
    os.utime(spool.file(state, job_id), (0, 0))


def list_ids(spool: SpoolDir, *words: str) -> list[str]:
    return [record["id"] for record in spool.run("list", "--json", *words).json]


def test_list_selects_by_state_tag_and_command(mixed: SpoolDir) -> None:
    assert list_ids(mixed, "--state", "dead", "--state", "failed") == ["dead1", "dead2", "failed"]
    assert list_ids(mixed, "--tag", "night") == ["wait1", "failed", "dead1"]
    assert list_ids(mixed, "--tag", "night", "--tag", "web") == ["failed"]
    assert list_ids(mixed, "--command-matches", "^rsync") == ["wait1", "dead1"]
    assert list_ids(mixed, "--command-matches", "sh -c 'exit") == ["dead2"]
    assert list_ids(mixed, "--tag", "night", "--limit", "1") == ["wait1"]


def test_older_than_goes_by_the_files_time_or_the_record(mixed: SpoolDir) -> None:
    assert list_ids(mixed, "--older-than", "1h") == []
    age(mixed, "dead", "dead1")
    age(mixed, "pending", "wait2")
    record = mixed.record("completed", "done")
    mixed.drop_bytes("done", json.dumps({**record, "finished_at": OLD}).encode())
    os.rename(mixed.file("pending", "done"), mixed.file("completed", "done"))
    assert list_ids(mixed, "--older-than", "1h") == ["wait2", "done", "dead1"]


def test_a_wrong_pattern_or_age_says_what_is_wrong(mixed: SpoolDir) -> None:
    assert "not a regular expression" in mixed.refuse("list", "--command-matches", "(", status=2)
    too_large = "a{99999999999}"
    assert "too large" in mixed.refuse("list", "--command-matches", too_large, status=2)
    assert mixed.run("list", "--command-matches", "[[x]").err == ""
    assert "not a duration" in mixed.refuse("list", "--older-than", "soon", status=2)


def test_dead_jobs_are_listed_by_the_same_options(mixed: SpoolDir) -> None:
    lines = mixed.run("dlq", "list", "--command-matches", "rsync", "--json").json
    assert [record["id"] for record in lines] == ["dead1"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cancel", "--tag", "night"], ["failed", "wait1"]),
        (["cancel", "--state", "pending"], ["wait1", "wait2"]),
        (["cancel", "--all"], ["failed", "wait1", "wait2"]),
        (["retry", "--tag", "night"], ["dead1", "failed"]),
        (["retry", "--state", "completed"], ["done"]),
        (["dlq", "retry", "--tag", "night"], ["dead1"]),
        (["dlq", "retry", "--all"], ["dead1", "dead2"]),
        (["dlq", "purge", "--command-matches", "rsync"], ["dead1"]),
    ],
)
def test_what_a_dry_run_names_is_what_is_done(
    mixed: SpoolDir, words: list[str], expected: list[str]
) -> None:
    before = list_ids(mixed)
    states = {job_id: mixed.states(job_id) for job_id in before}
    dry = mixed.run(*words, "--dry-run")
    assert sorted(dry.lines) == expected
    assert "nothing was done" in dry.err
    assert {job_id: mixed.states(job_id) for job_id in before} == states
    assert sorted(mixed.run(*words).lines) == expected
    assert all(mixed.states(job_id) != states[job_id] for job_id in expected)


@pytest.mark.parametrize(
    "words",
    [
        ["cancel", "wait1", "done", "dead1", "odd"],
        ["retry", "dead1", "wait1", "aside"],
        ["dlq", "retry", "dead1", "done", "aside"],
    ],
)
def test_a_dry_run_of_named_jobs_tells_of_those_that_it_cannot_be_done_to(
    mixed: SpoolDir, words: list[str]
) -> None:
    mixed.drop_bytes("aside", b'{"command": "", "rejected": "aside.json"}', "dead")
    mixed.drop_bytes("odd", b"{")
    dry = mixed.run(*words, "--dry-run", status=1)
    done = mixed.run(*words, status=1)
    assert dry.lines == done.lines
    assert len(dry.err.splitlines()) == len(done.err.splitlines()) + 1  # one more: nothing was done


def test_nothing_selected_is_no_failure_and_is_said(mixed: SpoolDir) -> None:
    result = mixed.run("cancel", "--tag", "nothing")
    assert result.out == ""
    assert "no jobs match" in result.err


@pytest.mark.parametrize("command", [["cancel"], ["retry"], ["dlq", "retry"], ["dlq", "purge"]])
def test_neither_ids_nor_a_selection_is_refused(mixed: SpoolDir, command: list[str]) -> None:
    assert "which jobs?" in mixed.refuse(*command, status=2)
    assert "not both" in mixed.refuse(*command, "dead1", "--tag", "night", status=2)


def test_a_file_that_was_set_aside_is_never_selected_to_be_run(mixed: SpoolDir) -> None:
    mixed.drop_bytes("bad", b"[]")
    mixed.configure(poll_interval=0.1)
    mixed.run("cancel", "--all")
    mixed.drain()
    assert mixed.states("bad") == ["dead"]
    assert "bad" not in mixed.run("dlq", "retry", "--all", "--dry-run").lines
    assert "bad" in mixed.run("dlq", "purge", "--all").lines
    assert os.listdir(f"{mixed.path}/dead") == []


# --- the question ---------------------------------------------------------------------------


def in_terminal(
    spool: SpoolDir, answer: str, *words: str, meanwhile: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """Run queuectl in a terminal; at its question, call `meanwhile`, then type the answer."""
    pid, terminal = pty.fork()
    if pid == 0:
        command = spool.command(*words)
        os.execve(command[0], command, {**environment(spool.path), "TERM": "xterm"})
    seen = b""
    until = time.monotonic() + DEADLINE_S
    answered = False
    while time.monotonic() < until:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        seen += data
        if not data:
            break
        if not answered and b"[y/N]" in seen:
            meanwhile()
            os.write(terminal, f"{answer}\n".encode())
            answered = True
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen.decode()


def test_a_state_that_is_given_twice_counts_once(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    twice = ["--state", "pending", "--state", "pending"]
    assert len(spool.run("list", "--json", *twice).json) == 1
    assert spool.run("cancel", *twice).lines == ["job"]
    dead = ["--state", "dead", "--state", "dead"]
    assert spool.run("prune", "--keep", "0", *dead).lines == ["job"]


def test_an_expression_that_is_empty_selects_nothing(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    assert "would match every job" in spool.refuse("cancel", "--command-matches", "", status=2)
    assert spool.states("job") == ["pending"]


def test_more_jobs_than_there_can_be_is_no_limit(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    assert len(spool.run("list", "--json", "--limit", "9" * 30).json) == 1


def test_of_a_shortened_id_that_is_changed_the_whole_is_said(spool: SpoolDir) -> None:
    made = spool.api.submit("true").id
    done = spool.run("cancel", made[:-1])
    assert done.lines == [made]
    assert done.err == f'queuectl: "{made[:-1]}" is the beginning of "{made}"\n'


def test_a_whole_id_that_is_gone_is_not_looked_for_among_all_others(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spool.api.submit("true").id
    os.unlink(spool.file("pending", made))
    api = spool.api
    listed: list[str] = []

    def names(state: str) -> Iterator[str]:
        listed.append(state)
        return iter(())

    monkeypatch.setattr(api, "names", names)
    with pytest.raises(NoSuchJobError):
        resolve_id(api, made)
    assert listed == ["dead"]
    with pytest.raises(NoSuchJobError):
        resolve_id(api, made[:-1])
    assert listed == ["dead", *STATES, *STATES]  # for ids that begin so, then for ids like it


@pytest.mark.parametrize("other", ["202611220044300-x", "{made}.2"])
def test_the_beginning_of_an_id_may_look_like_a_whole_one(spool: SpoolDir, other: str) -> None:
    made = new_id(time.time())
    job_id = other.format(made=made)
    spool.drop_bytes(job_id, b'{"command": "true", "state": "dead"}', "dead")
    assert spool.run("show", job_id[:15], "--json").json["id"] == job_id


@pytest.mark.parametrize("words", [("cancel",), ("wait",), ("edit", "--priority", "1")])
def test_an_id_that_a_person_gave_is_not_shortened_where_it_matters(
    spool: SpoolDir, words: tuple[str, ...]
) -> None:
    """The command that has just cancelled job1 does not cancel job10 when it is typed again."""
    spool.api.submit("true", id="job10")
    told = spool.refuse(words[0], "job1", *words[1:])
    assert told == 'queuectl: no job "job1"; did you mean "job10"?'
    assert spool.states("job10") == ["pending"]
    spool.api.submit("true", id="job11")
    assert spool.refuse(words[0], "job1", *words[1:]).endswith("(job10, job11); give the whole id")


@pytest.mark.parametrize("command", ["show", "cancel", "wait"])
@pytest.mark.parametrize(
    "text",
    [
        *("thumbnials", "THUMBNAILS", "thumbnails.json", "pending/thumbnails.json"),
        *("/q/processing/thumbnails@vm-1-0123abcd.json", "logs/thumbnails.1.out"),
    ],
)
def test_what_nearly_is_an_id_leads_to_it(spool: SpoolDir, command: str, text: str) -> None:
    spool.api.submit("true", id="thumbnails")
    told = spool.refuse(command, text)
    assert told == f'queuectl: no job "{text}" in {spool.path}; did you mean "thumbnails"?'
    assert "`queuectl list` shows what there is" in spool.refuse(command, "nightly")
    assert spool.states("thumbnails") == ["pending"]


def test_an_id_that_differs_by_a_number_is_another_and_not_misspelt(spool: SpoolDir) -> None:
    for job_id in ("backup-2026-11-28", "backup-2026-11-29", "job-number-1"):
        spool.api.submit("true", id=job_id)
    made = spool.api.submit("true").id
    for text in ("backup-2026-11-30", "BACKUP-2026-11-30", "job-number-2", made[:10] + "zzzz"):
        assert "did you mean" not in spool.refuse("cancel", text)


def test_of_many_ids_that_are_gone_only_the_first_is_compared(spool: SpoolDir) -> None:
    spool.api.submit("true", id="thumbnails")
    told = spool.run("cancel", "thumbnail_s", "thumbnials", "nails", status=1).err.splitlines()
    assert ["did you mean" in line for line in told] == [True, False, False]


def test_jobs_that_are_selected_can_be_waited_for(spool: SpoolDir) -> None:
    spool.api.submit("true", id="a", tags=["x"])
    spool.api.submit("exit 3", id="b", tags=["x"], max_retries=1)
    spool.api.submit("true", id="other", run_at="2100-01-01T00:00:00Z", tags=["y"])
    waiting = spool.start("wait", "--tag", "x", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with waiting, spool.pool():
        assert waiting.stdout is not None
        assert set(waiting.stdout.read().split()) == {b"a", b"b"}
    assert waiting.returncode == 3
    assert spool.run("wait", "--tag", "nobody").err == "no jobs match\n"


def test_a_failure_is_seen_by_who_waits_however_soon_it_comes(spool: SpoolDir) -> None:
    spool.api.submit("true", id="a", tags=["x"])
    spool.api.submit("exit 3", id="b", tags=["x"], max_retries=1)
    spool.drain()
    result = spool.run("wait", "--tag", "x", status=3)
    assert set(result.lines) == {"a", "b"}
    assert spool.run("wait", "--all").lines == []
    assert spool.run("wait", "--any", "--tag", "x").lines == []  # --any waits for jobs still to end


@pytest.fixture
def many(spool: SpoolDir) -> SpoolDir:
    """Return a spool with more jobs than a command changes without a question."""
    jobs = [spool.api.draft({"command": "true", "id": f"job{n:02}"}) for n in range(11)]
    list(spool.api.submit_all(jobs))
    return spool


def test_a_person_is_asked_before_many_are_touched(many: SpoolDir) -> None:
    status, seen = in_terminal(many, "n", "cancel", "--all")
    assert status == 1
    assert "cancel 11 jobs" in seen
    assert "nothing was done" in seen
    assert len(many.ids("pending")) == 11
    status, _ = in_terminal(many, "y", "cancel", "--all")
    assert status == 0
    assert len(many.ids("dead")) == 11


def test_ctrl_c_at_a_question_is_told_in_a_line_of_its_own(many: SpoolDir) -> None:
    with Terminal(many.command("cancel", "--all"), environment(many.path), 80, 24) as screen:
        wait_until(lambda: "[y/N]" in screen.raw, lambda: screen.raw)
        screen.interrupt()
        assert screen.wait() == 130
    assert re.search(r"\nnothing was done\r\nqueuectl: interrupted", screen.raw), screen.raw


def test_a_person_who_said_yes_beforehand_is_not_asked(many: SpoolDir) -> None:
    status, seen = in_terminal(many, "n", "cancel", "--all", "--yes")
    assert (status, "[y/N]" in seen) == (0, False)


def test_a_person_is_not_asked_about_a_few(many: SpoolDir) -> None:
    status, seen = in_terminal(many, "n", "cancel", "job01", "job02")
    assert (status, "[y/N]" in seen) == (0, False)


def test_nobody_is_asked_where_nobody_is(many: SpoolDir) -> None:
    assert len(many.run("cancel", "--all").lines) == 11


@pytest.mark.parametrize("words", [("dlq", "purge"), ("prune",)])
def test_a_person_is_asked_before_even_one_is_deleted(
    many: SpoolDir, words: tuple[str, ...]
) -> None:
    many.run("cancel", "job01")
    status, seen = in_terminal(many, "n", *words, "job01")
    assert (status, "delete 1 job" in seen) == (1, True)
    assert many.ids("dead") == ["job01"]


# --- what changes between the question and the answer -----------------------------------------


def test_a_job_that_has_completed_meanwhile_is_not_retried(many: SpoolDir) -> None:
    many.run("cancel", "--all")
    moved = many.record("dead", "job05")

    def completes() -> None:
        many.drop_bytes("job05", json.dumps({**moved, "state": "completed"}).encode(), "completed")
        os.unlink(many.file("dead", "job05"))

    again = ("retry", "--error-matches", "^cancelled")
    status, seen = in_terminal(many, "y", *again, meanwhile=completes)
    assert status == 0
    assert "left out 1 that were gone or in another state: job05" in seen
    assert many.states("job05") == ["completed"]
    assert len(many.ids("pending")) == 10


def test_what_has_ended_meanwhile_is_no_failure_of_a_cancel(many: SpoolDir) -> None:
    def completes() -> None:
        many.drop_bytes("job05", b'{"command": "true", "state": "completed"}', "completed")
        os.unlink(many.file("pending", "job05"))

    status, seen = in_terminal(many, "y", "cancel", "--all", meanwhile=completes)
    assert status == 0
    assert "left out 1 that were gone or in another state: job05" in seen
    assert many.states("job05") == ["completed"]
    assert len(many.ids("dead")) == 10


def test_a_job_that_runs_meanwhile_is_not_cancelled_with_those_that_wait(many: SpoolDir) -> None:
    held = many.api.take("job05", "pending", "somebody-1-aaaaaaaa")
    many.api.release(held, "pending")

    def is_taken() -> None:
        many.api.take("job05", "pending", "somebody-1-aaaaaaaa")

    status, seen = in_terminal(many, "y", "cancel", "--state", "pending", meanwhile=is_taken)
    assert status == 1
    assert 'job "job05" is processing by now, and was left alone' in seen
    assert many.states("job05") == ["processing"]
    assert len(many.ids("dead")) == 10


@pytest.mark.parametrize(
    "words",
    [
        ("dlq", "purge", "job05"),
        ("prune", "job05"),
        ("prune", "--state", "dead", "--keep", "0"),
    ],
)
def test_a_job_that_has_died_anew_meanwhile_is_not_deleted(
    many: SpoolDir, words: tuple[str, ...]
) -> None:
    many.run("cancel", "job05")

    def dies_again() -> None:
        many.run("retry", "job05")
        many.run("cancel", "job05")

    status, seen = in_terminal(many, "y", *words, meanwhile=dies_again)
    assert "delete 1 job" in seen
    assert "\njob05" not in seen  # nor printed as deleted
    assert (status, "is not what it was when you asked" in seen) == (
        (1, True) if "job05" in words else (0, False)
    )
    assert many.states("job05") == ["dead"]


def test_jobs_are_selected_by_what_they_died_of(spool: SpoolDir) -> None:
    spool.api.submit("exit 3", id="three", max_retries=1)
    spool.api.submit("exit 4", id="four", max_retries=1)
    spool.api.submit("true", id="cancelled", run_at="2100-01-01T00:00:00Z")
    spool.run("cancel", "cancelled")
    spool.drain()
    assert spool.run("list", "--error-matches", "^cancelled", "--ids").lines == ["cancelled"]
    retried = spool.run("dlq", "retry", "--error-matches", "exit status [34]").lines
    assert set(retried) == {"three", "four"}


def test_jobs_are_selected_by_how_lately_they_changed(spool: SpoolDir) -> None:
    for job_id, days in (("new", 1), ("old", 3)):
        at = time.time() - days * 86400
        body = {"id": job_id, "command": "true", "state": "dead", "finished_at": utc_text(at)}
        spool.drop_bytes(job_id, json.dumps(body).encode(), "dead")
    assert spool.run("dlq", "list", "--newer-than", "2d", "--json").json[0]["id"] == "new"
    assert spool.run("list", "--newer-than", "2d", "--ids").lines == ["new"]
    assert spool.run("list", "--newer-than", "4d", "--older-than", "2d", "--ids").lines == ["old"]


def test_a_job_that_moves_while_it_is_listed_is_listed_where_it_went(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = spool.api
    api.submit("true", id="job")
    jobs = api.jobs

    def moved_first(*args: Any) -> Iterator[Found]:
        if spool.states("job") == ["pending"]:
            os.rename(spool.file("pending", "job"), spool.file("completed", "job"))
        return jobs(*args)

    monkeypatch.setattr(api, "jobs", moved_first)
    found = select(api, Selection(STATES), 5, newest_first=True)
    assert [(item.job.id, item.state) for item in found] == [("job", "completed")]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("step", ["_entries", "jobs"])  # moved before the listing, or the reading
@pytest.mark.parametrize(
    ("before", "after"),
    [("processing", "pending"), ("failed", "processing"), ("failed", "pending")],
)
def test_a_job_that_moves_between_two_directories_is_selected(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch, before: str, after: str, step: str,
    *, newest_first: bool,
) -> None:  # fmt: skip
    """A job that moves is found.

    Otherwise `wait --tag` would say that all is done, and `cancel` would leave the job out.
    """
    api = spool.api
    api.submit("true", id="other")
    place = {state: spool.file(state, "job") for state in STATES}
    place["processing"] = api.held_file("job", "vm-1-0123abcd")
    with open(place[before], "w") as file:
        file.write('{"command": "true"}')
    real = getattr(api, step)

    def moved_first(state: str, *args: Any) -> Iterator[Any]:
        if state == before and os.path.exists(place[before]):
            os.rename(place[before], place[after])
        result: Iterator[Any] = real(state, *args)
        return result

    monkeypatch.setattr(api, step, moved_first)
    found = select(api, Selection(STATES), None, newest_first=newest_first)
    assert sorted(item.job.id for item in found) == ["job", "other"]


def test_what_was_cancelled_is_retried_only_if_that_is_said(spool: SpoolDir) -> None:
    spool.run("enqueue", "--id", "failed", "--max-retries", "1", "--command", "exit 3")
    spool.drain()
    spool.run("enqueue", "--id", "unwanted", "--command", "true")
    spool.run("cancel", "unwanted")
    for words in (["retry", "--state", "dead"], ["dlq", "retry", "--all"]):
        told = spool.run(*words, "--dry-run")
        assert told.lines == ["failed"]
        assert "left out 1 cancelled: " in told.err
    chosen = spool.run("retry", "--error-matches", "^cancelled", "--dry-run")
    assert chosen.lines == ["unwanted"]
    assert spool.run("retry", "unwanted").lines == ["unwanted"]


@pytest.mark.parametrize("elsewhere", ["< /dev/null", "2> /dev/null"])
def test_who_cannot_see_a_question_or_cannot_answer_is_asked_none(
    many: SpoolDir, elsewhere: str
) -> None:
    """A command goes on without asking if its standard input or standard error is no terminal.

    This happens in a script that somebody watches.
    """
    words = ["sh", "-c", f'exec "$@" {elsewhere}', "-", *many.command("cancel", "--all")]
    with Terminal(words, environment(many.path), 80, 24) as screen:
        assert screen.wait() == 0
        assert "?" not in screen.raw
    assert many.ids("pending") == []


def test_what_was_queued_again_is_not_as_old_as_its_last_end(spool: SpoolDir) -> None:
    times = {"created_at": OLD, "finished_at": OLD, "updated_at": utc_text(time.time())}
    spool.drop("again", **times)
    assert list_ids(spool, "--older-than", "1h") == []
    assert list_ids(spool, "--newer-than", "1h") == ["again"]


def test_a_job_that_is_seen_before_and_after_a_move_is_listed_once(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = spool.api
    spool.drop_bytes("job", b'{"command": "true"}', "completed")
    seen = {"pending": [("job", 1.0)], "completed": [("job", 2.0)]}
    monkeypatch.setattr(api, "written", lambda state: seen.get(state, []))
    found = select(api, Selection(STATES), 5, newest_first=True)
    assert [(item.job.id, item.state) for item in found] == [("job", "completed")]


def test_ten_jobs_are_not_many(spool: SpoolDir) -> None:
    for number in range(10):
        spool.drop(f"job{number}")
    with Terminal(spool.command("cancel", "--all"), environment(spool.path), 80, 24) as screen:
        assert screen.wait() == 0
        assert "?" not in screen.raw
    assert len(spool.ids("dead")) == 10
