"""What a backlog costs: a job among 1,000 to 1,000,000 pending ones, and a pool's start there."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .harness import Bench, Row, Usage, at_most, median, only, run, wall
from .spools import (
    RunningPool,
    environment,
    fill,
    flush,
    new_spool,
    pause,
    queuectl,
    unpause,
    warm,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ABOUT = "cost against backlog; start, memory, status and list with a million jobs"
_START_S, _INDEX_S, _MEMORY_MB, _LOOK_S = 1.0, 30.0, 350.0, 2.0


def measure(bench: Bench) -> Iterator[Row]:
    """Fill spools of several sizes, look at the largest, start pools on it, drain all in turn."""
    sizes = bench.pick([20, 60], [1000, 10_000, 100_000], [1000, 10_000, 100_000, 1_000_000])
    spools = {}
    for size in sizes:
        bench.say(f"filling a spool with {size:,} jobs")
        spools[size] = new_spool(bench, "backlog", durability="relaxed")
        fill(spools[size], size)
    flush()
    warm(spools[sizes[-1]])
    largest = spools[sizes[-1]]
    yield from _look(bench, largest, sizes[-1])
    yield from _start(bench, largest, sizes[-1])
    yield from _drain(bench, spools)
    for spool in spools.values():
        shutil.rmtree(spool)


# --- looking ----------------------------------------------------------------------------------


def _look(bench: Bench, spool: str, size: int) -> Iterator[Row]:
    empty = new_spool(bench, "empty")
    fill(empty, 1)

    def look(where: str, *words: str) -> Usage:
        return run([*queuectl(), *words], env=environment(where), stdout=subprocess.DEVNULL)

    shown = f"job-{size // 2:07}"
    results = bench.in_turn(
        {
            "status": lambda: look(spool, "status"),
            "list": lambda: look(spool, "list", "--limit", "20"),
            "show": lambda: look(spool, "show", shown),
            "show, empty": lambda: look(empty, "show", "job-0000000"),
        },
        bench.pick(1, 5, 7),
    )
    for name in ("status", "list"):
        words = "list --limit 20" if name == "list" else name
        yield at_most(f"{words}, {size:,} jobs", wall(results[name]), _LOOK_S, " s")
    ratio = wall(results["show"]) / wall(results["show, empty"])
    yield at_most(f"show ID, {size:,} jobs, of an empty spool", ratio, 1.1)


# --- starting ---------------------------------------------------------------------------------


def _start(bench: Bench, spool: str, size: int) -> Iterator[Row]:
    firsts = []
    for _ in range(bench.pick(1, 3, 3)):
        with RunningPool(bench, spool, 2) as pool:
            firsts.append(pool.wait_for_line("started"))
    yield at_most(
        f"pool's start to first job running, {size:,} pending", median(firsts), _START_S, " s"
    )
    pause(spool)
    with RunningPool(bench, spool, 2) as pool:
        pool.wait_for_line("up")
        indexed_s = pool.wait_quiet(bench.pick(0.3, 2, 3))
        yield at_most(f"pool's start to all indexed, {size:,} pending", indexed_s, _INDEX_S, " s")
        yield at_most(f"memory of the pool, {size:,} pending", pool.memory_mb(), _MEMORY_MB, " MB")
        span_s = bench.pick(0.2, 15, 60)
        begun = pool.precise_cpu_s()
        time.sleep(span_s)
        idle = (pool.precise_cpu_s() - begun) / span_s * 100
        yield at_most(f"idle, paused, {size:,} pending: CPU", idle, 0.1, " %")
    unpause(spool)


# --- draining ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cost:
    wall_us: float
    cpu_us: float


def _drain(bench: Bench, spools: dict[int, str]) -> Iterator[Row]:
    count = bench.pick(5, 500, 2000)
    with ExitStack() as stack:
        pools = {}
        for size, spool in spools.items():
            pause(spool)
            pools[size] = stack.enter_context(RunningPool(bench, spool, 2))
        for pool in pools.values():
            pool.wait_for_line("up")
            pool.wait_quiet()
        results = bench.in_turn(
            {f"{size:,}": lambda s=size: _some(pools[s], count) for size in pools},  # type: ignore[misc]
            bench.pick(1, 3, 5),
        )
    bench.raw["cost against backlog"] = {
        size: [[cost.wall_us, cost.cpu_us] for cost in results[f"{size:,}"]] for size in spools
    }
    yield from _cost_rows(results)


def _some(pool: RunningPool, count: int) -> _Cost:
    """Add `count` jobs, let as many run, and return what one of them cost."""
    fill(pool.spool, count, stem=f"more-{time.monotonic_ns()}", priority=1)
    flush()
    pool.wait_quiet()
    last = pool.completed() + count
    unpause(pool.spool)
    # not from here: the pool may take a moment to notice that the pause is over
    pool.wait_completed(last - count * 9 // 10)
    before = min(pool.completed(), last - 1)  # a few may all have run by now
    begun, cpu_s = time.perf_counter(), pool.cpu_s()
    pool.wait_completed(last)
    wall_s, cpu_s = time.perf_counter() - begun, pool.cpu_s() - cpu_s
    done = pool.completed() - before
    pause(pool.spool)
    pool.wait_quiet(0.3)
    return _Cost(wall_s / done * 1e6, cpu_s / done * 1e6)


def _cost_rows(results: dict[str, list[_Cost]]) -> Iterator[Row]:
    walls = {name: median([cost.wall_us for cost in costs]) for name, costs in results.items()}
    cpus = {name: median([cost.cpu_us for cost in costs]) for name, costs in results.items()}
    first = next(iter(walls))
    for name, cost_us in walls.items():
        yield only(f"cost per job at {name} pending", cost_us, " us")
    for name in list(walls)[1:]:
        ratio = walls[name] / walls[first]
        yield at_most(f"cost per job at {name} pending, of {first}", ratio, 1.1)
        if cpus[first]:  # 0 where the jobs took less than a tick of the clock that counts it
            yield only(f"its CPU at {name} pending, of {first}", cpus[name] / cpus[first])
