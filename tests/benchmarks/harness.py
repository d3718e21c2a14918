"""How everything here is measured: contenders in turn, medians of rounds, ratios to a bare limit.

Absolute times on a shared machine mean little. So what is compared runs in the same minutes, in the
order A B A B, and what is reported is a ratio or a difference of medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")
SCALES = ("tiny", "quick", "full")
DEADLINE_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. `met` is None where there is no target, only a figure."""

    what: str
    measured: str
    value: float
    target: str = ""
    met: bool | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row as the JSON file holds it."""
        return asdict(self)


def at_most(what: str, value: float, limit: float, unit: str = "") -> Row:
    """Return the row of a figure that should not be above `limit`."""
    shown, target = f"{figure(value)}{unit}", f"<= {figure(limit)}{unit}"
    return Row(what=what, measured=shown, value=value, target=target, met=value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "") -> Row:
    """Return the row of a figure that should not be below `limit`."""
    shown, target = f"{figure(value)}{unit}", f">= {figure(limit)}{unit}"
    return Row(what=what, measured=shown, value=value, target=target, met=value >= limit)


def only(what: str, value: float, unit: str = "") -> Row:
    """Return the row of a figure without a target."""
    return Row(what=what, measured=f"{figure(value)}{unit}", value=value)


def figure(value: float) -> str:
    """Return a number as text, with as many digits as mean something."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3f}"


@dataclass(frozen=True)
class Usage:
    """What a process cost, including every process that it started and waited for."""

    wall_s: float
    cpu_s: float


@dataclass
class Bench:
    """One run of the benchmark: its directory, its scale, and the figures behind the table."""

    directory: str
    scale: str = "full"
    raw: dict[str, Any] = field(default_factory=dict)
    _made: int = 0

    def pick(self, tiny: T, quick: T, full: T) -> T:
        """Return the value for this run's scale."""
        return dict(zip(SCALES, (tiny, quick, full), strict=True))[self.scale]

    def path(self, name: str) -> str:
        """Return an unused path in the benchmark's directory."""
        self._made += 1
        return f"{self.directory}/{name}-{self._made}"

    def say(self, text: str) -> None:
        """Print what is going on, for a person who waits."""
        print(f"... {text}", file=sys.stderr, flush=True)

    def in_turn(self, contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
        """Run every contender once a round, in the same order; return what each returned."""
        results: dict[str, list[T]] = {name: [] for name in contenders}
        for number in range(rounds):
            self.say(f"round {number + 1} of {rounds}: {', '.join(contenders)}")
            for name, contender in contenders.items():
                results[name].append(contender())
        return results


def run(argv: Sequence[str], **options: Any) -> Usage:
    """Run a process to its end, and return what it cost.

    Raises:
        RuntimeError: If the process does not exit with 0.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(argv, **options)
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv[:6])} ended with {process.returncode}")
    return Usage(wall_s, used.ru_utime + used.ru_stime)


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def wall(usages: Sequence[Usage]) -> float:
    """Return the median time on the clock, in seconds."""
    return median([usage.wall_s for usage in usages])


def cpu(usages: Sequence[Usage]) -> float:
    """Return the median CPU time, in seconds."""
    return median([usage.cpu_s for usage in usages])


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def wait_for(
    condition: Callable[[], T | None],
    what: str,
    pause_s: float = 0.002,
    deadline_s: float = DEADLINE_S,
) -> T:
    """Return the first true value of `condition`.

    Raises:
        TimeoutError: If there is none within `deadline_s`.
    """
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(pause_s)
    raise TimeoutError(what)
