"""Waiting for the disk without standing still: the fsyncs of many jobs, side by side.

The file system commits together the fsyncs that it is given together. So those that are asked for
while others are under way begin in rounds, and a round syncs each directory once for all who asked.
An fsync that is under way may have begun before a rename, so it never counts for later requests.
spool-layout.md, section "Durability".
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from queuectl import kernel
from queuectl.kernel.events import Syncs
from queuectl.system import files
from queuectl.system.loop import Future

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuectl.system.files import Step, Steps, T
    from queuectl.system.loop import Loop

    Over = Callable[["_Sync", OSError | None], None]

# Time between two rounds while something is under way. A job takes 750 us with 2 slots and 710 with
# 4. With 4 ms between rounds it took 820 and 730. 8 or 10 ms gain no more.
_ROUND_S = 0.006
# fsyncs under way. With twice as many, rounds are twice as far apart, so a slow disk is asked for
# more at a time, not more often. Each round keeps descriptors open until the disk answers.
_MANY = 16
_THREADS = 8  # where threads have to do the waiting; more gained nothing on ext4


class Disk:
    """Carries out steps for the coroutines of one event loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._queue: _Queue | None = None
        self._asked: list[_Wait] = []
        self._under_way = 0
        self._next_round = 0.0

    def prepare(self) -> _Queue:
        """Return the queue for fsyncs, which the first call sets up.

        Raises:
            OSError: no descriptor or memory is left for it.
        """
        if self._queue is None:
            self._queue = _queue(self._loop, self._over)
        return self._queue

    async def carry_out(self, steps: Steps[T], *, urgent: bool = False) -> T:
        """Carry out steps while other coroutines go on; return what the steps return.

        Args:
            steps: yields at each wait for the disk.
            urgent: whether to begin without waiting for the next round.

        Raises:
            OSError: a step failed, and the generator of the steps did not handle it.
        """
        try:
            step = next(steps)
            while True:
                try:
                    await self._ask(step, urgent=urgent)
                except OSError as error:  # noqa: PERF203 - the steps may handle each error
                    step = steps.throw(error)
                else:
                    step = steps.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _ask(self, step: Step, *, urgent: bool) -> Future[None]:
        """Add a step to the next round; return a future that is set once the step is done."""
        if urgent or not self._asked:
            at_once = urgent or not self._under_way
            wait_s = 0.0 if at_once else self._next_round - time.monotonic()
            if wait_s > 0.0:
                self._loop.later(wait_s, self._begin)
            else:  # not right here, so that later requests of this turn of the loop can join
                self._loop.soon(self._begin)
        wait = _Wait(self._loop, step)
        self._asked.append(wait)
        return wait

    def _begin(self) -> None:
        asked, self._asked = self._asked, []
        if not asked:  # an urgent request has begun them already
            return
        try:
            queue = self.prepare()
        except OSError as error:
            for wait in asked:
                wait.fail(error)
            return
        self._next_round = time.monotonic() + _ROUND_S * max(1, self._under_way // _MANY)
        syncs = _syncs(asked)
        self._under_way += len(syncs)
        queue.begin(syncs)

    def _over(self, sync: _Sync, error: OSError | None) -> None:
        self._under_way -= 1
        sync.tell(error)

    def close(self) -> None:
        """Close the queue for fsyncs; none may be under way."""
        if self._queue is not None:
            self._queue.close()


class _Wait(Future[None]):
    """The end of a step, as a future: set once all its fsyncs are over, or failed if one failed."""

    __slots__ = ("_fault", "_left", "step")

    def __init__(self, loop: Loop, step: Step) -> None:
        super().__init__(loop)
        self.step = step
        self._left = len(step.directories) + (step.descriptor is not None)
        self._fault: OSError | None = None

    def one_is_over(self, error: OSError | None) -> None:
        self._left -= 1
        self._fault = self._fault or error
        if self._left:  # on an error the waiter closes a descriptor that another fsync may be using
            return
        if self._fault is None:
            self.set(None)
        else:
            self.fail(self._fault)


class _Sync(NamedTuple):
    """One fsync; its descriptor stays open until `tell` is called with the result."""

    descriptor: int
    waiting: Sequence[_Wait]
    of_directory: bool

    def run(self) -> OSError | None:
        """Do the fsync here and wait for it; return its error, if any."""
        try:
            (kernel.sync if self.of_directory else kernel.sync_data)(self.descriptor)
        except OSError as error:
            return error
        return None

    def tell(self, error: OSError | None) -> None:
        """Close the descriptor if it is that of a directory, and tell all who wait how it went."""
        if self.of_directory:
            files.close_directory(self.descriptor)
        for wait in self.waiting:
            wait.one_is_over(error)


def _syncs(asked: Sequence[_Wait]) -> list[_Sync]:
    """Return the fsyncs to begin, one for each directory; fail those that cannot begin."""
    syncs: list[_Sync] = []
    directories: defaultdict[str, list[_Wait]] = defaultdict(list)
    for wait in asked:
        descriptor = wait.step.descriptor
        if descriptor is not None:
            syncs.append(_Sync(descriptor, (wait,), of_directory=False))
        for path in wait.step.directories:
            directories[path].append(wait)
    for path, waiting in directories.items():
        try:
            # a new descriptor each time, since a failed fsync must not be repeated on the old one
            descriptor = files.open_directory(path)
        except OSError as error:  # noqa: PERF203 - the others are still synced
            for wait in waiting:
                wait.one_is_over(error)
        else:
            syncs.append(_Sync(descriptor, waiting, of_directory=True))
    return syncs


# --- queues for fsyncs ----------------------------------------------------------------------


class _Queue(Protocol):
    def begin(self, asked: Sequence[_Sync]) -> None: ...

    def close(self) -> None: ...


def _queue(loop: Loop, over: Over) -> _Queue:
    try:
        return _InKernel(loop, Syncs(), over)
    except OSError:  # another kernel, or a container that forbids it: threads wait instead
        return _InThreads(loop, over)


class _InKernel:
    def __init__(self, loop: Loop, syncs: Syncs, over: Over) -> None:
        self._loop = loop
        self._syncs = syncs
        self._over = over
        self._under_way: dict[int, _Sync] = {}
        loop.watch(syncs.ready, self._look)

    def begin(self, asked: Sequence[_Sync]) -> None:
        begun = self._syncs.begin([(sync.descriptor, not sync.of_directory) for sync in asked])
        for sync in asked[:begun]:
            self._under_way[sync.descriptor] = sync
        for sync in asked[begun:]:  # too many for the kernel at once, or one that it cannot sync
            self._over(sync, sync.run())

    def _look(self) -> None:
        for descriptor, code in self._syncs.over():
            sync = self._under_way.pop(descriptor)
            self._over(sync, OSError(code, os.strerror(code)) if code else None)

    def close(self) -> None:
        self._loop.unwatch(self._syncs.ready)
        self._syncs.close()


class _InThreads:
    def __init__(self, loop: Loop, over: Over) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._loop = loop
        self._over = over
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="disk")

    def begin(self, asked: Sequence[_Sync]) -> None:
        for sync in asked:
            self._threads.submit(self._wait, sync)

    def _wait(self, sync: _Sync) -> None:
        self._loop.soon_from_thread(partial(self._over, sync, sync.run()))

    def close(self) -> None:
        self._threads.shutdown()
