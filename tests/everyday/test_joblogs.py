"""Output files: their last lines, and the middle cut out of large ones."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queuectl.errors import BadJobError, SpoolError
from queuectl.record import outcome
from queuectl.record.job import MAX_HISTORY, Job, again
from queuectl.spool import cutting, joblogs, tailing
from queuectl.system import files
from tests.support import DEADLINE_S, ROOT

if TYPE_CHECKING:
    from tests.support import SpoolDir

MARK = re.compile(rb"\[queuectl: (\d+) bytes cut out here: log-max-size\]\n")


def last_lines(path: Path, lines: int) -> bytes:
    output = tailing.Output(str(path))
    output.start_at_last(lines)
    data = b"".join(output.read())
    output.close()
    return data


def lines_of(data: bytes) -> list[bytes]:
    """Split at newlines only, unlike bytes.splitlines."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


@given(data=st.binary(max_size=400), lines=st.integers(0, 12), chunk=st.integers(1, 50))
def test_the_last_n_lines_are_those_of_the_file(data: bytes, lines: int, chunk: int) -> None:
    with tempfile.NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tailing, "CHUNK_BYTES", chunk)
        file.write(data)
        file.flush()
        expected = b"".join(lines_of(data)[-lines:] if lines else [])
        assert last_lines(file.name, lines) == expected  # type: ignore[arg-type]


def test_of_a_file_of_which_nothing_is_wanted_nothing_is_read(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.touch()
    os.truncate(path, 1 << 42)  # reading it would take a quarter of an hour or more
    assert last_lines(path, 0) == b""


@given(
    read=st.integers(1, 30_000),
    late=st.integers(0, 3000),
    end=st.sampled_from((b"\n", b",", b"\r", "\u2588".encode())),
)
@example(read=30_000, late=10, end=b"\r")
@example(read=30_000, late=10, end="\u2588".encode())
def test_who_follows_a_file_whose_middle_is_cut_out_misses_nothing_of_its_end(
    read: int, late: int, end: bytes
) -> None:
    data = b"".join(b"line %d%b" % (number, end) for number in range(3000))
    with tempfile.NamedTemporaryFile() as file:
        output = tailing.Output(file.name, 4096)
        file.write(data[:read])
        file.flush()
        seen = b"".join(output.read())
        file.write(data[read:] + b"e" * late + b"the end\n")
        file.flush()
        assert cutting.cap(file.name, 4096) is None
        seen += b"".join(output.read())
        output.close()
    rest = data[read:] + b"e" * late + b"the end\n"
    assert seen.startswith(data[: min(read, 1000)])
    if len(rest) < 1900:
        assert seen == data[:read] + rest
    else:
        assert seen.endswith(rest[-1900:])
        assert MARK.search(seen) or seen == data[:read] + rest


@pytest.mark.parametrize("line", [b".", b"a line\n"])
@pytest.mark.parametrize("beyond", [0, 1, 6, 7, 63, 64, 4000])
def test_who_has_read_as_far_as_what_is_kept_sees_nothing_twice(
    tmp_path: Path, line: bytes, beyond: int
) -> None:
    path, data = tmp_path / "job.1.out", line * 20_000
    kept = (10_000 - cutting.MARK_BYTES) // 2
    read = len(data) - kept // len(line) * len(line) + beyond  # the cut ends `beyond` bytes before
    path.write_bytes(data[:read])
    output = tailing.Output(str(path), 10_000)
    seen = b"".join(output.read())
    with open(path, "ab") as file:
        file.write(data[read:])
    assert cutting.cap(str(path), 10_000) is None
    seen += b"".join(output.read())
    output.close()
    assert seen == data


def test_a_cut_in_output_that_is_all_the_same_is_told(tmp_path: Path) -> None:
    path = tmp_path / "job.1.out"
    path.write_bytes(b"." * 7000)
    output = tailing.Output(str(path), 10_000)
    assert len(b"".join(output.read())) == 7000
    with open(path, "ab") as file:
        file.write(b"." * 100_000)
    assert cutting.cap(str(path), 10_000) is None
    assert MARK.search(b"".join(output.read()))
    output.close()


@pytest.mark.parametrize("read", [1, 4, 7])
def test_who_is_reading_while_the_middle_is_cut_out_is_told_how_much_is_missing(
    tmp_path: Path, read: int
) -> None:
    path, limit = tmp_path / "job.1.out", 8 * cutting.CHUNK_BYTES
    data = b"".join(b"%d\n" % number for number in range(200_000))
    path.write_bytes(data)
    output = tailing.Output(str(path), limit)
    reading = output.read()
    seen = b"".join(next(reading) for _ in range(read))
    assert cutting.cap(str(path), limit) is None
    seen += b"".join(reading)
    output.close()
    mark = MARK.search(seen)
    assert mark is not None
    assert output.lost_bytes == int(mark[1]) == len(data) - len(seen) + len(mark[0]) + (read > 3)
    head, tail = seen[: mark.start()], seen[mark.end() :]
    assert data.startswith(head[: -(read > 3) or None])  # a newline stands before the mark
    assert data.endswith(tail)


def test_who_follows_sees_the_end_though_more_was_printed_behind_the_cut(tmp_path: Path) -> None:
    """The end is shown even if a background process of the command prints after the cut."""
    path = tmp_path / "job.1.out"
    output = tailing.Output(str(path), 10_000)
    with open(path, "ab", buffering=0) as file:
        file.write(b"a line\n" * 3000)
        assert len(b"".join(output.read())) == 21_000
        file.write(b"a line\n" * 3000 + b"the end\n")
        assert cutting.cap(str(path), 10_000) is None
        file.write(b"more\n" * 100)
    assert path.stat().st_size > 10_000
    assert b"".join(output.read()).endswith(b"a line\nthe end\n" + b"more\n" * 100)
    with open(path, "ab") as file:
        file.write(b"the last\n")
    assert b"".join(output.read()) == b"the last\n"
    output.close()


@pytest.mark.parametrize("lines", [0, 1])
def test_who_follows_from_the_last_lines_sees_what_comes_behind_a_cut(
    tmp_path: Path, lines: int
) -> None:
    path = tmp_path / "job.1.out"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(20_000)))
    output = tailing.Output(str(path), 10_000)
    output.start_at_last(lines)
    seen = b"".join(output.read())
    with open(path, "ab") as file:
        file.write(b"the result\n")
    assert cutting.cap(str(path), 10_000) is None
    seen += b"".join(output.read())
    output.close()
    assert seen == b"19999\n" * lines + b"the result\n"


