"""End what a command has left behind, including what has left its process group by setsid.

spool-layout.md, section "Run". Each look reads all of /proc, so one look serves all who wait.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from functools import partial
from signal import SIGCONT, SIGKILL, SIGTERM
from typing import TYPE_CHECKING

from queuectl import kernel
from queuectl.kernel import processes
from queuectl.system.loop import Future

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl.kernel.processes import Tree
    from queuectl.system.loop import Loop

LOOK_S = 0.02  # between two looks at the processes that are being ended
_GIVE_UP_S = 5.0  # a process that outlives SIGKILL for this long hangs in the kernel: go on
_LONGEST_LOOK_S = 1.0  # more time than this between two looks does not count


@dataclass
class Ending:
    """One tree that is being ended: SIGTERM first, SIGKILL to what is left after the grace.

    If the tree has a group, the caller has already sent SIGTERM to that.
    """

    tree: Tree
    grace_s: float
    begun_s: float = field(default_factory=time.monotonic)
    told: set[int] = field(default_factory=set)
    killed_for_s: float = 0.0  # since the first SIGKILL, counted from look to look
    last_kill_s: float | None = None
    blind: int = 0  # looks in a row that failed
    survivors: tuple[int, ...] = ()  # pids that outlived SIGKILL, and are given up

    def go_on(self, living: list[int] | None) -> bool:
        """Signal the living processes, and tell whether there is anything left to wait for.

        Args:
            living: pids of the tree; None if they could not be found out.
        """
        if living is None:
            self.blind += 1
            return self.blind * LOOK_S <= self.grace_s + _GIVE_UP_S
        self.blind = 0
        if not living:
            return False
        # the first look may come late, or the grace be 0: even then SIGTERM goes first
        grace_is_over = time.monotonic() - self.begun_s > self.grace_s and bool(self.told)
        for pid in living:
            if grace_is_over:
                processes.signal_process(pid, SIGKILL, self.tree)
            elif pid not in self.told and not self._is_in_group(pid):
                processes.signal_process(pid, SIGTERM, self.tree)
                processes.signal_process(pid, SIGCONT, self.tree)  # suspended, it cannot end
        self.told.update(living)
        if grace_is_over and self._count_wait():  # after the signals, which kill newcomers too
            self.survivors = tuple(living)
            return False
        return True

    def _count_wait(self) -> bool:
        """Count the time since the last SIGKILL, and tell whether it is time to give up."""
        now = time.monotonic()
        if self.last_kill_s is not None:
            # a pool may be suspended for hours between two looks
            self.killed_for_s += min(now - self.last_kill_s, _LONGEST_LOOK_S)
        self.last_kill_s = now
        return self.killed_for_s > _GIVE_UP_S

    def _is_in_group(self, pid: int) -> bool:
        try:
            return self.tree.group is not None and os.getpgid(pid) == self.tree.group
        except ProcessLookupError:
            return False


class Sweeper:
    """Ends trees of processes, for the turns of one event loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._endings: dict[Tree, tuple[Ending, Future[None]]] = {}
        self._sweeping = False

    async def end(self, tree: Tree, grace_s: float) -> None:
        """End a tree, and return once nothing of it is left but what not even SIGKILL ends."""
        over: Future[None] = Future(self._loop)
        self._endings[tree] = (Ending(tree, grace_s), over)
        if not self._sweeping:
            self._sweeping = True
            swept = self._loop.start(self._sweep())
            swept.on_done(partial(self._swept, swept))
        await over

    def _swept(self, swept: Future[None]) -> None:
        """Raise an unexpected error of the sweep in all who wait for it."""
        if swept.error is not None:
            self._sweeping = False
            for _, over in self._endings.values():
                over.fail(swept.error)
            self._endings.clear()

    async def _sweep(self) -> None:
        while self._endings:
            trees = list(self._endings)
            living: dict[Tree, list[int]] = {}
            with _out_of_resources_for_now():
                living = await self._loop.in_thread(partial(processes.processes_of, trees))
            for tree in trees:
                ending, over = self._endings[tree]
                goes_on = True
                with _out_of_resources_for_now():
                    goes_on = ending.go_on(living.get(tree))
                if not goes_on:
                    del self._endings[tree]
                    over.set(None)
            await self._loop.sleep(LOOK_S)
        self._sweeping = False


@contextlib.contextmanager
def _out_of_resources_for_now() -> Iterator[None]:
    """Ignore a lack of descriptors or threads: the next look tries again."""
    try:
        yield
    except OSError as error:
        if error.errno not in kernel.OUT_OF_RESOURCES:
            raise
