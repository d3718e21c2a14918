"""`queuectl logs`: what a job printed, and what it prints now."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuectl.cli.following import hindering
from tests.support import (
    DEADLINE_S,
    cpu_ticks,
    environment,
    inotify_instances,
    wait_until,
    waiting_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import Child, Pool, SpoolDir

# A part of a command that waits until a file appears: the tests decide what comes when.
PAUSE = "while [ ! -e {gate} ]; do sleep 0.02; done"


@pytest.fixture
def ran(spool: SpoolDir) -> SpoolDir:
    """Return a spool with a job that ran twice, and whose lines begin with the attempt."""
    spool.configure(backoff_base=0)
    command = "for n in 1 2 3; do echo $QUEUECTL_ATTEMPT.$n; done; echo bad >&2; exit 1"
    spool.api.submit(command, id="job", max_retries=2)
    spool.drain()
    return spool


def test_without_an_id_it_is_the_job_that_began_last(ran: SpoolDir) -> None:
    assert ran.run("logs").out == "2.1\n2.2\n2.3\n"
    ran.drop("next", "echo next; sleep 600")
    with ran.pool():
        wait_until(lambda: ran.output("next"))
        result = ran.run("logs")
        assert (result.out, result.err) == (
            "next\n",
            'queuectl: the job that began last is "next"\n',
        )
        assert ran.run("show").lines[0].split() == ["id", "next"]
        ran.run("cancel", "next")


def test_what_never_ran_did_not_begin_last(ran: SpoolDir) -> None:
    ran.api.submit("true", id="cancelled")
    ran.run("cancel", "cancelled")
    ran.drop_bytes("bad", b"[]")
    ran.drain()
    for number in range(120):
        ran.drop_bytes(f"never{number}", b'{"command": "true", "state": "dead"}', "dead")
    assert ran.run("logs").err.startswith('queuectl: the job that began last is "job"')


def test_a_record_that_stays_broken_is_told_to_who_follows(spool: SpoolDir, tmp_path: Path) -> None:
    spool.drop("job")
    whole = Path(spool.file("pending", "job")).read_bytes()
    with open(tmp_path / "told", "wb") as file:
        following = spool.start("logs", "-f", "job", stdout=file, stderr=file)
    with following:
        wait_until(lambda: "no worker is running" in (tmp_path / "told").read_text())
        Path(spool.file("pending", "job")).write_bytes(whole[:10])
        wait_until(lambda: "still waiting for it" in (tmp_path / "told").read_text())
        Path(spool.file("pending", "job")).write_bytes(whole)
        spool.drain()
        assert following.wait(DEADLINE_S) == 0
    assert (tmp_path / "told").read_text().count("pending/job.json: not JSON") == 1


def test_nothing_has_begun_in_a_new_spool(spool: SpoolDir) -> None:
    spool.create()
    assert "no job has begun yet" in spool.refuse("logs")


def test_who_follows_what_goes_to_the_other_stream_is_told(spool: SpoolDir, tmp_path: Path) -> None:
    wait = waiting_for(f"{tmp_path}/go")
    spool.drop("loud", f"sleep 1.3; echo loud >&2; {wait}")  # after the first look, unwatched
    with spool.pool():
        process = spool.start("logs", "-f", "loud", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert line.startswith("nothing on standard output so far; 5 B on standard error")
        (tmp_path / "go").touch()
        process.communicate()


def test_the_output_of_the_last_run_is_printed(ran: SpoolDir) -> None:
    assert ran.run("logs", "job").out == "2.1\n2.2\n2.3\n"


def test_an_earlier_run_is_printed_by_its_number(ran: SpoolDir) -> None:
    assert ran.run("logs", "--attempt", "1", "job").out == "1.1\n1.2\n1.3\n"


def test_only_the_last_lines_are_printed(ran: SpoolDir) -> None:
    assert ran.run("logs", "--lines", "2", "job").out == "2.2\n2.3\n"


def test_standard_error_is_printed_instead(ran: SpoolDir) -> None:
    assert ran.run("logs", "--stderr", "job").out == "bad\n"


def test_both_are_printed_under_headings(ran: SpoolDir) -> None:
    out = ran.run("logs", "--all", "-n", "1", "job").out
    assert out == "==> stdout <==\n2.3\n\n==> stderr <==\nbad\n"


def test_a_part_of_the_id_is_enough(ran: SpoolDir) -> None:
    assert ran.run("logs", "j").out == "2.1\n2.2\n2.3\n"


def test_bytes_come_out_as_they_went_in(spool: SpoolDir) -> None:
    spool.api.submit(r"printf 'a\000\377\033[1mb'", id="job")
    spool.drain()
    with spool.start("logs", "job", stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.read() == b"a\0\xff\x1b[1mb"


def test_a_job_that_has_not_run_says_so(spool: SpoolDir) -> None:
    spool.run("enqueue", '{"id": "job", "command": "true", "rejected": "a field of the user\'s"}')
    assert "has not run yet" in spool.refuse("logs", "job")


def test_a_run_that_was_not_says_how_many_there_were(ran: SpoolDir) -> None:
    assert "has had 2 runs, not 3" in ran.refuse("logs", "--attempt", "3", "job")


def test_of_a_job_that_will_never_run_that_is_said(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job")
    spool.run("cancel", "job")
    for words in (["logs", "job"], ["logs", "-f", "job"]):
        assert 'job "job" never ran: cancelled' in spool.refuse(*words)


def test_a_run_that_will_not_come_is_not_followed(ran: SpoolDir) -> None:
    assert "has had" in ran.refuse("logs", "-f", "--attempt", "9", "job")


def test_output_that_was_deleted_says_so(ran: SpoolDir) -> None:
    os.unlink(f"{ran.path}/logs/job.2.out")
    assert "the output of run 2" in ran.refuse("logs", "job")


def test_an_unknown_id_says_what_to_do(ran: SpoolDir) -> None:
    assert "`queuectl list` shows what there is" in ran.refuse("logs", "nope")


def test_opposites_are_refused(ran: SpoolDir) -> None:
    assert "cannot be combined" in ran.refuse("logs", "--all", "--stderr", "job", status=2)


# --- following ------------------------------------------------------------------------------


def follow(spool: SpoolDir, out: Path, *words: str, **env: str) -> Child:
    with open(out, "wb") as file:
        return spool.start("logs", "-f", *words, stdout=file, env=environment(spool.path, **env))


def test_following_shows_each_line_as_it_comes_through_retries_until_the_end(
    spool: SpoolDir, tmp_path: Path
) -> None:
    # by polling alone, nothing of this would be seen within the deadline
    spool.configure(poll_interval=3600, backoff_base=0)
    gates = [tmp_path / "gate1", tmp_path / "gate2"]
    pause = PAUSE.format(gate=f"{tmp_path}/gate$QUEUECTL_ATTEMPT")
    command = f"echo $QUEUECTL_ATTEMPT begun; {pause}; echo $QUEUECTL_ATTEMPT ends; exit 1"
    out = tmp_path / "out"
    with spool.pool():
        spool.api.submit(command, id="job", max_retries=2)
        with follow(spool, out, "job") as follower:
            wait_until(lambda: out.read_text() == "1 begun\n", out.read_text)
            gates[0].touch()
            wait_until(lambda: out.read_text().endswith("2 begun\n"), out.read_text)
            assert follower.poll() is None
            gates[1].touch()
            assert follower.wait(DEADLINE_S) == 0
    assert out.read_text() == "1 begun\n1 ends\n2 begun\n2 ends\n"


def test_following_shows_what_is_written_in_the_middle_of_a_run(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(poll_interval=3600)
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    command = f"echo 1; {PAUSE.format(gate=first)}; echo 2; echo 2 >&2; {PAUSE.format(gate=second)}"
    with spool.pool() as pool:
        spool.api.submit(command, id="job")
        pool.wait_for("started", "job")
        with follow(spool, out, "--all", "job") as follower:
            wait_until(lambda: b"1\n" in out.read_bytes(), out.read_text)
            first.touch()
            wait_until(lambda: out.read_text().count("2\n") == 2, out.read_text)
            second.touch()
            assert follower.wait(DEADLINE_S) == 0


def test_following_waits_for_a_job_that_has_not_begun(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=3600)
    spool.api.submit("echo hello", id="job")
    out = tmp_path / "out"
    with follow(spool, out, "job") as follower, spool.pool():
        assert follower.wait(DEADLINE_S) == 0
    assert out.read_text() == "hello\n"


def test_several_jobs_are_followed_each_piece_under_its_id_until_all_have_ended(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(poll_interval=3600)
    gates, out = {name: tmp_path / name for name in "abc"}, tmp_path / "out"
    for name, gate in gates.items():
        spool.drop(name, f"echo {name}1; {PAUSE.format(gate=gate)}; echo {name}2")

    def has_printed(text: str) -> None:
        wait_until(lambda: out.read_text().endswith(text), out.read_text)

    with spool.pool(count=3) as pool:
        for name in gates:
            wait_until(lambda name=name: spool.output(name), pool.log)  # type: ignore[misc]
        with follow(spool, out, "a", "b", "a") as follower:
            wait_until(lambda: "a1\n" in out.read_text() and "b1\n" in out.read_text())
            assert sorted(out.read_text().split("\n\n")) == ["==> a <==\na1", "==> b <==\nb1\n"]
            if sys.platform == "linux" and sys.version_info >= (3, 11):  # watchdog 6 has one a file
                assert inotify_instances(follower.pid) == 1
            gates["b"].touch()
            has_printed("b1\nb2\n")  # no new heading for the same job
            gates["a"].touch()
            has_printed("\n\n==> a <==\na2\n")
            assert follower.wait(DEADLINE_S) == 0
        gates["c"].touch()
    assert "c1" not in out.read_text()


def test_what_cannot_be_followed_is_told_and_the_others_are_followed(ran: SpoolDir) -> None:
    ran.drop("quiet", "echo a >&2")
    ran.drain()
    result = ran.run("logs", "-f", "job", "nowhere", "quiet", "--all", status=1)
    headings = [line for line in result.lines if line.startswith("==>")]
    assert headings == [
        "==> job stdout <==",
        "==> job stderr <==",
        "==> quiet stderr <==",
    ]
    refusal, death = result.err.splitlines()
    assert 'no job "nowhere"' in refusal
    assert death == "queuectl: job is dead: exit status 1"
    result = ran.run("logs", "-f", "job", "quiet")
    assert result.err.splitlines() == [
        "job: also 4 B on standard error (--stderr or --all prints it)",
        death,
        "quiet: nothing on standard output; 2 B on standard error (--stderr prints it)",
    ]


def test_of_several_that_are_followed_one_that_is_deleted_is_told(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop("gone", run_at="2100-01-01T00:00:00Z")
    spool.drop("stays", f"echo begun; {waiting_for(f'{tmp_path}/go')}")
    with spool.pool():
        words = ("logs", "-f", "gone", "stays")
        process = spool.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"==> stays <==\n"
        os.unlink(spool.file("pending", "gone"))
        (tmp_path / "go").touch()
        _, told = process.communicate()
    assert (process.returncode, told) == (1, b"queuectl: gone is gone: somebody deleted it\n")


def test_of_several_that_are_followed_one_that_cannot_be_read_is_told_once(
    spool: SpoolDir,
) -> None:
    spool.api.submit("sleep 600", id="a")
    spool.api.submit("while :; do echo x; sleep 0.05; done", id="b")
    with spool.pool(2) as pool:
        pool.wait_for("started", "a")
        pool.wait_for("started", "b")
        os.unlink(f"{spool.path}/logs/a.1.out")
        os.symlink("/dev/null", f"{spool.path}/logs/a.1.out")
        with spool.start(
            "logs", "-f", "a", "b", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as following:
            assert following.stdout is not None
            for _ in range(20):
                assert following.stdout.readline()
            spool.run("cancel", "a", "b")
            _, err = following.communicate()
        assert err.count(b"cannot read") == 1, err
        assert following.returncode == 1


def test_that_one_of_several_cannot_be_read_is_said_on_a_line_of_its_own(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.api.submit("sleep 600", id="a")
    spool.api.submit("printf half; sleep 600", id="b")
    out = tmp_path / "out"
    with spool.pool(2) as pool, open(out, "wb") as file:
        pool.wait_for("started", "a")
        pool.wait_for("started", "b")
        wait_until(lambda: spool.output("b"))
        os.unlink(f"{spool.path}/logs/a.1.out")
        os.symlink("/dev/null", f"{spool.path}/logs/a.1.out")
        with spool.start("logs", "-f", "b", "a", stdout=file, stderr=file) as following:
            wait_until(lambda: "cannot read" in out.read_text(), out.read_text)
            spool.run("cancel", "a", "b")
            assert following.wait(DEADLINE_S) == 1
    assert "half\nqueuectl: cannot read" in out.read_text()


@contextlib.contextmanager
def paused(spool: SpoolDir) -> Iterator[Pool]:
    """Pause a spool in which one job has ended and another runs; yield its pool."""
    spool.api.submit("echo", id="over")
    spool.api.submit("sleep 600", id="runs")
    with spool.pool(2) as pool:
        pool.wait_for("completed", "over")
        pool.wait_for("started", "runs")
        spool.run("pause")
        yield pool


def test_of_several_that_are_followed_a_pause_is_no_hindrance_to_what_runs(
    spool: SpoolDir,
) -> None:
    with paused(spool):
        with spool.start(
            "logs", "-f", "over", "runs", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as following:
            assert following.stdout is not None
            assert following.stdout.readline() == b"==> over <==\n"
            time.sleep(1.5)
            spool.run("cancel", "runs")
            _, err = following.communicate()
        assert b"paused" not in err


def test_who_follows_what_is_for_later_is_told_when_it_is_due(spool: SpoolDir) -> None:
    spool.run("enqueue", "--id", "later", "--run-at", "2999-01-01T00:00:00Z", "true")
    with spool.pool():
        for words in (["logs", "-f"], ["wait"]):
            with spool.start(*words, "later", stdout=-3, stderr=subprocess.PIPE) as following:
                assert following.stderr is not None
                assert b"later is scheduled for 2999-01-01 " in following.stderr.readline()
                time.sleep(1.5)  # long enough for another look
                following.terminate()
                assert following.stderr.read() in (b"", b"queuectl: interrupted\n")


def test_what_has_ended_since_it_was_looked_at_waits_for_nothing(spool: SpoolDir) -> None:
    with paused(spool) as pool:
        assert hindering(spool.api, ["over", "runs"]) == []
        spool.api.submit("true", id="waits")
        (why,) = hindering(spool.api, ["over", "runs", "waits"])
        assert "paused" in why
        assert hindering(spool.api, ["runs", "waits"], any_one=True) == []
        pool.kill()
    (why,) = hindering(spool.api, ["runs"])
    assert "no worker" in why
    assert hindering(spool.api, ["over"]) == []


def test_who_follows_standard_error_from_here_is_not_sent_to_it(spool: SpoolDir) -> None:
    spool.api.submit("echo err >&2; sleep 600", id="job")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        wait_until(lambda: spool.output("job", 1, "err"))
        words = ("logs", "-f", "--stderr", "--lines", "0", "job")
        with spool.start(*words, stderr=subprocess.PIPE) as following:
            time.sleep(2)
            spool.run("cancel", "job")
            _, err = following.communicate()
        assert b"nothing on standard output" not in err


def test_a_job_that_is_named_twice_is_followed_once(spool: SpoolDir) -> None:
    spool.api.submit("echo out", id="job")
    spool.drain()
    assert spool.run("logs", "-f", "job", "jo").out == "out\n"


def test_following_begins_with_the_last_lines_if_asked_to(ran: SpoolDir, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with follow(ran, out, "--lines", "1", "job") as follower:
        assert follower.wait(DEADLINE_S) == 0
    assert out.read_text() == "2.3\n"


def test_following_from_the_first_attempt_shows_all_of_them(ran: SpoolDir, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with follow(ran, out, "--attempt", "1", "job") as follower:
        assert follower.wait(DEADLINE_S) == 0
    assert out.read_text() == "1.1\n1.2\n1.3\n2.1\n2.2\n2.3\n"


def test_following_works_slowly_where_no_events_come(spool: SpoolDir, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "watchdog").mkdir(parents=True)
    (broken / "watchdog" / "__init__.py").write_text("raise ImportError('not here')")
    spool.configure(poll_interval=3600)
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    path = f"{broken}:{environment('')['PYTHONPATH']}"
    pauses = [PAUSE.format(gate=gate) for gate in (first, second)]
    with spool.pool():
        spool.api.submit(f"echo begun; {pauses[0]}; echo on; {pauses[1]}; echo ends", id="job")
        with follow(spool, out, "job", PYTHONPATH=path) as follower:
            wait_until(lambda: out.read_text() == "begun\n", out.read_text)
            ticks = cpu_ticks(follower.pid)
            time.sleep(1)
            assert cpu_ticks(follower.pid) - ticks < os.sysconf("SC_CLK_TCK") / 4
            first.touch()
            # the one look for output on the other stream may find this, too, but not what follows
            wait_until(lambda: out.read_text() == "begun\non\n", out.read_text)
            second.touch()
            assert follower.wait(DEADLINE_S) == 0
    assert out.read_text() == "begun\non\nends\n"


def test_following_ends_when_the_job_is_deleted(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.05)
    spool.api.submit("true", id="job")
    with follow(spool, tmp_path / "out", "job") as follower:
        os.unlink(spool.file("pending", "job"))
        assert follower.wait(DEADLINE_S) == 1


def test_following_ends_when_the_job_is_deleted_meanwhile(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.05)
    spool.api.submit("true", id="job")
    with spool.start("logs", "--follow", "job", stderr=subprocess.PIPE) as follower:
        assert follower.stderr is not None
        assert b"no worker is running" in follower.stderr.readline()  # so it is following by now
        os.unlink(spool.file("pending", "job"))
        try:
            assert follower.wait(DEADLINE_S) == 1
        finally:
            follower.kill()
        assert b"job is gone: somebody deleted it" in follower.stderr.read()


@pytest.mark.parametrize(
    ("put", "what"), [(os.mkdir, "a directory"), (os.mkfifo, "a FIFO")], ids=["directory", "fifo"]
)
@pytest.mark.parametrize("options", [[], ["-n", "1"], ["-f"]])
def test_an_output_that_is_no_file_is_told_and_the_others_are_shown(
    spool: SpoolDir, put: Callable[[str], None], what: str, options: list[str]
) -> None:
    for job_id in ("x", "y"):
        spool.drop(job_id, f"echo {job_id}")
    spool.drain()
    path = f"{spool.path}/logs/x.1.out"
    os.unlink(path)
    put(path)
    done = spool.run("logs", *options, "x", "y", status=1)
    assert "y" in done.lines
    assert f"cannot read {path}: {what}, not a regular file" in done.err


def test_that_a_job_is_gone_is_said_on_a_line_of_its_own(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.05)
    spool.drop("job", f"printf half; {waiting_for(f'{tmp_path}/go')}")
    out = tmp_path / "out"
    with spool.pool(), open(out, "wb") as file:
        wait_until(lambda: spool.output("job"))
        with spool.start("logs", "-f", "job", stdout=file, stderr=file) as follower:
            wait_until(lambda: out.read_text() == "half", out.read_text)
            (held,) = spool.api.held()
            os.unlink(held.path)
            assert follower.wait(DEADLINE_S) == 1
        (tmp_path / "go").touch()
    assert out.read_text() == "half\nqueuectl: job is gone: somebody deleted it\n"


def test_looking_at_output_does_not_import_watchdog(ran: SpoolDir, tmp_path: Path) -> None:
    broken = tmp_path / "watchdog"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise SystemExit('imported')")
    path = f"{tmp_path}:{environment('')['PYTHONPATH']}"
    assert ran.run("logs", "job", PYTHONPATH=path).out == "2.1\n2.2\n2.3\n"


def test_who_follows_is_told_how_each_ended_that_did_not_complete(spool: SpoolDir) -> None:
    spool.drop("dies", "echo epoch 1; exit 3", max_retries=1)
    spool.drop("ends", "echo epoch 1")
    spool.drain()
    assert spool.run("logs", "-f", "dies").err == "queuectl: dies is dead: exit status 3\n"
    assert spool.run("logs", "-f", "ends").err == ""
    assert (
        spool.run("logs", "-f", "dies", "--lines", "0").err
        == "queuectl: dies is dead: exit status 3\n"
    )
    spool.drop("told", "echo why >&2; exit 4", max_retries=1)
    spool.drop("mute", "exit 5", max_retries=1)
    spool.drain()
    assert spool.run("logs", "-f", "told").err.endswith("\nqueuectl: told is dead: exit status 4\n")
    assert spool.run("logs", "-f", "mute").err.count("exit status 5") == 1
    spool.drop("moved")
    spool.drain()
    os.rename(spool.file("completed", "moved"), spool.file("dead", "moved"))
    assert spool.run("logs", "-f", "moved").err.endswith("moved is dead: no reason is recorded\n")


# --- the size cap ---------------------------------------------------------------------------


def test_the_middle_of_large_output_is_cut_out_when_the_run_ends(spool: SpoolDir) -> None:
    spool.run("config", "set", "log-max-size", "64k")
    spool.api.submit("seq 1 100000; seq 1 100000 >&2", id="job")
    spool.api.submit("seq 1 10", id="small")
    spool.drain()
    for stream in ("out", "err"):
        lines = spool.output("job", stream=stream).splitlines()
        assert (lines[0], lines[-1]) == ("1", "100000")
        marks = [line for line in lines if line.startswith("[queuectl: ")]
        assert len(marks) == 1
        assert os.path.getsize(f"{spool.path}/logs/job.1.{stream}") <= 65536
    assert spool.output("small") == "".join(f"{n}\n" for n in range(1, 11))


@pytest.mark.parametrize("text", ["\u2588" * 40_000, "50%\r" * 30_000], ids=["one line", "a bar"])
def test_no_character_and_no_line_begun_anew_is_cut_in_two(spool: SpoolDir, text: str) -> None:
    """The prefixes put the cut at each place within a character, and it splits none."""
    spool.run("config", "set", "log-max-size", "64k")
    for length in range(4):
        path = f"{spool.path}.{length}"
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write("x" * length + text)
        spool.api.submit(f"cat {path}", id=f"job{length}")
    spool.drain()
    for length in range(4):
        with open(f"{spool.path}/logs/job{length}.1.out", encoding="utf-8", newline="") as file:
            head, mark, tail = file.read().split("\n")
        assert mark.startswith("[queuectl: ")
        piece = text[:4] if "\r" in text else text[0]
        assert set(head[length:].split(piece)) == {""}
        assert set(tail.split(piece)) == {""}


def test_a_run_has_ended_before_its_output_is_cut(spool: SpoolDir) -> None:
    spool.configure(log_max_size=64 << 20)  # copying half of it takes some time
    spool.api.submit("truncate -s 200M /proc/self/fd/1; echo", id="job")
    spool.drain()
    cut_at_s = os.stat(f"{spool.path}/logs/job.1.out").st_mtime
    finished_at = spool.api.find("job").job.instant("finished_at")
    assert finished_at is not None
    assert finished_at <= cut_at_s


def test_following_a_job_that_never_ran_says_why(spool: SpoolDir) -> None:
    spool.api.submit("true", id="job", run_at="2100-01-01T00:00:00Z")
    words = ("logs", "-f", "job")
    following = spool.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert following.stderr is not None
    with following:
        assert b"no worker is running" in following.stderr.readline()
        spool.run("cancel", "job")
        assert b'job "job" never ran: cancelled' in following.stderr.read()
    assert following.returncode == 1


def test_following_what_printed_only_errors_says_where_they_are(spool: SpoolDir) -> None:
    spool.api.submit("echo bad >&2", id="job")
    spool.drain()
    followed = spool.run("logs", "-f", "job")
    assert followed.out == ""
    assert (
        followed.err == "nothing on standard output; 4 B on standard error (--stderr prints it)\n"
    )


def test_a_run_that_printed_nothing_there_says_where_it_did(spool: SpoolDir) -> None:
    spool.drop("errs", "echo wrong >&2; exit 1", max_retries=1)
    spool.drop("talks", "echo fine")
    spool.drop("silent", "true")
    spool.drain()
    said = {words: spool.run("logs", *words).err for words in [
        ("errs",), ("errs", "--stderr"), ("talks",), ("talks", "--stderr"), ("silent",),
        ("silent", "--all"),
    ]}  # fmt: skip
    assert said == {
        ("errs",): "nothing on standard output; 6 B on standard error (--stderr prints it)\n",
        ("errs", "--stderr"): "",
        ("talks",): "",
        ("talks", "--stderr"): (
            "nothing on standard error; 5 B on standard output (printed without --stderr)\n"
        ),
        ("silent",): "run 1 printed nothing\n",
        ("silent", "--all"): "run 1 printed nothing\n",
    }


def test_where_nothing_was_printed_the_reason_is_said(spool: SpoolDir) -> None:
    spool.api.submit(["/nowhere"], id="job", max_retries=1)
    spool.drain()
    note = "run 1 printed nothing: exit status 127 (command not found)\n"
    assert spool.run("logs", "job").err == note


@pytest.mark.parametrize("options", [[], ["-f"], ["--all"]])
def test_a_job_does_not_print_its_output_into_its_output(
    spool: SpoolDir, options: list[str]
) -> None:
    words = shlex.join(spool.command("logs", *options, "me"))
    spool.api.submit(f"echo begun; {words}", id="me", max_retries=1)
    spool.drain()
    assert spool.output("me") == "begun\n"
    assert "itself" in spool.output("me", 1, "err")


def test_a_job_may_hand_on_what_it_has_printed(spool: SpoolDir) -> None:
    words = shlex.join(spool.command("logs", "me"))
    spool.api.submit(f"echo begun; {words} | sed s/^/again:/", id="me")
    spool.drain()
    assert spool.output("me") == "begun\nagain:begun\n"


def test_of_several_jobs_each_comes_under_its_id(spool: SpoolDir) -> None:
    spool.api.submit("echo one", id="a")
    spool.api.submit("echo two", id="b")
    spool.drain()
    spool.api.submit("true", id="waits")
    result = spool.run("logs", "a", "waits", "b", status=1)
    assert result.out == "==> a <==\none\n\n==> waits <==\n\n==> b <==\ntwo\n"
    assert "has not run yet" in result.err


def test_of_a_run_that_failed_its_standard_error_is_pointed_to(spool: SpoolDir) -> None:
    spool.api.submit("echo progress; echo no room >&2; exit 3", id="a", max_retries=1)
    spool.api.submit("echo progress; echo warning >&2", id="b")
    spool.drain()
    for words in (["logs", "a"], ["logs", "-f", "a"]):
        assert "on standard error (--stderr" in spool.run(*words).err
    assert spool.run("logs", "b").err == ""


def test_at_a_terminal_standard_error_is_pointed_to_though_the_job_completed(
    spool: SpoolDir,
) -> None:
    spool.drop("b", "echo progress; echo warning >&2")
    spool.drain()
    master, slave = pty.openpty()
    with spool.start("logs", "b", stdout=subprocess.DEVNULL, stderr=slave):
        os.close(slave)
        assert (
            os.read(master, 1000) == b"also 8 B on standard error (--stderr or --all prints it)\r\n"
        )
    os.close(master)


def test_a_run_that_goes_on_has_printed_nothing_yet(spool: SpoolDir, tmp_path: Path) -> None:
    spool.drop("a", waiting_for(f"{tmp_path}/go"))
    with spool.pool() as pool:
        pool.wait_for("started", "a")
        wait_until(lambda: os.path.exists(f"{spool.path}/logs/a.1.out"))
        assert spool.run("logs", "a").err == "run 1 has printed nothing yet\n"
        (tmp_path / "go").touch()


def test_a_job_does_not_follow_itself_by_way_of_a_pipe(spool: SpoolDir) -> None:
    words = shlex.join(spool.command("logs", "-f", "me"))
    spool.api.submit(f"echo begun; {words} | cat", id="me", max_retries=1)
    spool.drain()
    assert spool.output("me") == "begun\n"


def test_a_job_may_have_its_output_copied_to_a_file(spool: SpoolDir, tmp_path: Path) -> None:
    words = shlex.join(spool.command("logs", "-f", "me"))
    copy = tmp_path / "copy"
    work = f"{words} > {copy} & echo one; while ! grep -q one {copy}; do sleep 0.01; done; echo two"
    spool.api.submit(work, id="me")
    spool.drain()
    wait_until(lambda: copy.read_text() == "one\ntwo\n", copy.read_text)


def test_a_job_may_print_an_earlier_run(spool: SpoolDir) -> None:
    words = shlex.join(spool.command("logs", "--attempt", "1", "me"))
    spool.configure(backoff_base=0)
    work = f"echo $QUEUECTL_ATTEMPT; [ $QUEUECTL_ATTEMPT = 2 ] && {words}"
    spool.api.submit(work, id="me", max_retries=2)
    spool.drain()
    assert spool.output("me", 2) == "2\n1\n"


def test_of_a_run_that_goes_on_standard_error_is_pointed_to(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(backoff_base=0)
    first = "echo out; echo err >&2; [ $QUEUECTL_ATTEMPT = 2 ] || exit 1"
    work = f"{first}; {waiting_for(str(tmp_path / 'go'))}"
    spool.api.submit(work, id="a", max_retries=2)
    with spool.pool():
        wait_until(lambda: spool.output("a", 2, "err"), "the second run")
        assert (
            spool.run("logs", "a").err
            == "also 4 B on standard error (--stderr or --all prints it)\n"
        )
        (tmp_path / "go").touch()


def test_who_follows_the_last_run_is_told_nothing_of_those_before_it(ran: SpoolDir) -> None:
    assert "ended" not in ran.run("logs", "-f", "job").err


def test_only_of_the_first_run_that_is_followed_are_lines_left_out(
    ran: SpoolDir, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with follow(ran, out, "--attempt", "1", "--lines", "1", "job") as follower:
        assert follower.wait(DEADLINE_S) == 0
    assert out.read_text() == "1.3\n2.1\n2.2\n2.3\n"


def test_who_asks_for_no_line_is_not_told_that_there_is_none(ran: SpoolDir) -> None:
    result = ran.run("logs", "--lines", "0", "job")
    assert (result.out, result.err) == ("", "")


def test_of_a_run_that_others_followed_standard_error_is_pointed_to(ran: SpoolDir) -> None:
    result = ran.run("logs", "--attempt", "1", "job")
    assert result.out == "1.1\n1.2\n1.3\n"
    assert result.err == "also 4 B on standard error (--stderr or --all prints it)\n"
