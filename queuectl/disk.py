"""Waiting for the disk without standing still: the fsyncs of many jobs side by side.

The file system commits together what is asked of it at the same time. Directories are synced in
rounds: whoever comes while a round is under way waits for the next, which serves all who came.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from queuectl.files import DirectorySync, FileSync

if TYPE_CHECKING:
    from queuectl.files import Step, Steps, T

_THREADS = 8  # file fsyncs at a time; 16 gave no more on ext4 and xfs


class Disk:
    """Carries out steps for the tasks of one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="disk")
        self._wanted: set[str] = set()
        self._next_round: asyncio.Future[None] | None = None
        self._round_task: asyncio.Task[None] | None = None

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

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    async def _wait_for(self, step: Step) -> None:
        if isinstance(step, FileSync):
            await asyncio.get_running_loop().run_in_executor(self._threads, step.run)
        else:
            await self._join_round(step)

    async def _join_round(self, step: DirectorySync) -> None:
        self._wanted.update(step.paths)
        if self._next_round is None:
            self._next_round = asyncio.get_running_loop().create_future()
        # an fsync that is under way may have begun before our rename: it is the next that counts
        joined = self._next_round
        if self._round_task is None:
            self._round_task = asyncio.create_task(self._rounds())
        await joined

    async def _rounds(self) -> None:
        loop = asyncio.get_running_loop()
        while self._next_round is not None:
            done, self._next_round = self._next_round, None
            paths, self._wanted = tuple(self._wanted), set()
            try:
                await loop.run_in_executor(self._threads, DirectorySync(paths).run)
            except OSError as error:
                # the kernel reports a lost write once: all who waited must hear of it
                done.set_exception(error)
            else:
                done.set_result(None)
        self._round_task = None
