"""What `queuectl top` sees: events tell when to look, and a look tells what is there."""

from __future__ import annotations

import heapq
import threading
import time
from functools import cache, partial
from typing import TYPE_CHECKING

from queuectl.cli.frame import RATE_S, Rate, View
from queuectl.cli.upcoming import Upcoming, item_of
from queuectl.record.outcome import means_later
from queuectl.spool.filenames import SUFFIX, is_job_file, split_held
from queuectl.states import OUTCOMES, STATES, WAITING
from queuectl.units import duration_text, instant, plain
from queuectl.workers import hindrances, owners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queuectl.cli.frame import Item
    from queuectl.spool.layout import Found, Layout
    from queuectl.system.arrivals import Arrivals

_LISTED = 100  # more rows than a terminal has
_READ_A_LOOK = 2_000  # waiting jobs read in one look, in 0.1 s
_READ_ONCE = 10_000  # the same if there is only one look
_HELD_READ = 500  # files of processing/ read to tell which jobs run
_DATED = 20_000  # if a state has more files, their dates are not looked up
_LOOK_EVERY_S = 0.5
_LOOK_SHARE = 20  # a look that takes 1 s is made every 20 s: 5% of a core
_IDLE_LOOK_S = 5.0
_OLD_S = 2.0 * _IDLE_LOOK_S  # counts older than this are marked as old


class Lookout:
    """Keeps a view of a spool; calls `woken`, in another thread, when something has arrived."""

    def __init__(self, spool: Layout, woken: Callable[[], None] = lambda: None) -> None:
        self._spool = spool
        self._woken = woken
        self._lock = threading.Lock()
        self._rate = Rate()
        self._last: dict[str, str] = {}
        self._dirty = True
        self._hinted = False  # whether `woken` was called since the last view: once is enough
        self._next_look = self._idle_look = self._looked_s = 0.0
        self._arrivals: Arrivals | None = None
        self._deaf = False
        self._counts: dict[str, int] = {}
        self._upcoming = Upcoming(spool)
        self._failures: dict[tuple[str, float], Item] = {}
        self._count_what_ended(time.time())

    def _count_what_ended(self, now: float) -> None:
        """Count what ended in the last minute, by the dates of files if these are not too many."""
        ended: list[float] = []
        for state in OUTCOMES:
            if sum(1 for _ in self._spool.file_names(state)) <= _DATED:
                ended += [at for _, at in self._spool.written(state) if at > now - RATE_S]
        for at in sorted(ended):
            self._rate.add(at)

    # --- events -----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch for arrivals; if that fails, views are only updated less often."""
        try:
            from queuectl.system.arrivals import Arrivals

            arrivals = Arrivals(
                {self._spool.directory(state): partial(self._arrived, state) for state in STATES}
            )
            arrivals.start()
        except (ImportError, OSError):
            self._deaf = True
        else:
            self._arrivals = arrivals

    def stop(self) -> None:
        """Stop watching."""
        if self._arrivals is not None:
            self._arrivals.stop()

    def _arrived(self, state: str, name: str) -> None:
        if not is_job_file(name):
            return
        stem = name.removesuffix(SUFFIX)
        if state in WAITING:
            self._upcoming.came(state, stem)
        else:
            self._upcoming.gone(split_held(stem)[0] if state == "processing" else stem)
        with self._lock:
            # a file that is written in place is reported more than once
            if state in OUTCOMES and self._last.get(state) != name:
                self._last[state] = name
                self._rate.add(time.time())
            self._dirty = True
            first, self._hinted = not self._hinted, True
        if first:
            self._woken()

    # --- looking ----------------------------------------------------------------------------

    def view(self) -> View:
        """Return the view of this moment.

        Raises:
            SpoolError: a directory cannot be read.
        """
        self._look_if_due()
        now = time.time()
        pools = owners.workers(self._spool)
        starting = hindrances.that_start(self._spool, pools)
        hindering = [] if starting else hindrances.of_all(self._spool, pools)
        is_lost = cache(partial(owners.is_lost, self._spool))
        held = list(self._spool.held())
        kept = [item.job_id for item in held if not is_lost(item.owner)]
        running, claimed = self._running(kept[:_HELD_READ])
        with self._lock:
            rate = self._rate.last(now)
            self._hinted = False
        return View(
            spool=plain(self._spool.path),
            now=now,
            clock=time.strftime("%H:%M:%S", time.localtime(now)),
            counts={**self._counts, "processing": len(held)},
            paused=self._spool.paused,
            pools=len(pools),
            slots=sum(pool.slots for pool in starting),
            hindered=", ".join(sorted({why.word for why in hindering})),
            rate=rate,
            running=running,
            claimed=claimed,
            lost=len(held) - len(kept),
            following=self._upcoming.next(now, {item.job_id for item in held}),
            failures=list(self._failures.values()),
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        notes = []
        known, unknown = self._upcoming.known, self._upcoming.unknown
        if unknown:
            notes.append(f"next: among {known:,} read of {known + unknown:,} that wait")
        age_s = time.monotonic() - self._looked_s
        if age_s > _OLD_S:
            notes.append(f"counts are {duration_text(age_s)} old")
        if self._deaf:
            notes.append(f"no file system events: looking every {_IDLE_LOOK_S:g} s")
        return notes

    def _look_if_due(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = now >= self._idle_look or (self._dirty and now >= self._next_look)
            if not due:
                return
            self._dirty = False
        self._look()
        self._looked_s = time.monotonic()
        cost_s = self._looked_s - now
        self._next_look = now + max(_LOOK_EVERY_S, _LOOK_SHARE * cost_s)
        self._idle_look = now + max(_IDLE_LOOK_S, _LOOK_SHARE * cost_s)

    def _look(self) -> None:
        spool = self._spool
        self._counts = {state: sum(1 for _ in spool.file_names(state)) for state in STATES}
        if self._deaf:
            self._upcoming.forget_all()
        is_live = self._deaf or self._arrivals is not None
        self._upcoming.look(time.time(), _READ_A_LOOK if is_live else _READ_ONCE)
        for state in ("failed", "dead"):
            self._note_failures(spool.jobs(state, self._newest(state)))

    def _newest(self, state: str) -> list[str]:
        if self._counts[state] > _DATED:
            return heapq.nlargest(_LISTED, self._spool.names(state))
        dated = self._spool.written(state)
        return [name for name, _ in heapq.nlargest(_LISTED, dated, key=lambda item: item[1])]

    def _note_failures(self, jobs: Iterable[Found]) -> None:
        """Remember failures: a job that is retried leaves failed/, but it did fail."""
        for found in jobs:
            record = found.job.record
            if means_later(record):
                continue
            at_s = instant(record.get("finished_at")) or instant(record.get("updated_at")) or 0.0
            item = item_of(found.job, at_s or None, found.state, plain(found.job.error))
            self._failures[found.job.id, at_s] = item
        latest = sorted(self._failures.items(), key=lambda item: -item[0][1])[:_LISTED]
        self._failures = dict(latest)

    def _running(self, held: Sequence[str]) -> tuple[list[Item], int]:
        """Return which of these jobs run, and how many are only claimed or on their way out."""
        items, others = [], 0
        for found in self._spool.jobs("processing", held):
            if self._spool.has_begun(found.job):
                items.append(item_of(found.job, found.job.instant("started_at")))
            else:
                others += 1
        return sorted(items, key=lambda item: item.at_s or 0.0), others
