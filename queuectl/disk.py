"""Waiting for the disk without standing still: the fsyncs of many jobs, in rounds.

Whoever comes while a round is under way waits for one that begins later, which serves all who came
meanwhile: the file system commits together what is asked of it together, and a thread is handed
work once a round, not once an fsync. An fsync that is under way may have begun before a rename, so
it never counts for who comes later.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from queuectl.files import DirectorySync, FileSync

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuectl.files import Step, Steps, T

_ROUNDS = 2  # under way at a time: one more is begun while the first waits

Waiting: TypeAlias = "list[tuple[Step, asyncio.Future[None]]]"


class Disk:
    """Carries out steps for the tasks of one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_ROUNDS, thread_name_prefix="disk")
        self._waiting: Waiting = []
        self._under_way = 0

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
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, over))
        if self._under_way == 0:
            self._begin()
        elif self._under_way < _ROUNDS:
            # not at once: who comes in this turn of the loop shall come along
            asyncio.get_running_loop().call_soon(self._begin)
        await over

    def _begin(self) -> None:
        if not self._waiting or self._under_way >= _ROUNDS:
            return
        served, self._waiting = self._waiting, []
        self._under_way += 1
        steps = [step for step, _ in served]
        future = asyncio.get_running_loop().run_in_executor(self._threads, _run_all, steps)
        future.add_done_callback(partial(self._end, served))

    def _end(self, served: Waiting, answers: asyncio.Future[list[OSError | None]]) -> None:
        self._under_way -= 1
        for (_, over), error in zip(served, answers.result(), strict=True):
            if error is None:
                over.set_result(None)
            else:
                over.set_exception(error)
        self._begin()


def _run_all(steps: Sequence[Step]) -> list[OSError | None]:
    """Run steps, each directory once for all who ask for it; return the error of each, or None."""
    outcomes = {step: _error_of(step) for step in steps if isinstance(step, FileSync)}
    paths = {path for step in steps if isinstance(step, DirectorySync) for path in step.paths}
    # the kernel reports a lost write once: all who asked for the directory must hear of it
    of_directory = {path: _error_of(DirectorySync((path,))) for path in paths}
    return [
        outcomes[step]
        if isinstance(step, FileSync)
        else next((of_directory[path] for path in step.paths if of_directory[path]), None)
        for step in steps
    ]


def _error_of(step: Step) -> OSError | None:
    try:
        step.run()
    except OSError as error:
        return error
    return None
