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


# Entries tried before others may go on: any number may have been run by other pools meanwhile.
_AT_A_TIME = 100


class Claims:
    """Gives the jobs of an intake their turns, once there has been a look at what there is.

    Args:
        loop: in which the turns are run.
        intake: says who is next.
        turns: where they have them.
        on_over: is called in the loop with each turn that is over.
        follow_pause: looks whether the spool is paused, and says so.
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
        self._asked = False  # to look soon
        self._wanting = True

    def begin(self) -> None:
        """Claim from here on: enough is known for the order to be right; in any thread."""
        self.begun = True

    def resize(self, slots: int) -> bool:
        """Have so many jobs run at a time from here on; tell whether that is news."""
        return self._lanes.resize(slots)

    def pause(self) -> None:
        """Claim nothing, and let no command start, until `resume`."""
        self.paused = True
        self._lanes.close()

    def resume(self) -> None:
        """Go on claiming, unless it is stopped."""
        self.paused = False
        if not self.stopped:
            self._lanes.open()

    def stop(self) -> None:
        """Claim nothing more; what has not started is given back."""
        self.stopped = True
        self._lanes.close()

    def arrived(self, entry: Entry) -> None:
        """Claim what there is, unless that could not be this; in any thread."""
        if not self._asked and (self._wanting or entry.priority < self._lanes.bar):
            self._asked = True
            self._loop.soon_from_thread(self.claim)

    def claim(self) -> None:
        """Claim what there is room for, and what is more urgent than what has been claimed."""
        self._fill()
        for _ in range(_AT_A_TIME):
            entry = None if self._is_held_back() else self._next(self._lanes.bar)
            if entry is None:
                return
            self._begin(entry)
        self._loop.soon(self.claim)

    def _fill(self) -> None:
        self._asked = False
        # before the look: whoever puts a job in after it must see that one is wanted
        self._wanting = True
        for _ in range(_AT_A_TIME):
            room = self._lanes.has_room(in_rows=self._turns.wait_for_disk)
            if not room or self._is_held_back():
                self._wanting = False  # until there is room, which has the next look follow
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
        # Behind it, and not by the event, which may come later than that of a job: who pauses, then
        # drops a batch, relies on it.
        self._follow_pause()
        if self.paused:
            self._intake.put_back(entry)
            return None
        return entry

    def _begin(self, entry: Entry) -> None:
        self._follow(self._turns.begin(entry, on_room=self._fill))

    def settle_stray(self, held: Held) -> None:
        """Send away what is held in our name, unless it was claimed by us."""
        self._follow(self._turns.settle_stray(held))

    def _follow(self, turn: Future[None] | None) -> None:
        if turn is not None:
            self.under_way.add(turn)
            turn.on_done(partial(self._over, turn))

    def _over(self, turn: Future[None]) -> None:
        self.under_way.discard(turn)
        self._on_over(turn)
        self._fill()
