"""What `queuectl top` shows as next: chosen from the waiting jobs that have been read."""

from __future__ import annotations

import contextlib
import heapq
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from queuectl.cli import render
from queuectl.cli.frame import Item
from queuectl.record.outcome import means_later
from queuectl.states import WAITING
from queuectl.units import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from queuectl.record.job import Job
    from queuectl.spool.layout import Layout

    _Key = tuple[str, str]  # the state and the id

_KNOWN = 100_000  # jobs remembered at most, which take 25 MB
_SHOWN = 100  # more rows than a terminal has
_FIRST = 2_000  # candidates kept until the next look, while the first of them run
_NEWS = 10_000  # names kept between two looks
_COMMAND_COLUMNS = 200  # more than a terminal has


class _Place(NamedTuple):
    """What decides the place of a job among those that wait."""

    due_s: float
    priority: int
    arrived_us: int
    created: int


def _order(places: Mapping[_Key, _Place], now: float) -> Callable[[_Key], tuple[Any, ...]]:
    """Return a sort key: first ready jobs, as a pool would take them, then the others by time."""

    def order(key: _Key) -> tuple[Any, ...]:
        due_s, *place = places[key]
        return (due_s if due_s > now else 0.0, *place, key[1])

    return order


class Upcoming:
    """Remembers when each waiting job of a spool is due; reads a part of them at a time."""

    def __init__(self, spool: Layout) -> None:
        self.known = 0
        self.unknown = 0
        self._spool = spool
        self._places: dict[_Key, _Place] = {}
        # bounded: a terminal that stands still holds up the thread that empties them
        self._came: deque[_Key] = deque(maxlen=_NEWS)
        self._gone: deque[str] = deque(maxlen=_NEWS)
        self._first: dict[_Key, _Place] = {}  # the next of `_places`
        self._items: dict[_Key, Item] = {}  # the rows last shown of them

    def came(self, state: str, job_id: str) -> None:
        """Have a job read soon that came, or came back; any thread may call this."""
        self._came.append((state, job_id))

    def gone(self, job_id: str) -> None:
        """Stop showing a job that does not wait any longer; any thread may call this."""
        self._gone.append(job_id)

    def forget_all(self) -> None:
        """Have all jobs read again."""
        self._places.clear()
        self._items.clear()

    def look(self, now: float, at_most: int) -> None:
        """Read waiting jobs that are not known yet, but no more than `at_most` files.

        Raises:
            SpoolError: a directory cannot be read.
        """
        self._gone.clear()  # the directories are listed now
        came = self._take_came()
        known: dict[_Key, _Place] = {}
        unread = self._sort_out(known)
        # first what has just come: somebody may be looking for it
        chosen = heapq.nsmallest(at_most, unread, key=lambda key: (key not in came, key[1]))
        for key in chosen[: max(0, _KNOWN - len(known))]:
            self.unknown -= 1
            place = self._place(*key)
            if place is not None:
                known[key] = place
        self._places, self.known = known, len(known)
        first = heapq.nsmallest(_FIRST, known, key=_order(known, now))
        self._first = {key: known[key] for key in first}

    def _take_came(self) -> set[_Key]:
        came = set()
        if len(self._came) == _NEWS:  # there may have been more
            self.forget_all()
        while self._came:
            key = self._came.popleft()
            came.add(key)
            self._places.pop(key, None)
            self._items.pop(key, None)
        return came

    def _sort_out(self, known: dict[_Key, _Place]) -> Iterator[_Key]:
        """Put the waiting jobs that were read into `known`; yield and count the others."""
        self.unknown = 0
        for state in WAITING:
            for job_id in self._spool.names(state):
                place = self._places.get((state, job_id))
                if place is None:
                    self.unknown += 1
                    yield state, job_id
                else:
                    known[state, job_id] = place

    def next(self, now: float, held: Collection[str]) -> list[Item]:
        """Return the jobs that run next, as of the last look, without those that are `held`."""
        while self._gone:
            job_id = self._gone.popleft()
            for state in WAITING:
                self._first.pop((state, job_id), None)
        wait = (key for key in self._first if key[1] not in held)
        first = sorted(wait, key=_order(self._first, now))[:_SHOWN]
        self._items = {key: item for key in first if (item := self._item(*key)) is not None}
        return list(self._items.values())

    def _place(self, state: str, job_id: str) -> _Place | None:
        for found in self._spool.jobs(state, [job_id]):
            with contextlib.suppress(FileNotFoundError):  # it has left since
                ctime_ns = os.stat(self._spool.file(state, job_id)).st_ctime_ns
                due_s = found.job.not_before(state, time.time()) or 0.0
                return _Place(due_s, *found.job.place(state, ctime_ns))
        return None

    def _item(self, state: str, job_id: str) -> Item | None:
        if (state, job_id) in self._items:
            return self._items[state, job_id]
        for found in self._spool.jobs(state, [job_id]):
            job = found.job
            later = means_later(job.record) and state == "failed"
            detail = "later" if later else f"priority {job.priority}" if job.priority else ""
            return item_of(job, job.not_before(state, time.time()), state, detail)
        return None


def item_of(job: Job, at_s: float | None, state: str = "", detail: str = "") -> Item:
    """Return a job as a row of a list, see `Item`."""
    command = render.command_text(job.command, _COMMAND_COLUMNS)
    return Item(job_id=plain(job.id), command=command, at_s=at_s, state=state, detail=detail)
