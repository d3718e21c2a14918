"""Waiting until something happens to a few jobs: by file system events, or slowly without them.

spool-layout.md, section "Waking". An event is only a hint: whoever is woken looks for itself.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WITHOUT_EVENTS_S = 1.0  # how often to look where no events come
# How often to look at files that are written to, on a Mac: FSEvents reports writing only when the
# file is closed, and watchdog drops the events of a watch on a file.
_WRITING_S = 0.2


class Changes:
    """A context manager that tells what came into directories, or was written to files.

    Args:
        directories: the directories whose arrivals count.
        wanted: tells whether a file's name is of interest; other names wake nobody.
        look_every_s: how often to wake up without an event: events get lost, and some file systems
            send none.
    """

    def __init__(
        self, directories: Sequence[str], wanted: Callable[[str], bool], look_every_s: float
    ) -> None:
        self._directories = directories
        self._wanted = wanted
        self._look_every_s = look_every_s
        self._changed = threading.Condition()
        self._names: dict[str, None] = {}  # in the order in which they came
        self._watch: _Watch | None = None
        self._writing: dict[str, Callable[[], None] | None] = {}

    def __enter__(self) -> Changes:
        try:
            self._watch = _join_watch(self._directories, self._came)
        except (ImportError, OSError):  # no watchdog, or no more watches or threads
            self._look_every_s = min(self._look_every_s, _WITHOUT_EVENTS_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.follow_files(())
        if self._watch is not None:
            _leave_watch(self._watch, self._came)

    def follow_files(self, paths: Sequence[str]) -> bool:
        """Wake up for writing to these files only, from here on; tell whether one is new.

        A file whose watch cannot be started does not count as new: it is looked at by time.
        """
        before = set(self._writing)
        for path in before - set(paths):
            unfollow = self._writing.pop(path)
            if unfollow is not None:
                unfollow()
        for path in set(paths) - set(self._writing):
            self._follow_file(path)
        return not before.issuperset(self._writing)

    def _follow_file(self, path: str) -> None:
        if sys.platform == "darwin":
            self._writing[path] = None
            return
        if self._watch is None:
            return  # looked at by time already
        try:
            self._writing[path] = self._watch.arrivals.follow(path, self._came)
        except FileNotFoundError:
            pass  # its arrival will be reported
        except OSError:  # as in __enter__
            self._look_every_s = min(self._look_every_s, _WITHOUT_EVENTS_S)

    def wait(self, deadline_s: float) -> list[str]:
        """Wait; return the names that came since the last call, none if it is time to look anyway.

        Args:
            deadline_s: return by then (monotonic clock) at the latest.
        """
        left_s = min(self._look_every_s, max(deadline_s - time.monotonic(), 0.0))
        if None in self._writing.values():
            left_s = min(left_s, _WRITING_S)
        with self._changed:
            self._changed.wait_for(lambda: self._names, left_s)
            came, self._names = list(self._names), {}
        return came

    def _came(self, name: str) -> None:
        if self._wanted(name):
            with self._changed:
                self._names[name] = None
                self._changed.notify()


class _Watch:
    """One watch for all who wait in this process for the same directories.

    A user has only 128 instances of inotify.
    """

    def __init__(self, directories: tuple[str, ...]) -> None:
        from queuectl.system.arrivals import Arrivals

        self.directories = directories
        self.told: list[Callable[[str], None]] = []
        self.arrivals = Arrivals(dict.fromkeys(directories, self._came))

    def _came(self, name: str) -> None:
        for told in tuple(self.told):
            told(name)


_watches: dict[tuple[str, ...], _Watch] = {}
_joining = threading.RLock()  # reentrant: a signal handler may wait for changes, too


def _share_nothing() -> None:
    """Make a forked child start without watches: it has none of its parent's threads."""
    global _joining  # noqa: PLW0603 - a thread that the child does not have may hold the lock
    _joining = threading.RLock()
    _watches.clear()


os.register_at_fork(after_in_child=_share_nothing)


def _join_watch(directories: Sequence[str], told: Callable[[str], None]) -> _Watch:
    key = tuple(directories)
    with _joining:
        watch = _watches.get(key)
        if watch is None:
            watch = _Watch(key)
            watch.arrivals.start()
            _watches[key] = watch
        else:
            watch.arrivals.rearm()
        watch.told.append(told)
    return watch


def _leave_watch(watch: _Watch, told: Callable[[str], None]) -> None:
    with _joining:
        watch.told.remove(told)
        if not watch.told:
            if _watches.get(watch.directories) is watch:  # else it is from before a fork
                del _watches[watch.directories]
            watch.arrivals.stop()
