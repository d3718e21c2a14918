"""What may run next, in order: an index of names in memory, never the truth (pure).

Entries are hints. Whoever pops one must still win the file, and one whose file is gone is dropped.
Nothing here lists a directory, so a job costs the same at a thousand waiting as at a million.
spool-layout.md, section "Waking".
"""

from __future__ import annotations

from collections import defaultdict
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sized


_FEW_PASSED_OVER = 1000  # entries that count no more: too few to be worth clearing


class Entry(NamedTuple):
    """One waiting job file: lower priority first, then who came first, then the name."""

    priority: int
    arrived_us: int  # see `Job.place`
    created: int  # of those that came within a tick of the file system's clock, see `Job.created`
    job_id: str
    state: str
    due: str = ""  # the times that its file names, see `Job.due`
    ctime_ns: int = 0  # of its file, by which a change is told


class Backlog:
    """The jobs that wait: ready now, at a time of the wall clock, or after a span of time."""

    def __init__(self) -> None:
        self._ready: list[Entry] = []
        self._at: list[tuple[float, Entry]] = []
        self._after: list[tuple[float, Entry]] = []
        # By state, the entry that counts for an id; an older one still in a heap is passed over.
        self._current: defaultdict[str, dict[str, Entry]] = defaultdict(dict)

    def __len__(self) -> int:
        return sum(map(len, self._current.values()))

    def known(self, state: str, job_id: str) -> Entry | None:
        """Return what is known of a file."""
        return self._current[state].get(job_id)

    def entries(self, state: str) -> list[Entry]:
        """Return what is known of the files of a state."""
        return list(self._current[state].values())

    def forget(self, entries: Iterable[Entry]) -> None:
        """Drop entries that count for no file any more, and the room that they take."""
        for entry in entries:
            if self._counts(entry):
                del self._current[entry.state][entry.job_id]
        self._ready = list(filter(self._counts, self._ready))
        heapify(self._ready)
        for heap in (self._at, self._after):
            heap[:] = [item for item in heap if self._counts(item[1])]
            heapify(heap)

    def ready(self, entry: Entry) -> None:
        """Put in a job that may run now; it replaces what was known of the same file."""
        self._current[entry.state][entry.job_id] = entry
        heappush(self._ready, entry)
        self._make_room(self._ready)

    def ready_at(self, entry: Entry, wall_s: float) -> bool:
        """Put in a job that may run from a time of the clock on; tell if it is the first."""
        return self._put_later(self._at, entry, wall_s)

    def ready_after(self, entry: Entry, monotonic_s: float) -> bool:
        """Put in a job that may run once a span of time has passed; tell if it is the first."""
        return self._put_later(self._after, entry, monotonic_s)

    def _put_later(self, heap: list[tuple[float, Entry]], entry: Entry, due_s: float) -> bool:
        self._current[entry.state][entry.job_id] = entry
        heappush(heap, (due_s, entry))
        self._make_room(heap)
        return heap[0][1] is entry

    def _make_room(self, heap: Sized) -> None:
        """Drop entries passed over once they are the most: none may be popped for hours."""
        if len(heap) > 2 * len(self) + _FEW_PASSED_OVER:
            self.forget(())

    def advance(self, wall_s: float, monotonic_s: float) -> None:
        """Make ready what is due."""
        for heap, now_s in ((self._at, wall_s), (self._after, monotonic_s)):
            while heap and heap[0][0] <= now_s:
                entry = heappop(heap)[1]
                if self._counts(entry):
                    heappush(self._ready, entry)

    def _counts(self, entry: Entry) -> bool:
        return self._current[entry.state].get(entry.job_id) is entry

    def first(self) -> Entry | None:
        """Return the job that runs next, None if none may."""
        while self._ready:
            if self._counts(self._ready[0]):
                return self._ready[0]
            heappop(self._ready)
        return None

    def pop(self, below: float = inf) -> Entry | None:
        """Take out the job that runs next, None if none may, or its priority is not `below`."""
        entry = self.first()
        if entry is None or entry.priority >= below:
            return None
        heappop(self._ready)
        del self._current[entry.state][entry.job_id]
        return entry

    def wait_s(self, wall_s: float, monotonic_s: float) -> float | None:
        """Return the seconds until the next job falls due, never below 0; None if none will."""
        waits = [
            heap[0][0] - now
            for heap, now in ((self._at, wall_s), (self._after, monotonic_s))
            if heap
        ]
        return max(min(waits), 0.0) if waits else None
