"""Where the output goes: terminals, pipes, full disks, closed streams."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import click
import pytest

from tests.support import DEADLINE_S, ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import SpoolDir


def on_a_terminal(spool: SpoolDir, *words: str, **env: str) -> str:
    """Run queuectl with its output on a terminal; return what it wrote there, "" if it failed."""
    terminal, child = pty.openpty()
    process = spool.start(
        *words, stdout=child, env={**environment(spool.path), "TERM": "xterm", **env}
    )
    os.close(child)
    shown = b"".join(_read(terminal)).decode()
    return shown if process.wait() == 0 else ""


def _read(terminal: int) -> Iterator[bytes]:
    try:
        while data := os.read(terminal, 65536):
            yield data
    except OSError:  # the other end is closed
        return
    finally:
        os.close(terminal)


def test_colour_only_on_a_terminal_and_none_with_no_color(filled: SpoolDir) -> None:
    for words in (["status"], ["list"], ["show", "d1"]):
        assert "\x1b[" in on_a_terminal(filled, *words)
        assert "\x1b[" not in on_a_terminal(filled, *words, NO_COLOR="1")
        assert "\x1b[" not in on_a_terminal(filled, *words, TERM="dumb")
        assert "\x1b[" not in filled.run(*words).out


def test_rows_after_the_first_ones_are_cut_to_the_terminal_too(spool: SpoolDir) -> None:
    """All rows fit the terminal, although columns get wider once a later row needs more."""
    for number in range(210):
        spool.drop(f"job-{number:04}", "echo " + "x" * 100)
    body = {"command": "echo " + "y" * 100, "state": "dead", "error_message": "exit status 3"}
    spool.drop_bytes("z", json.dumps(body).encode(), "dead")
    shown = [click.unstyle(line) for line in on_a_terminal(spool, "list").splitlines()]
    assert len(shown) == 212
    assert {len(line) for line in shown[1:]} == {80}


def test_cells_are_cut_for_a_person_and_whole_for_a_program(spool: SpoolDir) -> None:
    command, why = "echo " + "x" * 200, "cancelled: " + "y" * 200
    spool.drop_bytes("d1", json.dumps({"command": command, "error_message": why}).encode(), "dead")
    for text in (command, why):
        assert text in spool.run("list").out
        assert text not in on_a_terminal(spool, "list")
        assert text[:9] in on_a_terminal(spool, "list")
    spool.drop("wide", "echo " + "日本" * 50)
    lines = on_a_terminal(spool, "list").splitlines()
    shown = [click.unstyle(line) for line in lines]
    assert max(len(line) + len(re.findall("[日本]", line)) for line in shown) <= 80


def test_the_end_of_a_command_that_is_cut_is_shown(spool: SpoolDir) -> None:
    spool.drop("one", f"convert {'-resize 50% ' * 10} /photos/first.jpg")
    assert "first.jpg" in on_a_terminal(spool, "list")


def told_a_person(spool: SpoolDir, *words: str) -> list[str]:
    """Run queuectl with standard error on a terminal; return the lines that it writes there."""
    terminal, child = pty.openpty()
    process = spool.start(*words, stdout=subprocess.DEVNULL, stderr=child)
    os.close(child)
    told = b"".join(_read(terminal)).decode().splitlines()
    assert process.wait() == 0, told
    return told


def test_a_person_is_told_that_nothing_runs_by_itself(spool: SpoolDir) -> None:
    spool.create()
    hint = "no worker is running; `queuectl worker start` starts one"
    assert told_a_person(spool, "enqueue", "true") == [hint]
    assert spool.run("enqueue", "true").err == ""
    spool.run("pause")
    assert "the spool is paused" in told_a_person(spool, "enqueue", "true")[0]


def test_a_person_is_told_that_queued_jobs_keep_their_retries(spool: SpoolDir) -> None:
    spool.create()
    assert told_a_person(spool, "config", "set", "max-retries", "1") == []
    spool.api.submit("true")
    assert "keep what they have" in told_a_person(spool, "config", "set", "max-retries", "2")[0]


def test_a_person_is_told_who_knows_why_jobs_are_dead(spool: SpoolDir) -> None:
    spool.create()
    assert told_a_person(spool, "status") == []
    spool.drop_bytes("d", b'{"command": "true", "state": "dead"}', "dead")
    assert told_a_person(spool, "status") == ["`queuectl dlq list` says why jobs are dead"]


def test_a_person_is_told_that_nothing_is_listed(spool: SpoolDir) -> None:
    spool.create()
    assert told_a_person(spool, "list") == ["no jobs match"]
    assert told_a_person(spool, "dlq", "list") == ["no jobs match"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["make", "-j4", "--priority", "3"], "--priority goes to the command"),
        (["rsync", "--timeout=3", "a", "b"], "--timeout=3 goes to the command"),
        (["--", "ls | wc -l"], 'no program is called "ls | wc -l"'),
        (["--", "/bin/ls a/b"], 'no program is called "/bin/ls a/b"'),
        (["ls", "|", "wc"], 'no shell sees "|" here'),
        (["--", "make", "&&", "make", "install"], 'no shell sees "&&" here'),
        (["gzip", "{}"], "{} and ::: are not filled in here"),
        (["gzip", "{}", ":::", "a", "b"], "{} and ::: are not filled in here"),
        (
            ["--cwd", "/nowhere/at/all", "--", "true"],
            "directory /nowhere/at/all does not exist now",
        ),
    ],
)
def test_a_person_is_told_of_what_is_likely_a_slip(
    spool: SpoolDir, words: list[str], hint: str
) -> None:
    assert told_a_person(spool, "enqueue", *words)[0].startswith(f"queuectl: {hint}")
    assert spool.run("enqueue", *words).err == ""


def test_what_is_no_slip_is_not_told(spool: SpoolDir, tmp_path: Path) -> None:
    spool.create()
    program = tmp_path / "with blanks in it"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    spool.run("pause")
    for words in (
        ["--priority", "3", "make", "-j4", "--keep-going"],
        ["--", "rsync", "--timeout", "3", "a", "b"],
        ["--", str(program)],
        ["--", "bin/a program of another directory"],
        ["--", "find", ".", "-exec", "rm", "{}", ";"],
        ["--", "/usr/bin/parallel", "gzip", "{}", ":::", "a"],
        ["--", "curl", "-d", "{}", "http://localhost/hook"],
        ["--", "cut", "-d", "|", "-f", "2"],
        ["ls | wc -l"],
        ["--cwd", "/", "--", "true"],
    ):
        told = told_a_person(spool, "enqueue", *words)
        assert [line for line in told if "paused" not in line] == [], words


def piped_into_head(
    spool: SpoolDir, count: int, words: list[str], tmp_path: Path
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Pipe a command into `head -n COUNT`; return the finished pipe and both exit statuses."""
    line = f"{' '.join(spool.command(*words))} | head -n {count}"
    done = subprocess.run(
        ["bash", "-c", f'{line}; echo "${{PIPESTATUS[@]}}" > {tmp_path}/status'],
        capture_output=True,
        text=True,
        env=environment(spool.path),
    )
    return done, (tmp_path / "status").read_text()


