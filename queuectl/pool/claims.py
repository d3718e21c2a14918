"""What a pool claims, and when: as many jobs as there is room for, the most urgent first.

spool-layout.md, section "The pool".
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.pool.backlog import Entry
    from queuectl.pool.intake import Intake
    from queuectl.pool.turn import Turns
    from queuectl.spool.layout import Held
    from queuectl.system.loop import Future, Loop


# Entries tried before the loop does other work: other pools may have run any number of them.
_AT_A_TIME = 100


class Claims:
    """Claims jobs from an intake and gives them their turns, once `begin` has been called.

    Args:
        loop: the event loop that runs the turns.
        intake: tells which job is next.
        turns: runs the turns.
        on_over: called in the loop with each turn that is over.
        follow_pause: calls `pause` or `resume` if the spool has been paused or unpaused.
    """

    def __init__(
        self,
        loop: Loop,
        intake: Intake,
        turns: Turns,
        on_over: Callable[[Future[None]], None],
        follow_pause: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._intake = intake
        self._turns = turns
        self._lanes = turns.lanes
        self._on_over = on_over
        self._follow_pause = follow_pause
        self.under_way: set[Future[None]] = set()
        self.begun = False
        self.paused = False
        self.stopped = False
        self._asked = False  # whether a claim is scheduled
        self._wanting = True

    def begin(self) -> None:
        """Allow claims from now on; may be called in any thread.

        Call it once enough jobs are known for the order to be right, or the wait is too long.
        """
        self.begun = True

    def resize(self, slots: int) -> bool:
        """Run this many jobs at a time from now on; tell whether that is a change."""
        return self._lanes.resize(slots)

    def pause(self) -> None:
        """Claim nothing, and let no command start, until `resume` is called."""
        self.paused = True
        self._lanes.close()

    def resume(self) -> None:
        """Go on claiming, unless `stop` was called."""
        self.paused = False
        if not self.stopped:
            self._lanes.open()

    def stop(self) -> None:
        """Stop claiming for good, and have the jobs that have not started given back."""
        self.stopped = True
        self._lanes.close()

    def arrived(self, entry: Entry) -> None:
        """Schedule a claim if this entry could be claimed now; may be called in any thread."""
        if not self._asked and (self._wanting or entry.priority < self._lanes.bar):
            self._asked = True
            self._loop.soon_from_thread(self.claim)

    def claim(self) -> None:
        """Claim as many jobs as there is room for, and any more urgent than one still to start."""
        self._fill()
        for _ in range(_AT_A_TIME):
            entry = None if self._is_held_back() else self._next(self._lanes.bar)
            if entry is None:
                return
            self._begin(entry)
        self._loop.soon(self.claim)

    def _fill(self) -> None:
        self._asked = False
        # set before the look: whoever adds a job after it must see that one is wanted
        self._wanting = True
        for _ in range(_AT_A_TIME):
            room = self._lanes.has_room(in_rows=self._turns.wait_for_disk)
            if not room or self._is_held_back():
                self._wanting = False  # until there is room again, which triggers the next look
                return
            entry = self._next()
            if entry is None:
                return
            self._begin(entry)
        self._loop.soon(self._fill)

    def _is_held_back(self) -> bool:
        if self.stopped or not self.begun or self._turns.stall.on:
            return True
        if self.paused:
            self._follow_pause()
        return self.paused

    def _next(self, below: float = inf) -> Entry | None:
        entry = self._intake.next(below)
        if entry is None:
            return None
        # Look for a pause only after taking the entry. The event of the pause may come later than
        # that of a job, and whoever pauses the spool and then drops a batch relies on the order.
        self._follow_pause()
        if self.paused:
            self._intake.put_back(entry)
            return None
        return entry

    def _begin(self, entry: Entry) -> None:
        self._follow(self._turns.begin(entry, on_room=self._fill))

    def settle_stray(self, held: Held) -> None:
        """Send away a job that is held in our name, unless this pool has claimed it."""
        self._follow(self._turns.settle_stray(held))

    def _follow(self, turn: Future[None] | None) -> None:
        if turn is not None:
            self.under_way.add(turn)
            turn.on_done(partial(self._over, turn))

    def _over(self, turn: Future[None]) -> None:
        self.under_way.discard(turn)
        self._on_over(turn)
        self._fill()