def test_a_mark_that_is_printed_while_it_is_followed_is_no_cut(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "job.1.out"
    whole.write_bytes(b"".join(b"%d\n" % number for number in range(5000)))
    assert cutting.cap(str(whole), 8192) is None
    printed = whole.read_bytes()
    output = tailing.Output(str(path), 8192)
    seen = b""
    for at in range(0, len(printed), 1000):
        with open(path, "ab") as file:
            file.write(printed[at : at + 1000])
        seen += b"".join(output.read())
    output.close()
    assert seen == printed


def test_a_mark_that_is_printed_before_as_much_as_a_cut_leaves_is_no_cut(tmp_path: Path) -> None:
    path = tmp_path / "job.1.out"
    printed = b"a line of it\n" * 3800 + cutting.mark_of(30_000)
    path.write_bytes(printed)
    output = tailing.Output(str(path), 100_000)
    seen = b"".join(output.read())
    with open(path, "ab") as file:
        file.write(b"another line\n" * 3500)
    seen += b"".join(output.read())
    output.close()
    assert seen == path.read_bytes()
    assert output.lost_bytes == 0


def test_output_that_its_command_keeps_locked_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output is read without a wait for the lock that its command may hold.

    A command uses `flock 1` so that what it starts does not write at the same time.
    """
    path = tmp_path / "job.1.out"
    path.write_bytes(b"a line\n")
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setattr(tailing, "PATIENCE_S", DEADLINE_S)
        before = time.monotonic()
        assert last_lines(path, 1) == b"a line\n"
        assert time.monotonic() - before < DEADLINE_S
        monkeypatch.setattr(tailing, "PATIENCE_S", 0.1)
        path.write_bytes(b"a line\n" * 1000)  # above the limit, so it may be under a cut
        output = tailing.Output(str(path), 4096)
        assert b"".join(output.read()) == path.read_bytes()
        output.close()


def test_a_cut_waits_for_who_reads_but_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "PATIENCE_S", 0.2)
    path = tmp_path / "job.1.out"
    path.write_bytes(b"a line\n" * 1000)
    with open(path, "rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        before = time.monotonic()
        assert cutting.cap(str(path), 4096) is None
        assert time.monotonic() - before >= cutting.PATIENCE_S
    assert path.stat().st_size <= 4096


def test_a_mark_in_what_was_printed_is_no_cut(tmp_path: Path) -> None:
    """A mark that a job printed is not taken for a cut: it may print the output of another job."""
    path = tmp_path / "job.1.out"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(5000)))
    assert cutting.cap(str(path), 8192) is None
    printed = path.read_bytes()
    output = tailing.Output(str(path), 8192)
    seen = b"".join(output.read())
    with open(path, "ab") as file:
        file.write(b"more\n")
    seen += b"".join(output.read())
    output.close()
    assert seen == printed + b"more\n"


@given(size=st.integers(0, 20_000), limit=st.integers(4096, 8000), line=st.integers(1, 9000))
def test_a_capped_file_keeps_its_ends_and_says_what_is_missing(
    size: int, limit: int, line: int
) -> None:
    data = b"".join(b"%d\n" % at if at % line == 0 else b"%d " % at for at in range(size))[:size]
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert cutting.cap(file.name, limit) is None
        with open(file.name, "rb") as capped:
            result = capped.read()
    if len(data) <= limit:
        assert result == data
        return
    mark = MARK.search(result)
    assert mark is not None
    head, tail = result[: mark.start()], result[mark.end() :]
    assert len(result) <= limit
    assert data.endswith(tail)
    assert data.startswith((head, head[:-1]))
    kept = len(head) if data.startswith(head) else len(head) - 1
    assert kept + int(mark[1]) + len(tail) == len(data)


def test_whole_lines_are_kept_where_lines_are_short(tmp_path: Path) -> None:
    path = tmp_path / "out"
    lines = b"".join(b"line %d\n" % number for number in range(10_000))
    path.write_bytes(lines)
    cutting.cap(str(path), 4096)
    kept = path.read_bytes().splitlines(keepends=True)
    assert [line for line in kept if line not in lines.splitlines(keepends=True)] == [
        line for line in kept if line.startswith(b"[queuectl: ")
    ]
    assert kept[0] == b"line 0\n"
    assert kept[-1] == b"line 9999\n"


def test_a_capped_file_is_not_cut_again(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"x" * 100_000)
    cutting.cap(str(path), 4096)
    once = path.read_bytes()
    cutting.cap(str(path), 4096)
    assert path.read_bytes() == once


def test_a_file_of_10_gb_is_cut_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with open(path, "wb") as file:
        file.write(b"first\n")
        file.truncate(10 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast\n")
    code = (
        "import resource, sys; from queuectl.spool import cutting\n"
        "limit = 200 << 20; resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "error = cutting.cap(sys.argv[1], 64 << 20)\n"
        "assert error is None, error"
    )
    env = {**os.environ, "PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-c", code, str(path)], env=env, check=True)
    assert os.path.getsize(path) <= 64 << 20
    with open(path, "rb") as file:
        assert file.read(6) == b"first\n"
        file.seek(-6, os.SEEK_END)
        assert file.read() == b"\nlast\n"


def test_a_file_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert cutting.cap(str(tmp_path / "gone"), 4096) is None


def test_what_is_not_a_plain_file_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"x" * 100_000)
    link = tmp_path / "link"
    link.symlink_to(target)
    os.mkfifo(tmp_path / "fifo")
    assert isinstance(cutting.cap(str(link), 4096), OSError)
    assert cutting.cap(str(tmp_path / "fifo"), 4096) is None
    assert target.stat().st_size == 100_000


@pytest.mark.parametrize("refused", [1, 2, 3, "ftruncate"])
def test_a_cut_that_is_refused_or_broken_off_loses_no_end_and_tells_nothing_untrue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int | str
) -> None:
    path = tmp_path / "out"
    lines = b"".join(b"line %d\n" % number for number in range(100_000))
    path.write_bytes(lines)
    pwrite, calls = os.pwrite, []

    def refuse(descriptor: int, data: bytes, position: int) -> int:
        calls.append(position)
        if len(calls) == refused:
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data, position)

    def refuse_to_cut(_descriptor: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    if refused == "ftruncate":
        monkeypatch.setattr(os, "ftruncate", refuse_to_cut)
    error = cutting.cap(str(path), 3 * cutting.CHUNK_BYTES)
    assert error is not None
    assert error.errno == 28
    left = path.read_bytes()
    assert len(left) == len(lines)
    assert left.startswith(lines[:60_000])
    assert left.endswith(lines[-60_000:])
    assert MARK.search(left) is None
    assert (b"bytes being cut...: log-max-size]\n" in left) == (refused != 1)
    if refused != 1:  # with room again, it is cut like any other output
        monkeypatch.undo()
        assert cutting.cap(str(path), 3 * cutting.CHUNK_BYTES) is None
        assert path.read_bytes().endswith(lines[-60_000:])
        assert MARK.search(path.read_bytes())


def test_removing_leaves_the_output_of_jobs_with_a_similar_id(spool: SpoolDir) -> None:
    spool.create()
    names = ["a.1.out", "a.1.err", "a.2.out", "a.1.1.out", "ab.1.out", "a.b.1.out"]
    for history in ([{"number": 2}], [{"number": 10**12}]):  # looked up one by one, or listed
        for name in names:
            open(f"{spool.path}/logs/{name}", "w").close()
        joblogs.remove(spool.api, Job({"id": "a", "command": "true", "history": history}))
        assert sorted(os.listdir(f"{spool.path}/logs")) == ["a.1.1.out", "a.b.1.out", "ab.1.out"]


def test_the_end_is_kept_where_its_only_line_end_is_the_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"HEAD\n" + b"x" * 20_000 + b"THE-END\n")
    assert cutting.cap(str(path), 8192) is None
    assert path.read_bytes().endswith(b"THE-END\n")


def test_output_that_may_not_be_read_is_told_also_if_it_comes_later(spool: SpoolDir) -> None:
    """An unreadable output is reported once, even if its file comes after the first look.

    A job that waits for a lane has its attempt counted, but no output files yet.
    """
    spool.drop("job")
    api = spool.api
    claim = api.take("job", "pending", "nobody")
    logs = api.log_files("job", 1)
    counted = outcome.started(api.read_claim(claim), worker="nobody", now=1.0, logs=logs)
    files.carry_out(api.counting(claim, counted))
    follower = tailing.Follower(api, "job", first_run=1)
    missed: list[str] = []
    follower.missed = lambda error: missed.append(error.path)
    assert list(follower.read()) == []
    os.symlink("/nowhere", logs[1])  # not even root can follow it
    with open(logs[0], "w") as file:
        file.write("seen")
    assert [list(follower.read()) for _ in range(2)] == [[("out", b"seen")], []]
    assert missed == [logs[1]]
    follower.close()


@pytest.mark.parametrize(("before", "then"), [(None, 10_000), (10_000, 20_000), (20_000, 10_000)])
def test_who_follows_sees_the_end_behind_a_cut_by_a_setting_that_came_since(
    spool: SpoolDir, before: int | None, then: int
) -> None:
    spool.configure(log_max_size=before)
    spool.drop_bytes("job", b'{"command": "true", "state": "processing"}')
    api = spool.api
    api.take("job", "pending", "nobody")
    path = api.log_files("job", 1)[0]
    follower = tailing.Follower(api, "job", first_run=1)
    with open(path, "ab", buffering=0) as out:
        out.write(b"a line\n" * 6000)
        assert len(b"".join(data for _, data in follower.read())) == 42_000
        out.write(b"a line\n" * 6000 + b"last\n")
    spool.configure(log_max_size=then)
    assert cutting.cap(path, then) is None
    assert b"".join(data for _, data in follower.read()).endswith(b"a line\nlast\n")
    assert follower.lost_bytes > 0
    follower.close()


def test_what_a_job_printed_last_is_shown_though_it_was_deleted(spool: SpoolDir) -> None:
    spool.drop_bytes("job", b'{"command": "true", "state": "processing"}')
    taken = spool.api.take("job", "pending", "nobody")
    follower = tailing.Follower(spool.api, "job", first_run=1)
    with open(f"{spool.path}/logs/job.1.out", "ab", buffering=0) as out:
        out.write(b"first\n")
        assert list(follower.read()) == [("out", b"first\n")]
        out.write(b"last\n")
    os.unlink(taken.path)
    assert list(follower.read()) == [("out", b"last\n")]
    assert follower.over
    follower.close()


def test_who_follows_waits_for_a_record_that_is_being_written(spool: SpoolDir) -> None:
    """A follower waits while `cp`, or an editor that saves in place, has written half a record."""
    spool.drop("job")
    follower = tailing.Follower(spool.api, "job", first_run=1)
    waiting, ended = (Path(spool.file(state, "job")) for state in ("pending", "completed"))
    whole = waiting.read_bytes()
    waiting.write_bytes(whole[:10])
    assert list(follower.read()) == []
    assert not follower.over
    waiting.write_bytes(whole)
    with spool.pool():
        spool.wait_for("completed", "job")
    assert list(follower.read()) == []
    assert follower.over
    ended.write_bytes(whole[:10])
    with pytest.raises(BadJobError, match=r"completed/job\.json"):
        list(tailing.Follower(spool.api, "job", first_run=1).read())


def test_what_is_printed_is_shown_though_the_record_is_broken_meanwhile(spool: SpoolDir) -> None:
    spool.drop_bytes("job", b'{"command": "true", "state": "processing"}')
    held = spool.api.take("job", "pending", "nobody").path
    follower = tailing.Follower(spool.api, "job", first_run=1)
    with open(f"{spool.path}/logs/job.1.out", "ab", buffering=0) as out:
        out.write(b"first\n")
        assert list(follower.read()) == [("out", b"first\n")]
        Path(held).write_bytes(b"{")
        out.write(b"second\n")
        assert list(follower.read()) == [("out", b"second\n")]
    assert "not JSON" in follower.broken
    assert not follower.over
    follower.close()


def test_output_that_cannot_be_read_keeps_no_descriptor(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.drop_bytes("job", b'{"command": "true", "state": "processing"}')
    spool.api.take("job", "pending", "nobody")
    with open(f"{spool.path}/logs/job.1.out", "w") as file:
        file.write("printed\n")
    before = os.listdir("/dev/fd")
    follower = tailing.Follower(spool.api, "job", first_run=1)
    missed: list[SpoolError] = []
    follower.missed = missed.append

    def broken(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "lseek", broken)
        assert list(follower.read()) == []
    assert len(missed) == 1
    assert os.listdir("/dev/fd") == before


def test_who_follows_many_runs_takes_no_descriptors_for_each(spool: SpoolDir) -> None:
    history = [{"number": number, "ended": "exit"} for number in range(1, 6)]
    spool.drop_bytes("job", json.dumps({"command": "true", "history": history}).encode(), "failed")
    for number in range(1, 6):
        with open(f"{spool.path}/logs/job.{number}.out", "w") as file:
            file.write(f"{number}\n")
    before = os.listdir("/dev/fd")
    follower = tailing.Follower(spool.api, "job", first_run=1)
    assert b"".join(data for _, data in follower.read()) == b"1\n2\n3\n4\n5\n"
    assert os.listdir("/dev/fd") == before


def test_output_stays_as_long_as_the_history_tells_of_its_run(spool: SpoolDir) -> None:
    runs = range(1, MAX_HISTORY + 1)
    history = [{"number": number, "ended": "exit", "exit_code": 75} for number in runs]
    spool.drop("job", later_codes=[75], history=history)
    job = spool.api.find("job").job
    path = spool.api.log_files("job", 1)[0]
    open(path, "x").close()
    joblogs.forget_output(spool.api, job, again(job))  # given back without a run
    assert os.path.exists(path)
    done = job.changed(history=[*history[1:], {"number": MAX_HISTORY + 1}])
    joblogs.forget_output(spool.api, job, done)
    assert not os.path.exists(path)


def test_each_run_of_a_job_that_was_put_into_dead_under_another_id_is_printed(
    spool: SpoolDir,
) -> None:
    spool.create()
    history = [{"number": 1, "exit_code": 1}, {"number": 2, "exit_code": 1}]
    record = {"command": "false", "stdout_path": f"{spool.path}/logs/a.2.out", "history": history}
    spool.drop_bytes("a.2", json.dumps(record).encode(), "dead")
    for number in (1, 2):
        Path(f"{spool.path}/logs/a.{number}.out").write_text(f"run {number}\n")
    assert spool.run("logs", "a.2", "--attempt", "1").out == "run 1\n"
    assert spool.run("logs", "a.2").out == "run 2\n"