def test_a_closed_pipe_is_no_error(spool: SpoolDir, tmp_path: Path) -> None:
    spool.create()
    for number in range(3000):
        with open(spool.file("completed", f"job-{number:04}"), "w") as file:
            file.write('{"command": "echo what is longer than a pipe holds, in all"}')
    for words in ("list", "list --json"):
        done, statuses = piped_into_head(spool, 2, words.split(), tmp_path)
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 2
        assert statuses == "0 0\n"


def test_a_full_disk_under_standard_output_is_told(filled: SpoolDir) -> None:
    with open("/dev/full", "wb") as full:
        process = filled.start("list", stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.decode() == "queuectl: cannot write to standard output: No space left on device\n"


def test_a_closed_pipe_that_left_work_undone_is_told_by_the_status(
    spool: SpoolDir, tmp_path: Path
) -> None:
    lines = tmp_path / "jobs.jsonl"
    lines.write_text('{"command": "true"}\n' * 6000)
    _, statuses = piped_into_head(spool, 1, ["enqueue", f"@{lines}"], tmp_path)
    assert statuses == "141 0\n"
    assert len(spool.ids("pending")) < 6000


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_not_there_changes_nothing_else(spool: SpoolDir, closed: str) -> None:
    for words in (
        ["enqueue", "--id", "one", "--", "true"],
        ["worker", "start", "--stop-when-empty"],
        ["wait", "one"],
        ["status"],
        ["list"],
        ["-h"],
    ):
        line = " ".join([*spool.command(*words), closed])
        done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment(spool.path))
        assert done.returncode == 0, (words, done.stderr)
    assert spool.ids("completed") == ["one"]


