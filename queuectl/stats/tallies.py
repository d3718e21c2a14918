"""Distributions and timelines of very many values, in bounded memory (pure)."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from queuectl.states import OUTCOMES
from queuectl.units import zone_s

if TYPE_CHECKING:
    from collections.abc import Callable

QUANTILES = (0.5, 0.9, 0.95, 0.99)

# --- distributions --------------------------------------------------------------------------

_GROWTH = 1.02  # the ratio of a bucket's bounds, so that quantiles are right within 1%
_LOG_GROWTH = math.log(_GROWTH)
_LEAST_S = 1e-6  # the resolution of times in records


class Spread:
    """A distribution of seconds: exact count, sum and extremes, quantiles within 1%."""

    def __init__(self) -> None:
        self.count = 0
        self.sum_s = 0.0
        self.min_s = math.inf
        self.max_s = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one value."""
        self.count += 1
        self.sum_s += seconds
        self.min_s = min(self.min_s, seconds)
        self.max_s = max(self.max_s, seconds)
        self._buckets[_bucket(seconds)] += 1

    def quantile(self, share: float) -> float | None:
        """Return the value that `share` of all values do not exceed; None if there are none."""
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return min(max(_middle_s(bucket), self.min_s), self.max_s)
        return None

    def histogram(self, bounds_s: tuple[float, ...]) -> list[int]:
        """Return how many values lie between each bound and the one before, and above the last."""
        counts = [0] * (len(bounds_s) + 1)
        for bucket, count in self._buckets.items():
            middle_s = _middle_s(bucket)
            counts[sum(bound < middle_s for bound in bounds_s)] += count
        return counts

    def document(self) -> dict[str, Any]:
        """Return count, sum, extremes and quantiles, in seconds; null where there are no values."""
        some = self.count > 0
        most = round(self.max_s, 6)
        return {
            "count": self.count,
            "sum": round(self.sum_s, 6),
            "min": round(self.min_s, 6) if some else None,
            **{f"p{q * 100:g}": _rounded(self.quantile(q), most) for q in QUANTILES},
            "max": most if some else None,
        }


def _bucket(seconds: float) -> int:
    return max(0, math.ceil(math.log(seconds / _LEAST_S) / _LOG_GROWTH)) if seconds > 0 else 0


def _middle_s(bucket: int) -> float:
    return _LEAST_S * _GROWTH ** (bucket - 0.5) if bucket else 0.0


def _rounded(seconds: float | None, most: float) -> float | None:
    return None if seconds is None else min(float(f"{seconds:.4g}"), most)


# --- time -----------------------------------------------------------------------------------

_STEPS_S = (1, 10, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800, 2592000, 31536000)
_DAY = _STEPS_S.index(86400)
_MAX_COLUMNS = 60


class Timeline:
    """How many runs came to each outcome, in steps as fine as `_MAX_COLUMNS` columns allow.

    Steps shorter than a day have even lengths. Days and longer steps begin at local midnight, even
    if clocks have been changed since. Both kinds are counted until it is known which is shown.

    Args:
        zone_s: returns how many seconds local time is ahead of UTC at an instant.
    """

    def __init__(self, zone_s: Callable[[float], int] = zone_s) -> None:
        self._zone_s = zone_s
        self._even: _Columns | None = None
        self._days = _Columns(zone_s, _DAY)

    @property
    def step_s(self) -> int:
        """The length of a column in seconds."""
        return self._shown.step_s

    @property
    def _shown(self) -> _Columns:
        even = self._even
        return even if even is not None and even.step_s < _STEPS_S[_DAY] else self._days

    def add(self, at_s: float, outcome: str) -> None:
        """Count one outcome."""
        if self._even is None:
            ahead_s = self._zone_s(at_s)
            self._even = _Columns(lambda _at_s: ahead_s)
        self._even.add(at_s, outcome)
        self._days.add(at_s, outcome)

    def columns(self, now: float) -> list[dict[str, Any]]:
        """Return every column up to now, also the empty ones; `at` is when a column begins."""
        if self._even is None:
            return []
        self._even.cover(now)
        self._days.cover(now)
        return self._shown.document()


class _Columns:
    """Counts by steps of local time, which begin at one of `_STEPS_S` and become coarser."""

    def __init__(self, zone_s: Callable[[float], int], level: int = 0) -> None:
        self._zone_s = zone_s
        self._level = level
        self._counts: dict[str, Counter[int]] = {outcome: Counter() for outcome in OUTCOMES}
        self._first: int | None = None
        self._last = 0

    @property
    def step_s(self) -> int:
        """The length of a column in seconds; beyond the last of `_STEPS_S` it doubles each time."""
        beyond = max(0, self._level - len(_STEPS_S) + 1)
        return _STEPS_S[self._level - beyond] << beyond

    def add(self, at_s: float, outcome: str) -> None:
        """Count one outcome."""
        slot = self.cover(at_s)
        self._counts[outcome][slot] += 1

    def cover(self, at_s: float) -> int:
        """Return the slot of an instant, after making the steps so coarse that all slots fit."""
        while True:
            slot = int((at_s + self._zone_s(at_s)) // self.step_s)
            first = slot if self._first is None else min(self._first, slot)
            last = slot if self._first is None else max(self._last, slot)
            if last - first < _MAX_COLUMNS:
                self._first, self._last = first, last
                return slot
            self._coarsen()

    def _coarsen(self) -> None:
        old = self.step_s
        self._level += 1
        new = self.step_s
        for outcome, counts in self._counts.items():
            merged: Counter[int] = Counter()
            for slot, count in counts.items():
                merged[slot * old // new] += count
            self._counts[outcome] = merged
        if self._first is not None:
            self._first, self._last = self._first * old // new, self._last * old // new

    def document(self) -> list[dict[str, Any]]:
        """Return the columns; there is at least one."""
        first = self._last if self._first is None else self._first
        return [
            {
                "at": self._instant(slot * self.step_s),
                **{outcome: self._counts[outcome][slot] for outcome in OUTCOMES},
            }
            for slot in range(first, self._last + 1)
        ]

    def _instant(self, local_s: int) -> int:
        """Return the instant at which the local clock shows this time."""
        near_s = local_s - self._zone_s(local_s)  # right, except for hours around a clock change
        return local_s - self._zone_s(near_s)
