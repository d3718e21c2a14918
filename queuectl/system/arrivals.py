"""Watch directories for file system events, which are hints and nothing more.

spool-layout.md, section "Waking". Without this module jobs would only start later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, cast

from watchdog.events import FileModifiedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver, ObservedWatch

from queuectl.kernel import starting_threads
from queuectl.system import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Arrived = Callable[[str], None]


class Arrivals:
    """Calls back with the name of each file that appears in a directory, is written or removed.

    The calls come from a thread of its own.

    Args:
        watched: the callback for each directory.
        lost: called when more events came than the kernel keeps, where that is reported.
    """

    def __init__(
        self, watched: Mapping[str, Arrived], lost: Callable[[], None] = lambda: None
    ) -> None:
        self._watched = watched
        self._lost = lost
        self._source: _Source | None = None
        self._watches: dict[str, tuple[Any, int]] = {}

    def start(self) -> None:
        """Start watching.

        Raises:
            OSError: the kernel grants no more watches or threads. The caller has to look at the
                directories at intervals instead.
        """
        try:
            with starting_threads():
                self._source = _new_source(self._lost)
                self._source.start()
            self.rearm()
        except BaseException:  # an interrupt too: a program may go on after it
            self.stop()
            raise

    def rearm(self) -> None:
        """Watch each directory again that was removed and recreated: its old watch is silent.

        Raises:
            OSError: a directory is missing, or the kernel grants no more watches or threads.
        """
        source = self._source
        if source is None:
            return
        for path, arrived in self._watched.items():
            inode = os.stat(path).st_ino
            if path in self._watches:
                watch, was = self._watches[path]
                if inode == was and not source.is_over(watch):
                    continue
                del self._watches[path]
                source.unwatch(watch)
            self._watches[path] = source.watch(path, arrived), inode

    def follow(self, path: str, written: Arrived) -> Callable[[], None]:
        """Call back with a file's name when it is written to; return a call that ends this.

        Raises:
            OSError: there is no such file, or the kernel grants no more watches or threads.
        """
        assert self._source is not None
        return self._source.follow(path, written)

    def stop(self) -> None:
        """Stop watching, and wait for the callback thread to end."""
        if self._source is not None:
            self._source.stop()
            self._source = None
            self._watches.clear()


# --- where events come from -----------------------------------------------------------------

# Without a handler, its warnings of lost events go to standard error, into a pool's log.
logging.getLogger("watchdog").addHandler(logging.NullHandler())


class _Source(Protocol):
    def start(self) -> None: ...

    def watch(self, path: str, arrived: Arrived) -> Any: ...

    def is_over(self, watch: Any) -> bool: ...

    def unwatch(self, watch: Any) -> None: ...

    def follow(self, path: str, written: Arrived) -> Callable[[], None]: ...

    def stop(self) -> None: ...


class _Handler(FileSystemEventHandler):
    def __init__(self, directory: str, arrived: Arrived) -> None:
        self._directory = directory
        self._arrived = arrived

    def dispatch(self, event: FileSystemEvent) -> None:
        path = event.dest_path or event.src_path
        directory, name = os.path.split(os.fsdecode(path))
        if directory == self._directory:
            self._arrived(name)


class _Observed:
    """Events from a watchdog observer, which passes them through three threads."""

    def __init__(self, observer: BaseObserver) -> None:
        self.start = observer.start
        self._observer = observer
        self._held: set[int] = set()

    def watch(self, path: str, arrived: Arrived) -> tuple[ObservedWatch, int]:
        # While this is open the inode number is not reused, so a directory that is made in its
        # place has another one.
        held = files.open_directory(path)
        self._held.add(held)
        try:
            with starting_threads():
                return self._observer.schedule(_Handler(path, arrived), path), held
        except BaseException:
            self._let_go(held)
            raise

    def is_over(self, _: tuple[ObservedWatch, int]) -> bool:
        return False  # not reported reliably: `rearm` compares inodes

    def unwatch(self, watch: tuple[ObservedWatch, int]) -> None:
        self._let_go(watch[1])
        self._observer.unschedule(watch[0])

    def follow(self, path: str, written: Arrived) -> Callable[[], None]:
        handler = _Handler(os.path.dirname(path), written)
        with starting_threads():
            watch = self._observer.schedule(handler, path, event_filter=[FileModifiedEvent])
        return partial(self._observer.unschedule, watch)

    def _let_go(self, held: int) -> None:
        self._held.discard(held)
        os.close(held)

    def stop(self) -> None:
        self._observer.stop()
        with contextlib.suppress(RuntimeError):  # its thread was never started
            self._observer.join()
        for held in tuple(self._held):
            self._let_go(held)


if sys.platform == "linux":
    from watchdog.observers import inotify_c
    from watchdog.observers.inotify import InotifyEmitter
    from watchdog.observers.inotify_c import InotifyConstants

    if TYPE_CHECKING:
        from watchdog.observers.inotify_c import CallbackId, InotifyEvent, Mask, WatchDescriptor

    _HAS_READER = hasattr(inotify_c, "InotifyFD")  # watchdog 6, for Python 3.10, has none
    # Arrivals and removals, since the removal of `paused` matters. Renames out of a directory are
    # left out: every claim is one. An emitter holds such an event back for 0.5 s to pair it, and
    # all later events wait behind it, which took 480 ms from drop to wake.
    _NEWS = cast(
        "Mask",
        InotifyConstants.IN_CREATE
        | InotifyConstants.IN_MOVED_TO
        | InotifyConstants.IN_CLOSE_WRITE
        | InotifyConstants.IN_DELETE
        | InotifyConstants.IN_DELETE_SELF,
    )
    _WRITING = InotifyConstants.IN_MODIFY
    _ONLY = cast("CallbackId", 0)  # each directory has only one listener

    if _HAS_READER:

        class _Reader(inotify_c.InotifyFD):
            """Closes the descriptors that its base class would leak."""

            def __init__(self) -> None:
                try:
                    super().__init__()
                except BaseException:  # no descriptor is left for its pipe, but inotify has one
                    for name in {"_inotify_fd", "_kill_r", "_kill_w"} & vars(self).keys():
                        os.close(vars(self)[name])
                    raise
                # The base class begins with True. It would then leave all three descriptors open
                # if it is stopped before its thread reads, or if no thread could be started.
                self._is_reading = False

    class _Listener:
        def __init__(self, arrived: Arrived, lost: Callable[[], None], file: str = "") -> None:
            self.on_queue_overflow = lost
            self.is_over = False
            self._arrived = arrived
            self._file = file  # the name of the watched file, whose events have none

        def on_event(self, event: InotifyEvent) -> None:
            if name := os.fsdecode(event.name) or self._file:
                self._arrived(name)

        def on_watch_deleted(self, _: WatchDescriptor) -> None:
            self.is_over = True

    class _Inotify:
        """Events straight from the thread that reads them.

        The two further threads of an observer took 0.3 of the 3 ms from drop to running beside a
        busy pool.
        """

        def __init__(self, lost: Callable[[], None]) -> None:
            self._reader = _Reader()
            self._file_ids = count(1)
            self.start = self._reader.start
            self._lost = lost

        def watch(self, path: str, arrived: Arrived) -> tuple[WatchDescriptor, _Listener]:
            listener = _Listener(arrived, self._lost)
            return self._reader.add_callback(os.fsencode(path), _NEWS, listener, _ONLY), listener

        def is_over(self, watch: tuple[WatchDescriptor, _Listener]) -> bool:
            # inodes do not tell: a directory made right after the removal may have the same one
            return watch[1].is_over

        def unwatch(self, watch: tuple[WatchDescriptor, _Listener]) -> None:
            self._reader.remove_callbacks([(watch[0], _ONLY)])

        def follow(self, path: str, written: Arrived) -> Callable[[], None]:
            listener = _Listener(written, self._lost, os.path.basename(path))
            # an id of its own: two paths may be links to one file, which has one watch
            own = cast("CallbackId", next(self._file_ids))
            watch = self._reader.add_callback(os.fsencode(path), _WRITING, listener, own)
            return partial(self._reader.remove_callbacks, [(watch, own)])

        def stop(self) -> None:
            self._reader.stop()
            with contextlib.suppress(RuntimeError):  # its thread was never started
                self._reader.join()

    class _ArrivalEmitter(InotifyEmitter):
        def get_event_mask_from_filter(self) -> Mask:
            return _WRITING if self._event_filter else _NEWS

    def _new_source(lost: Callable[[], None]) -> _Source:
        return _Inotify(lost) if _HAS_READER else _Observed(BaseObserver(_ArrivalEmitter))

else:

    def _new_source(_: Callable[[], None]) -> _Source:
        from watchdog.observers import Observer

        return _Observed(Observer())
