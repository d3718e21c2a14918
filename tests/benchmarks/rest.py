"""What a pool costs while it has nothing to do: jobs wait for later, or 500 long ones run."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from .harness import Bench, Row, at_most, only, wait_for
from .spools import RunningPool, fill, flush, new_spool

if TYPE_CHECKING:
    from collections.abc import Iterator

ABOUT = "idle CPU, and 500 long jobs at once"
_IDLE_PERCENT, _CROWD_MB = 0.1, 150.0


def measure(bench: Bench) -> Iterator[Row]:
    """Measure pools that only wait."""
    yield from _idle(bench, 0)
    yield from _idle(bench, bench.pick(10, 20_000, 100_000))
    yield from _crowd(bench)


def _idle(bench: Bench, waiting: int) -> Iterator[Row]:
    spool = new_spool(bench, "idle", durability="relaxed")
    fill(spool, waiting, run_at="2100-01-01T00:00:00Z")
    flush()
    with RunningPool(bench, spool, 4) as pool:
        pool.wait_for_line("up")
        pool.wait_quiet()
        time.sleep(bench.pick(0, 6, 6))  # past the second look at a directory just filled
        percent, wakeups = _watch(pool, bench.pick(0.2, 20, 60))
    what = f"idle, {waiting:,} jobs for later"
    yield at_most(f"{what}: CPU", percent, _IDLE_PERCENT, " %")
    yield only(f"{what}: wake-ups", wakeups, "/s")


def _watch(pool: RunningPool, span_s: float) -> tuple[float, float]:
    cpu_s, switches, begun = pool.precise_cpu_s(), pool.wakeups(), time.perf_counter()
    time.sleep(span_s)
    passed = time.perf_counter() - begun
    percent = (pool.precise_cpu_s() - cpu_s) / passed * 100
    return percent, (pool.wakeups() - switches) / passed


def _crowd(bench: Bench) -> Iterator[Row]:
    count = bench.pick(5, 500, 500)
    spool = new_spool(bench, "crowd", durability="relaxed")
    fill(spool, count, command="exec sleep 1000")
    processing = f"{spool}/processing"
    with RunningPool(bench, spool, count) as pool:
        running = lambda: len(os.listdir(processing)) >= count or None  # noqa: E731
        wait_for(running, f"{count} jobs running", 0.05)
        pool.wait_quiet(bench.pick(0.3, 2, 2))
        percent, wakeups = _watch(pool, bench.pick(0.2, 15, 30))
        yield at_most(f"{count} long jobs: memory of the pool", pool.memory_mb(), _CROWD_MB, " MB")
        yield at_most(f"{count} long jobs: CPU", percent, _IDLE_PERCENT, " %")
        yield only(f"{count} long jobs: wake-ups", wakeups, "/s")
