"""What is logged about an error that comes again and again."""

from __future__ import annotations

import json
import os
import select
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from queuectl.workers import worklog
from queuectl.workers.worklog import WorkLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MINUTE_S, DAY_S = 60, 86_400


def raising(text: str) -> Callable[[], NoReturn]:
    def step() -> NoReturn:
        raise OSError(text)

    return step


def fill(pipe: int) -> None:
    """Write to a pipe until it takes nothing more."""
    os.set_blocking(pipe, False)
    while True:
        try:
            os.write(pipe, b"x" * 4096)
        except BlockingIOError:
            return


@pytest.mark.parametrize("every_s", [1, MINUTE_S, 2 * MINUTE_S])
def test_an_error_that_comes_at_each_step_is_logged_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: int
) -> None:
    with open(tmp_path / "log", "wb") as file:
        log = WorkLog(file.fileno())
        told = []
        for second in range(0, DAY_S, every_s):
            monkeypatch.setattr("queuectl.workers.worklog.time.monotonic", lambda now=second: now)
            before = file.seek(0, 2)
            assert log.errors_of(raising("gone")) is None
            if file.seek(0, 2) > before:
                told.append(second)
        if every_s <= MINUTE_S:
            assert told[:4] == [0, MINUTE_S, 3 * MINUTE_S, 7 * MINUTE_S]
        assert len(told) < 32


def test_another_error_and_one_that_had_been_over_are_logged_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    came = [(second, "a") for second in range(4000)]  # by then it is logged every half hour
    again = came[-1][0] + 4 * MINUTE_S
    came += [(4000, "b"), *((again + second, "a") for second in range(MINUTE_S + 1))]
    with open(path, "wb") as file:
        log = WorkLog(file.fileno())
        for second, text in came:
            monkeypatch.setattr("queuectl.workers.worklog.time.monotonic", lambda now=second: now)
            log.errors_of(raising(text))
    assert [line.split()[-1] for line in path.read_text().splitlines()][-4:] == ["a", "b", "a", "a"]


def test_an_error_for_which_there_was_no_room_is_logged_once_there_is() -> None:
    ours, its = os.pipe()
    fill(its)
    log = WorkLog(its)
    for _ in range(3):
        log.errors_of(raising("gone"))
    while len(os.read(ours, 1 << 20)) == 1 << 20:
        pass
    log.errors_of(raising("gone"))
    missing, told = os.read(ours, 1 << 20).decode().splitlines()
    assert "1 line is missing here" in missing
    assert told.endswith("error      -  gone")
    for descriptor in (ours, its):
        os.close(descriptor)


def test_a_line_for_programs_has_room_in_a_pipe_that_takes_one_whatever_the_command(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    with open(path, "wb") as file:
        log = WorkLog(file.fileno(), as_json=True)
        log.pool = f"{'h' * 40}-4194304-0123abcd"
        log.event("started", "x" * 128, attempt="1/1000", command="\U0001f600" * 5000)
    line = path.read_bytes()
    assert len(json.loads(line)["command"]) == 300
    assert len(line) <= select.PIPE_BUF


def told_with_room_for_a_page(detail: str, *, as_json: bool) -> list[str]:
    """Return the lines that a pipe with room for a page takes without being read.

    One line was left out before, and the next is of a job with this detail.
    """
    ours, its = os.pipe()
    fill(its)
    log = WorkLog(its, as_json=as_json)
    log.event("dead", "before")
    os.set_blocking(its, True)
    os.read(ours, 4096)
    writer = threading.Thread(target=log.event, args=("dead", "job"), kwargs={"detail": detail})
    writer.start()
    writer.join(10)
    waits = writer.is_alive()
    told = os.read(ours, 1 << 20).lstrip(b"x").decode()  # which also lets a writer go on
    writer.join()
    for descriptor in (ours, its):
        os.close(descriptor)
    assert not waits
    return told.splitlines()


@pytest.mark.parametrize("as_json", [True, False])
def test_a_long_line_does_not_wait_for_the_reader_of_a_pipe(*, as_json: bool) -> None:
    long = "cancelled: " + "\U0001f600" * 2000 + " the end"
    (missing,) = told_with_room_for_a_page(long, as_json=as_json)
    assert "1 line is missing here" in missing


@pytest.mark.parametrize("as_json", [True, False])
def test_a_long_line_to_a_pipe_is_shortened_and_one_to_a_file_is_not(
    tmp_path: Path, *, as_json: bool
) -> None:
    long = "cancelled: " + "\U0001f600" * 2000 + " the end"
    ours, its = os.pipe()
    WorkLog(its, as_json=as_json).event("dead", "job", detail=long)
    data = os.read(ours, 1 << 20)
    for descriptor in (ours, its):
        os.close(descriptor)
    with open(tmp_path / "log", "wb") as file:
        WorkLog(file.fileno(), as_json=as_json).event("dead", "job", detail=long)
    whole = (tmp_path / "log").read_text()
    told, told_whole = (
        json.loads(line)["detail"] if as_json else line.rstrip("\n")
        for line in (data.decode(), whole)
    )
    assert len(data) <= select.PIPE_BUF
    assert "cancelled: " in told
    assert told.endswith(" the end")
    assert told_whole.endswith(long)


def test_of_many_different_errors_not_all_are_remembered(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as file:
        log = WorkLog(file.fileno())
        for number in range(1000):
            log.errors_of(raising(f"error {number}"))
        assert len(log._errors) <= worklog._ERRORS_KEPT
