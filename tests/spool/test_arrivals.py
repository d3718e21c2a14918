"""What the file system tells, at once and with no event lost."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from queuectl.arrivals import Arrivals
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def watching(*directories: Path) -> Iterator[tuple[Arrivals, list[tuple[str, str]]]]:
    """Watch directories; yield what has arrived so far, as (directory, name)."""
    seen: list[tuple[str, str]] = []
    watched = {
        os.path.realpath(path): lambda name, path=path: seen.append((path.name, name))
        for path in directories
    }
    arrivals = Arrivals(watched)  # type: ignore[arg-type]
    arrivals.start()
    try:
        yield arrivals, seen
    finally:
        arrivals.stop()


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


def test_stop_leaves_no_thread_and_may_be_called_twice(tmp_path: Path) -> None:
    with watching(tmp_path) as (arrivals, seen):
        arrivals.stop()
        (tmp_path / "late").touch()
        arrivals.rearm()
    assert seen == []
