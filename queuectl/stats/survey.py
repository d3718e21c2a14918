"""Reading a spool's records one after the other for the statistics; changes nothing."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuectl.spool.layout import Layout

# The last states first: a job that moves on meanwhile is missed, which is better than counted twice
_ORDER = ("completed", "dead", "failed", "processing", "pending")
_CLOCK_SLACK_S = 60  # a file system's clock may be another machine's
_TELL_EVERY = 500


@dataclass
class Survey:
    """One look through a spool: what was read, and what was left unread and why."""

    spool: Layout
    since_s: float
    jobs: Counter[str] = field(default_factory=Counter)
    read: int = 0
    older: int = 0
    unreadable: int = 0
    took_s: float = 0.0

    def records(self, told: Callable[[], object] = lambda: None) -> Iterator[dict[str, Any]]:
        """Yield each record that may concern the period, with its directory as its `state`.

        A file that was last written before the period cannot: it is counted, but not opened.

        Args:
            told: called now and then, to show a person that it goes on.

        Raises:
            SpoolError: a directory cannot be read.
        """
        begun = time.monotonic()
        for state in _ORDER:
            for found in self.spool.jobs(state, self._written_since(state), self._missed):
                self.read += 1
                yield found.record()
                if self.read % _TELL_EVERY == 0:
                    told()
        self.took_s = time.monotonic() - begun

    def _written_since(self, state: str) -> Iterator[str]:
        for job_id, written_s in self.spool.written(state):
            self.jobs[state] += 1
            if written_s < self.since_s - _CLOCK_SLACK_S:
                self.older += 1
            else:
                yield job_id

    def _missed(self, _path: str, _error: Exception) -> None:
        self.unreadable += 1

    def document(self) -> dict[str, int]:
        """Return how much was read, for JSON."""
        total = sum(self.jobs.values())
        return {
            "jobs": total,
            "read": self.read,
            "older": self.older,
            "unreadable": self.unreadable,
        }

    def text(self) -> str:
        """Return how much was read, in words."""
        parts = [f"read {self.read:,} of {sum(self.jobs.values()):,} records"]
        if self.older:
            parts.append(f"{self.older:,} were last written before the period")
        if self.unreadable:
            parts.append(f"{self.unreadable:,} cannot be read")
        return "; ".join(parts)
