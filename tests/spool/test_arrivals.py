"""What the file system reports: at once, and with no event lost."""

from __future__ import annotations

import errno
import os
import resource
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from watchdog.observers import Observer

from queuectl.system import arrivals as module
from queuectl.system.arrivals import Arrivals
from tests.support import DEADLINE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["as here", "watchdog 6", "another system"], autouse=True)
def _source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "watchdog 6":
        monkeypatch.setattr(module, "_HAS_READER", False)
    elif request.param == "another system":
        monkeypatch.setattr(module, "_new_source", lambda _: module._Observed(Observer()))


_HAS_READER = module._HAS_READER


@contextmanager
def watching(*directories: Path) -> Iterator[tuple[Arrivals, list[tuple[str, str]]]]:
    """Watch directories; yield the watch, and what has arrived so far, as (directory, name)."""
    seen: list[tuple[str, str]] = []
    watched = {
        os.path.realpath(path): lambda name, path=path: seen.append((path.name, name))
        for path in directories
    }
    arrivals = Arrivals(watched)
    arrivals.start()
    try:
        yield arrivals, seen
    finally:
        arrivals.stop()


def no_watch_left(_path: str, _arrived: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_created_written_linked_or_moved_in_is_told(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    with watching(inside) as (_, seen):
        (inside / "written").write_text("x")
        for name in ("moved", "linked"):
            (outside / name).write_text("x")
        os.rename(outside / "moved", inside / "moved")
        os.link(outside / "linked", inside / "linked")
        expected = {("in", name) for name in ("written", "moved", "linked")}
        wait_until(lambda: expected <= set(seen), lambda: seen)
        (outside / "elsewhere").write_text("x")
        (inside / "mark").write_text("x")
        wait_until(lambda: ("in", "mark") in seen, lambda: seen)
        assert {name for _, name in seen} == {"written", "moved", "linked", "mark"}


def test_what_is_written_where_it_stands_is_told(tmp_path: Path) -> None:
    path = tmp_path / "in" / "job"
    path.parent.mkdir()
    path.touch()
    with watching(path.parent) as (_, seen):
        path.write_text("x")
        wait_until(lambda: ("in", "job") in seen, lambda: seen)


def test_what_is_written_to_a_file_is_told_until_that_is_ended(tmp_path: Path) -> None:
    files = [tmp_path / "out" / name for name in ("one", "two")]
    files[0].parent.mkdir()
    with watching(tmp_path) as (arrivals, _):
        told: list[str] = []
        for file in files:
            file.touch()
        ends = [arrivals.follow(os.path.realpath(file), told.append) for file in files]
        with open(files[0], "a") as one, open(files[1], "a") as two:
            print("still open", file=one, flush=True)
            wait_until(lambda: "one" in told, lambda: told)
            ends[0]()
            told.clear()
            print("not heard", file=one, flush=True)
            print("heard", file=two, flush=True)
            wait_until(lambda: "two" in told, lambda: told)
        assert set(told) == {"two"}


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_two_links_to_one_file_are_followed_apart(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.id != "as here" or not _HAS_READER:
        pytest.skip("an observer has one watch for a file")
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    os.link(one, two)
    with watching(tmp_path) as (arrivals, _):
        told: list[str] = []
        arrivals.follow(os.path.realpath(one), told.append)
        end = arrivals.follow(os.path.realpath(two), told.append)
        with open(one, "a") as file:
            print("for both", file=file, flush=True)
            wait_until(lambda: set(told) == {"one", "two"}, lambda: told)
            end()
            told.clear()
            print("for one", file=file, flush=True)
            wait_until(lambda: "one" in told, lambda: told)


def test_each_directory_has_its_own_listener(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with watching(one, two, tmp_path) as (_, seen):
        (one / "a").write_text("x")
        (two / "b").write_text("x")
        (tmp_path / "c").write_text("x")
        expected = {("one", "a"), ("two", "b"), (tmp_path.name, "c")}
        wait_until(lambda: set(seen) == expected, lambda: seen)


def test_no_arrival_is_lost_among_many_departures(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    with watching(inside) as (_, seen):
        for number in range(2000):
            name = f"job-{number}"
            (outside / name).touch()
            os.rename(outside / name, inside / name)
            os.rename(inside / name, outside / name)
        wait_until(lambda: len({name for _, name in seen}) == 2000, lambda: len(seen))


def test_a_directory_made_anew_is_watched_again_after_rearm(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    with watching(inside) as (arrivals, seen):
        inside.rename(tmp_path / "old")
        inside.mkdir()
        arrivals.rearm()
        (inside / "a").write_text("x")
        wait_until(lambda: ("in", "a") in seen, lambda: seen)


def test_a_directory_removed_and_made_anew_is_watched_again_after_rearm(tmp_path: Path) -> None:
    """The new directory is watched, although its inode often has the number of the old one."""
    inside = tmp_path / "in"
    inside.mkdir()
    with watching(inside) as (arrivals, seen):

        def is_told_of(name: str) -> bool:
            arrivals.rearm()
            (inside / name).write_text("x")  # an event each time: touch() makes only one
            return ("in", name) in seen

        inside.rmdir()
        inside.mkdir()
        wait_until(lambda: is_told_of("a"), lambda: seen)
        seen.clear()
        wait_until(lambda: is_told_of("b"), lambda: seen)


def test_a_directory_that_is_missing_is_watched_once_it_is_there(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    with watching(inside, tmp_path) as (arrivals, seen):
        inside.rmdir()
        wait_until(lambda: (tmp_path.name, "in") in seen, lambda: seen)
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                arrivals.rearm()
        inside.mkdir()
        arrivals.rearm()
        (inside / "a").touch()
        wait_until(lambda: ("in", "a") in seen, lambda: seen)


def test_a_directory_whose_watch_was_refused_is_watched_once_there_is_one(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    with watching(inside) as (arrivals, seen):
        inside.rename(tmp_path / "old")
        inside.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(arrivals._source, "watch", no_watch_left)
            for _ in range(2):
                with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                    arrivals.rearm()
        arrivals.rearm()
        (inside / "a").write_text("x")
        wait_until(lambda: ("in", "a") in seen, lambda: seen)


def test_it_is_told_that_more_came_than_the_kernel_keeps(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.id != "as here" or not _HAS_READER:
        pytest.skip("watchdog's observers do not tell")
    with open("/proc/sys/fs/inotify/max_queued_events", encoding="ascii") as file:
        keeps = int(file.read())
    if keeps > 100_000:
        pytest.skip(f"{keeps} events are too many to make")
    go_on, lost = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        go_on.wait(20)

    arrivals = Arrivals({os.path.realpath(tmp_path): slow}, lost.set)
    arrivals.start()
    try:
        names = [tmp_path / "a", tmp_path / "b"]
        names[0].touch()
        for _ in range(keeps + 5000):  # one read may take 2,000 before the first is reported
            os.rename(*names)
            names.reverse()
        assert not lost.is_set()
        go_on.set()
        assert lost.wait(20)
    finally:
        go_on.set()
        arrivals.stop()


def test_stop_leaves_no_thread_and_may_be_called_twice(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    direct = request.node.callspec.id == "as here" and module._HAS_READER

    def threads() -> int:
        """Return how many watch, without the reader that all observers share, which stays."""
        kinds = [type(thread).__name__ for thread in threading.enumerate()]
        return sum(
            kind == "_Reader" if direct else kind.endswith(("Emitter", "Observer"))
            for kind in kinds
        )

    before = threads()
    with watching(tmp_path) as (arrivals, seen):
        assert threads() > before
        arrivals.stop()
        assert threads() == before
        (tmp_path / "late").touch()
        arrivals.rearm()
    assert seen == []


def test_a_thread_that_cannot_be_started_is_told_as_an_error_of_the_system(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    arrivals = Arrivals({str(tmp_path): print})
    before = os.listdir("/dev/fd")
    with pytest.raises(OSError, match="can't start new thread"):
        arrivals.start()
    if request.node.callspec.id == "as here":
        assert os.listdir("/dev/fd") == before


def test_what_is_stopped_before_its_thread_runs_gives_back_every_descriptor(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.callspec.id != "as here" or not _HAS_READER:
        pytest.skip("watchdog's observers do not")
    from watchdog.observers.inotify_c import InotifyFD

    run = InotifyFD.run

    def run_late(self: InotifyFD) -> None:
        self.stopped_event.wait(DEADLINE_S)
        run(self)

    monkeypatch.setattr(InotifyFD, "run", run_late)
    before = os.listdir("/dev/fd")
    with watching(tmp_path):
        pass
    assert os.listdir("/dev/fd") == before


def test_where_one_descriptor_is_left_it_is_given_back(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A start gives back the descriptor for events if none is left for the pipe that stops it."""
    if request.node.callspec.id != "as here" or not _HAS_READER:
        pytest.skip("watchdog's observers do not")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/dev/fd")
    for free in (1, 2):
        highest = max(map(int, before))
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]  # fills all gaps
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1 + free, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                Arrivals({str(tmp_path): print}).start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in held:
                os.close(descriptor)
    assert os.listdir("/dev/fd") == before


def test_stop_gives_back_every_descriptor(tmp_path: Path) -> None:
    with watching(tmp_path):
        pass  # the reader that all observers share stays
    before = os.listdir("/dev/fd")
    with watching(tmp_path) as (_, seen):
        (tmp_path / "a").write_text("x")
        wait_until(lambda: seen)
    assert os.listdir("/dev/fd") == before


def test_a_directory_that_cannot_be_watched_is_told(tmp_path: Path) -> None:
    arrivals = Arrivals({str(tmp_path / "gone"): print})
    with pytest.raises(FileNotFoundError):
        arrivals.start()


def test_what_could_not_begin_leaves_nothing_running(tmp_path: Path) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Arrivals({f"{tmp_path}/nowhere": lambda _: None}).start()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