def test_an_input_that_is_not_there_is_not_an_empty_one(spool: SpoolDir) -> None:
    line = " ".join([*spool.command("enqueue", "-"), "<&-"])
    done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment(spool.path))
    assert done.returncode == 1
    assert done.stderr == b"queuectl: cannot read standard input: Bad file descriptor\n"


def with_closed_pipe(spool: SpoolDir, stream: str, *words: str) -> int:
    """Run a command with one of its streams in a pipe that nobody reads; return its exit status."""
    reader, writer = os.pipe()
    os.close(reader)
    process = spool.start(*words, **{stream: writer})
    os.close(writer)
    return process.wait(DEADLINE_S)


@pytest.mark.parametrize("words", [["-h"], ["--version"], ["list", "-h"], ["status"]])
def test_who_only_looks_ends_well_where_nobody_reads(spool: SpoolDir, words: list[str]) -> None:
    spool.create()
    assert with_closed_pipe(spool, "stdout", *words) == 0


@pytest.mark.parametrize("words", [["wait", "bad", "later"], ["doctor", "later"]])
def test_who_is_asked_for_a_status_gives_none_that_is_not_true(
    spool: SpoolDir, words: list[str]
) -> None:
    spool.api.submit("exit 3", id="bad", max_retries=1)
    spool.api.submit("true", id="later", run_at="2100-01-01T00:00:00Z")
    spool.drain()
    assert with_closed_pipe(spool, "stdout", *words) == 141


