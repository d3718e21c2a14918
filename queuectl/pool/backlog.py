"""The backlog: an index in memory of the jobs that may run, in order (pure).

Entries are hints, never the truth. Whoever pops an entry must still win its file, and an entry
whose file is gone is dropped. Nothing here lists a directory, so a job costs the same whether a
thousand jobs wait or a million.
spool-layout.md, section "Waking".
"""

from __future__ import annotations

from collections import defaultdict
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sized


_FEW_PASSED_OVER = 1000  # so few stale entries are not worth clearing out of a heap


class Entry(NamedTuple):
    """A waiting job file. Entries sort by priority (lowest first), arrival, creation, then name."""

    priority: int
    arrived_us: int  # see `Job.place`
    created: int  # orders arrivals within one tick of the file system's clock, see `Job.created`
    job_id: str
    state: str
    due: str = ""  # the times named in its file, see `Job.due`
    ctime_ns: int = 0  # of its file; shows whether the file has changed


class Backlog:
    """The waiting jobs: ready now, due at a wall-clock time, or due after a span of time."""

    def __init__(self) -> None:
        self._ready: list[Entry] = []
        self._at: list[tuple[float, Entry]] = []
        self._after: list[tuple[float, Entry]] = []
        # By state, the current entry of each id. An older entry still in a heap is stale.
        self._current: defaultdict[str, dict[str, Entry]] = defaultdict(dict)

    def __len__(self) -> int:
        return sum(map(len, self._current.values()))

    def known(self, state: str, job_id: str) -> Entry | None:
        """Return the current entry of a file, None if it has none."""
        return self._current[state].get(job_id)

    def entries(self, state: str) -> list[Entry]:
        """Return the current entries of a state."""
        return list(self._current[state].values())

    def forget(self, entries: Iterable[Entry]) -> None:
        """Drop these entries if they are current, and clear all stale entries from the heaps."""
        for entry in entries:
            if self._counts(entry):
                del self._current[entry.state][entry.job_id]
        self._ready = list(filter(self._counts, self._ready))
        heapify(self._ready)
        for heap in (self._at, self._after):
            heap[:] = [item for item in heap if self._counts(item[1])]
            heapify(heap)

    def ready(self, entry: Entry) -> None:
        """Add a job that may run now, replacing any earlier entry of its file."""
        self._current[entry.state][entry.job_id] = entry
        heappush(self._ready, entry)
        self._make_room(self._ready)

    def ready_at(self, entry: Entry, wall_s: float) -> bool:
        """Add a job that is due at a wall-clock time; tell whether none is due before it."""
        return self._put_later(self._at, entry, wall_s)

    def ready_after(self, entry: Entry, monotonic_s: float) -> bool:
        """Add a job that is due after a span of time; tell whether none is due before it."""
        return self._put_later(self._after, entry, monotonic_s)

    def _put_later(self, heap: list[tuple[float, Entry]], entry: Entry, due_s: float) -> bool:
        self._current[entry.state][entry.job_id] = entry
        heappush(heap, (due_s, entry))
        self._make_room(heap)
        return heap[0][1] is entry

    def _make_room(self, heap: Sized) -> None:
        """Clear stale entries once they are the majority, since nothing may be popped for hours."""
        if len(heap) > 2 * len(self) + _FEW_PASSED_OVER:
            self.forget(())

    def advance(self, wall_s: float, monotonic_s: float) -> None:
        """Make ready every job that has fallen due."""
        for heap, now_s in ((self._at, wall_s), (self._after, monotonic_s)):
            while heap and heap[0][0] <= now_s:
                entry = heappop(heap)[1]
                if self._counts(entry):
                    heappush(self._ready, entry)

    def _counts(self, entry: Entry) -> bool:
        return self._current[entry.state].get(entry.job_id) is entry

    def first(self) -> Entry | None:
        """Return the job that runs next, None if no job is ready."""
        while self._ready:
            if self._counts(self._ready[0]):
                return self._ready[0]
            heappop(self._ready)
        return None

    def pop(self, below: float = inf) -> Entry | None:
        """Remove and return the next job, None if no ready job has a priority below `below`."""
        entry = self.first()
        if entry is None or entry.priority >= below:
            return None
        heappop(self._ready)
        del self._current[entry.state][entry.job_id]
        return entry

    def wait_s(self, wall_s: float, monotonic_s: float) -> float | None:
        """Return the seconds (0 or more) until the next job falls due, None if none will."""
        waits = [
            heap[0][0] - now
            for heap, now in ((self._at, wall_s), (self._after, monotonic_s))
            if heap
        ]
        return max(min(waits), 0.0) if waits else None
