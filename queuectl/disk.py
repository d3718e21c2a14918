"""Waiting for the disk without standing still: the fsyncs of many jobs, side by side.

The file system commits together what is asked of it together, so what is asked for in one turn of
the loop is begun together, and a directory is synced once for all who ask. An fsync that is under
way may have begun before a rename, so it never counts for who comes later.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from queuectl import files, kernel
from queuectl.files import FileSync
from queuectl.kernel.events import Syncs
from queuectl.loop import Future

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from queuectl.files import Step, Steps, T
    from queuectl.loop import Loop

_ROUNDS = 2  # of directories, under way at a time: one more is begun while the first waits
_THREADS = 8  # where threads have to wait: more gained nothing on ext4


class Disk:
    """Carries out steps for the coroutines of one event loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._queue = _queue(loop)
        self._asked: list[_Sync] = []
        self._names = _Rounds(loop, self._ask)

    async def carry_out(self, steps: Steps[T]) -> T:
        """Go through steps, letting others go on meanwhile; return what they return.

        Raises:
            OSError: a step failed, and the steps did not know better.
        """
        try:
            step = next(steps)
            while True:
                try:
                    await self._wait_for(step)
                except OSError as error:  # noqa: PERF203 - each step may be answered for
                    step = steps.throw(error)
                else:
                    step = steps.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _wait_for(self, step: Step) -> None:
        if isinstance(step, FileSync):
            over: Future[None] = Future(self._loop)
            self._ask(_Sync(step.descriptor, data_only=True, over=partial(_settle, over)))
            await over
            return
        await self._names.join(step.paths)

    def _ask(self, sync: _Sync) -> None:
        """Begin an fsync together with all that are asked for in this turn of the loop."""
        if not self._asked:
            self._loop.soon(self._begin)
        self._asked.append(sync)

    def _begin(self) -> None:
        asked, self._asked = self._asked, []
        self._queue.begin(asked)

    def close(self) -> None:
        """End what waits for the disk; nothing may be under way."""
        self._queue.close()


@dataclass(frozen=True)
class _Sync:
    """One fsync, of a descriptor that stays open until `over` is called with how it went."""

    descriptor: int
    data_only: bool
    over: Callable[[OSError | None], None]

    def run(self) -> OSError | None:
        """Wait for it here."""
        try:
            (kernel.sync_data if self.data_only else os.fsync)(self.descriptor)
        except OSError as error:
            return error
        return None


class _Rounds:
    """Directories whose names are to be on disk, and who waits for them.

    All that came meanwhile are synced together, one more time at most while a round is under way:
    each for itself had the file system commit more often, 0.34 instead of 0.39 of `xargs -P 4`.
    """

    def __init__(self, loop: Loop, ask: Callable[[_Sync], None]) -> None:
        self._loop = loop
        self._ask = ask
        self._waiting: list[tuple[tuple[str, ...], Future[None]]] = []
        self._under_way = 0

    def join(self, paths: tuple[str, ...]) -> Future[None]:
        """Return what is set once all names of now in these directories are on disk."""
        over: Future[None] = Future(self._loop)
        self._waiting.append((paths, over))
        if len(self._waiting) == 1:
            # not at once: who comes in this turn of the loop shall come along
            self._loop.soon(self._begin)
        return over

    def _begin(self) -> None:
        if not self._waiting or self._under_way >= _ROUNDS:
            return
        served, self._waiting = self._waiting, []
        self._under_way += 1
        errors: dict[str, OSError | None] = {}
        paths = {path for asked, _ in served for path in asked}

        def synced(path: str, error: OSError | None) -> None:
            errors[path] = error
            if len(errors) == len(paths):
                self._end(served, errors)

        for path in paths:
            self._sync(path, partial(synced, path))

    def _sync(self, path: str, over: Callable[[OSError | None], None]) -> None:
        try:
            # a new descriptor each time, since a failed fsync is not asked again
            descriptor = files.open_directory(path)
        except OSError as error:
            over(error)
            return

        def synced(error: OSError | None) -> None:
            with contextlib.suppress(OSError):  # nothing was written to it: its close says nothing
                os.close(descriptor)
            over(error)

        self._ask(_Sync(descriptor, data_only=False, over=synced))

    def _end(
        self,
        served: Sequence[tuple[tuple[str, ...], Future[None]]],
        errors: Mapping[str, OSError | None],
    ) -> None:
        self._under_way -= 1
        for paths, over in served:
            _settle(over, next((errors[path] for path in paths if errors[path]), None))
        self._loop.soon(self._begin)


def _settle(over: Future[None], error: OSError | None) -> None:
    if error is None:
        over.set(None)
    else:
        over.fail(error)


# --- who waits ------------------------------------------------------------------------------


class _Queue(Protocol):
    def begin(self, asked: Sequence[_Sync]) -> None: ...

    def close(self) -> None: ...


def _queue(loop: Loop) -> _Queue:
    try:
        return _InKernel(loop, Syncs())
    except OSError:  # another kernel, or a container that may not: then threads wait
        return _InThreads(loop)


class _InKernel:
    def __init__(self, loop: Loop, syncs: Syncs) -> None:
        self._loop = loop
        self._syncs = syncs
        self._under_way: dict[int, _Sync] = {}
        loop.watch(syncs.ready, self._look)

    def begin(self, asked: Sequence[_Sync]) -> None:
        begun = self._syncs.begin([(sync.descriptor, sync.data_only) for sync in asked])
        for sync in asked[:begun]:
            self._under_way[sync.descriptor] = sync
        for sync in asked[begun:]:  # more than the kernel takes at a time, or nothing to be synced
            sync.over(sync.run())

    def _look(self) -> None:
        for descriptor, code in self._syncs.over():
            sync = self._under_way.pop(descriptor)
            sync.over(OSError(code, os.strerror(code)) if code else None)

    def close(self) -> None:
        self._loop.unwatch(self._syncs.ready)
        self._syncs.close()


class _InThreads:
    def __init__(self, loop: Loop) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._loop = loop
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="disk")

    def begin(self, asked: Sequence[_Sync]) -> None:
        for sync in asked:
            self._threads.submit(self._wait, sync)

    def _wait(self, sync: _Sync) -> None:
        self._loop.soon_from_thread(partial(sync.over, sync.run()))

    def close(self) -> None:
        self._threads.shutdown()