def test_a_note_that_nobody_reads_ends_no_command(spool: SpoolDir) -> None:
    spool.api.submit("exit 3", id="bad", max_retries=1)
    reader, writer = os.pipe()
    process = spool.start("wait", "bad", stdout=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    assert b"no worker is running" in os.read(reader, 1024)
    os.close(reader)
    spool.drain()
    assert process.wait(DEADLINE_S) == 3


def test_where_a_hint_cannot_be_written_the_job_is_queued(spool: SpoolDir) -> None:
    with open("/dev/full", "wb") as full:
        words = ["enqueue", '{"id": "job", "command": "true", "delay": 5}']
        process = spool.start(*words, stdout=subprocess.DEVNULL, stderr=full)
    assert process.wait(DEADLINE_S) == 0
    assert spool.states("job") == ["pending"]


def test_what_the_locale_has_no_letters_for_is_shown_in_escapes(spool: SpoolDir) -> None:
    spool.api.submit("echo \N{SNOWMAN}", id="job", tags=["\ud800"])
    assert "echo \\u2603" in spool.run("list", PYTHONIOENCODING="latin-1").out
    assert "\\ud800" in spool.run("show", "job", PYTHONIOENCODING="utf-8:strict").out


def test_nothing_in_a_record_or_a_name_reaches_the_terminal_as_a_command(spool: SpoolDir) -> None:
    spool.drop("job", "true", **{"\x1b]0;x\x07": "a", "note": ["\x9b2J"]})
    os.rename(spool.file("pending", "job"), spool.file("pending", "\x1b[2J"))
    spool.drop("other", "true", **{"\x1b]0;x\x07": "a", "note": ["\x9b2J"]})
    for words in (["list"], ["show", "other"], ["cancel", "--all", "--dry-run"]):
        out = spool.run(*words).out
        assert "other" in out
        assert not {"\x1b", "\x07", "\x9b"} & set(out), out


def test_what_is_told_of_a_job_is_one_line_whatever_the_path_holds(spool: SpoolDir) -> None:
    there = ("--spool", f"{spool.path}\nb")
    spool.run(*there, "enqueue", "true")
    assert 'no job "nope" in' in spool.refuse(*there, "cancel", "nope")


def test_an_interrupt_while_modules_load_is_one_line_too(spool: SpoolDir, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass\n"
    )
    result = spool.run("status", status=130, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert result.err == "queuectl: interrupted\n"


def test_who_cannot_be_told_the_id_is_told_that_the_job_is_queued(spool: SpoolDir) -> None:
    with open("/dev/full", "wb") as full:
        words = ("enqueue", "--id", "job", "--", "true")
        process = spool.start(*words, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate()
    assert process.returncode == 1
    assert b"No space left on device; queued all the same: job" in err
    assert spool.states("job") == ["pending"]


def test_who_cannot_be_told_what_was_done_is_told_that_it_is(spool: SpoolDir) -> None:
    with spool.pool(), open("/dev/full", "wb") as full:
        for words, how_it_is in (
            (["config", "set", "max-retries", "7"], "what was asked has been done, or a part"),
            (["run", "--id", "job", "--command", "echo a; sleep 100"], "job stays queued, or run"),
        ):
            with spool.start(*words, stdout=full, stderr=subprocess.PIPE) as process:
                _, err = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 1
            assert f"No space left on device; {how_it_is}" in err.decode()
        assert spool.run("cancel", "job").out == "job\n"
    assert spool.run("config", "get", "max-retries").out == "7\n"


def test_who_queues_many_and_cannot_be_told_all_is_told_how_many_there_are(
    spool: SpoolDir, tmp_path: Path
) -> None:
    commands = tmp_path / "commands"
    commands.write_text("true\n" * 2000)
    with open("/dev/full", "wb") as full:
        words = ("enqueue", "--commands", str(commands))
        process = spool.start(*words, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate()
    assert process.returncode == 1
    queued = sorted(spool.ids("pending"))
    assert 0 < len(queued) < 2000
    assert f"; at least {len(queued)} of 2000 are queued, up to {queued[-1]}" in err.decode()


def test_who_stops_reading_the_ids_is_told_how_many_there_are(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.create()
    commands = tmp_path / "commands"
    commands.write_text("true\n" * 2000)
    words = ("enqueue", "--commands", str(commands))
    process = spool.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert process.returncode == 141
    queued = sorted(spool.ids("pending"))
    assert 0 < len(queued) < 2000
    told = f"at least {len(queued)} of 2000 are queued, up to {queued[-1]}"
    assert err.decode() == f"queuectl: {told}\n"


def test_help_that_nobody_asked_for_is_no_answer(spool: SpoolDir) -> None:
    for words in ([], ["worker"]):
        result = spool.run(*words, status=2)
        assert result.out == ""
        assert "Commands:" in result.err


def test_who_is_told_to_end_again_and_again_shows_no_traceback(spool: SpoolDir) -> None:
    spool.create()
    for _ in range(10):
        words = ("enqueue", "--wait", "true")
        with spool.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as waiting:
            assert waiting.stderr is not None
            assert b"no worker is running" in waiting.stderr.readline()
            while waiting.poll() is None:
                waiting.send_signal(signal.SIGHUP)
                waiting.send_signal(signal.SIGTERM)
            assert b"Traceback" not in waiting.stderr.read()
        assert waiting.returncode in (-signal.SIGHUP, -signal.SIGTERM)
