"""The file system says that something came: a hint, and nothing more.

spool-layout.md, section "Waking". Without this module jobs only start later.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, cast

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver, ObservedWatch

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform == "linux":
    from watchdog.observers.inotify import InotifyEmitter
    from watchdog.observers.inotify_c import InotifyConstants

    if TYPE_CHECKING:
        from watchdog.observers.inotify_c import Mask

    class _ArrivalEmitter(InotifyEmitter):
        """Asks the kernel for arrivals only, and for removals: that of `paused` is news.

        Every claim renames a file out of a watched directory. The plain emitter holds such an
        event back for 0.5 s to pair it, and everything behind it waits: 480 ms from drop to wake.
        """

        def get_event_mask_from_filter(self) -> Mask:
            news = (
                InotifyConstants.IN_CREATE
                | InotifyConstants.IN_MOVED_TO
                | InotifyConstants.IN_CLOSE_WRITE
                | InotifyConstants.IN_DELETE
                | InotifyConstants.IN_DELETE_SELF
            )
            return cast("Mask", news)  # a plain int in watchdog 6, which Python 3.10 gets

    def _new_observer() -> BaseObserver:
        return BaseObserver(_ArrivalEmitter)

else:

    def _new_observer() -> BaseObserver:
        from watchdog.observers import Observer

        return Observer()


class _Handler(FileSystemEventHandler):
    def __init__(self, directory: str, arrived: Callable[[str], None]) -> None:
        self._directory = directory
        self._arrived = arrived

    def dispatch(self, event: FileSystemEvent) -> None:
        path = event.dest_path or event.src_path
        directory, name = os.path.split(os.fsdecode(path))
        if directory == self._directory:
            self._arrived(name)


class Arrivals:
    """Calls back, in a thread of its own, with the name of whatever comes into a directory."""

    def __init__(self, watched: dict[str, Callable[[str], None]]) -> None:
        self._watched = watched
        self._observer: BaseObserver | None = None
        self._watches: dict[str, tuple[ObservedWatch, int]] = {}

    def start(self) -> None:
        """Begin to watch.

        Raises:
            OSError: the kernel gives no more watches; look at the directories by time instead.
        """
        observer = _new_observer()
        try:
            for path in self._watched:
                self._watch(observer, path)
            observer.start()
        except OSError:
            self._watches.clear()
            raise
        self._observer = observer

    def _watch(self, observer: BaseObserver, path: str) -> None:
        handler = _Handler(path, self._watched[path])
        watch = observer.schedule(handler, path)
        self._watches[path] = (watch, os.stat(path).st_ino)

    def rearm(self) -> None:
        """Watch anew what was removed and made again since: the old watch is silent.

        Raises:
            OSError: a directory is missing, or the kernel gives no more watches.
        """
        if self._observer is None:
            return
        for path, (watch, inode) in list(self._watches.items()):
            if os.stat(path).st_ino != inode:
                self._observer.unschedule(watch)
                self._watch(self._observer, path)

    def stop(self) -> None:
        """Stop watching, and wait for the thread that calls back."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
