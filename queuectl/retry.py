"""The retry policy: whether and when a failed job is run again (pure).

spool-layout.md, section "Settle".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """The delay after failed attempt n: `base ** n` s, at most `max_s`, plus a random fraction."""

    base: float
    max_s: float
    jitter: float = 0.0

    def delay_s(self, attempt: int, random: Callable[[], float]) -> float:
        """Return the seconds to wait after failed attempt number `attempt`."""
        try:
            # as a float: the power of an integer could take hours to compute
            delay = min(float(self.base) ** attempt, self.max_s)
        except OverflowError:
            delay = self.max_s
        return delay * (1 + self.jitter * random())

    @property
    def longest_s(self) -> float:
        """The longest delay that this policy can give."""
        return self.max_s * (1 + self.jitter)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The state that a job goes to, the delay until its retry, and whether the run counts."""

    state: str
    delay_s: float | None = None
    counts: bool = True  # as an attempt


COMPLETED = Verdict(state="completed")
DEAD = Verdict(state="dead")


def after_failure(
    attempts: int, max_retries: int, backoff: Backoff, random: Callable[[], float]
) -> Verdict:
    """Return the verdict on a job that has now failed `attempts` times."""
    if attempts >= max_retries:
        return DEAD
    return Verdict(state="failed", delay_s=backoff.delay_s(attempts, random))
