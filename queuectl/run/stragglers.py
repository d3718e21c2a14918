"""Ending what a command has left behind, also what has left its process group by setsid.

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

LOOK_S = 0.02  # between two looks at what is being ended
_GIVE_UP_S = 5.0  # a process that SIGKILL does not end within this hangs in the kernel: go on
_LONGEST_LOOK_S = 1.0  # what counts of the time between two looks, at most


@dataclass
class Ending:
    """One tree that is being ended: SIGTERM first, SIGKILL to what is left after the grace.

    The group of a tree was sent its SIGTERM by whoever has it ended.
    """

    tree: Tree
    grace_s: float
    begun_s: float = field(default_factory=time.monotonic)
    told: set[int] = field(default_factory=set)
    killed_for_s: float = 0.0  # since the first SIGKILL, as far as anybody looked
    last_kill_s: float | None = None
    blind: int = 0  # looks in a row that found nothing out
    survivors: tuple[int, ...] = ()  # of SIGKILL, for so long that nobody waits any more

    def go_on(self, living: list[int] | None) -> bool:
        """Signal what lives; tell whether there is anything left to wait for.

        Args:
            living: processes of the tree; None where that could not be found out.
        """
        if living is None:
            self.blind += 1
            return self.blind * LOOK_S <= self.grace_s + _GIVE_UP_S
        self.blind = 0
        if not living:
            return False
        # the first look may come late, or the grace be none: nobody is killed who was not told
        grace_is_over = time.monotonic() - self.begun_s > self.grace_s and bool(self.told)
        for pid in living:
            if grace_is_over:
                processes.signal_process(pid, SIGKILL, self.tree)
            elif pid not in self.told and not self._is_in_group(pid):
                processes.signal_process(pid, SIGTERM, self.tree)
                processes.signal_process(pid, SIGCONT, self.tree)  # what stands still could not end
        self.told.update(living)
        if grace_is_over and self._count_wait():  # after the signals: who came last is killed too
            self.survivors = tuple(living)
            return False
        return True

    def _count_wait(self) -> bool:
        """Count the time since the last SIGKILL; tell whether that is enough to give up."""
        now = time.monotonic()
        if self.last_kill_s is not None:
            # between two looks a pool may stand still for hours
            self.killed_for_s += min(now - self.last_kill_s, _LONGEST_LOOK_S)
        self.last_kill_s = now
        return self.killed_for_s > _GIVE_UP_S

    def _is_in_group(self, pid: int) -> bool:
        try:
            return self.tree.group is not None and os.getpgid(pid) == self.tree.group
        except ProcessLookupError:
            return False


class Sweeper:
    """Ends trees for the turns of one event loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._endings: dict[Tree, tuple[Ending, Future[None]]] = {}
        self._sweeping = False

    async def end(self, tree: Tree, grace_s: float) -> None:
        """Return once nothing of the tree is left, but for what not even SIGKILL ends."""
        over: Future[None] = Future(self._loop)
        self._endings[tree] = (Ending(tree, grace_s), over)
        if not self._sweeping:
            self._sweeping = True
            swept = self._loop.start(self._sweep())
            swept.on_done(partial(self._swept, swept))
        await over

    def _swept(self, swept: Future[None]) -> None:
        """Have all who wait meet what was not foreseen, if there was something."""
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
    """Let what lacked a descriptor or a thread be done at the next look."""
    try:
        yield
    except OSError as error:
        if error.errno not in kernel.OUT_OF_RESOURCES:
            raise
