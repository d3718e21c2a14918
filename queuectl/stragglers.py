"""Ending what a command has left behind, also what has left its process group by setsid.

spool-layout.md, section "Run". Each look reads all of /proc, so one look serves all who wait.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING

from queuectl import kernel

if TYPE_CHECKING:
    from queuectl.kernel import Tree

_LOOK_S = 0.02  # between two looks at what is being ended
_GIVE_UP_S = 5.0  # a process that SIGKILL does not end within this hangs in the kernel: go on


@dataclass
class Ending:
    """One tree that is being ended: SIGTERM first, SIGKILL to what is left after the grace."""

    tree: Tree
    grace_s: float
    begun_s: float = field(default_factory=time.monotonic)
    told: set[int] = field(default_factory=set)

    def go_on(self, living: list[int]) -> bool:
        """Signal what lives; tell whether there is anything left to wait for."""
        elapsed_s = time.monotonic() - self.begun_s
        if not living or elapsed_s > self.grace_s + _GIVE_UP_S:
            return False
        for pid in living:
            if elapsed_s > self.grace_s:
                kernel.signal_process(pid, SIGKILL, self.tree)
            elif pid not in self.told:
                kernel.signal_process(pid, SIGTERM, self.tree)
        self.told.update(living)
        return True


def end_tree(tree: Tree, grace_s: float) -> int:
    """End a tree, waiting here; return how many processes there were."""
    ending = Ending(tree, grace_s)
    while ending.go_on(kernel.processes_of([tree])[tree]):
        time.sleep(_LOOK_S)
    return len(ending.told)


class Sweeper:
    """Ends trees for the tasks of one event loop."""

    def __init__(self) -> None:
        self._endings: dict[Tree, tuple[Ending, asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def end(self, tree: Tree, grace_s: float) -> None:
        """Return once nothing of the tree is left."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._endings[tree] = (Ending(tree, grace_s), over)
        if self._task is None:
            self._task = asyncio.create_task(self._sweep())
        await over

    async def _sweep(self) -> None:
        while self._endings:
            trees = list(self._endings)
            living = await asyncio.to_thread(kernel.processes_of, trees)
            for tree in trees:
                ending, over = self._endings[tree]
                if not ending.go_on(living[tree]):
                    del self._endings[tree]
                    over.set_result(None)
            await asyncio.sleep(_LOOK_S)
        self._task = None
