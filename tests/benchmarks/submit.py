"""What `enqueue` costs as a process, and how many jobs a second it takes from standard input."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from .harness import Bench, Row, Usage, at_least, at_most, cpu, only, run, wall
from .spools import environment, flush, new_spool, queuectl

if TYPE_CHECKING:
    from collections.abc import Iterator

ABOUT = "enqueue: one job, and many"
_RATES = {"relaxed": 20_000, "full": 3_000}


def measure(bench: Bench) -> Iterator[Row]:
    """Time `enqueue` of one job and `enqueue -` of many."""
    yield from _one(bench)
    yield from _many(bench)


def _one(bench: Bench) -> Iterator[Row]:
    spools = {name: new_spool(bench, "one", durability=name) for name in _RATES}
    words = [*queuectl(), "enqueue", "--command", "true"]

    def one(durability: str) -> Usage:
        return run(words, env=environment(spools[durability]), stdout=subprocess.DEVNULL)

    for name in spools:
        one(name)  # stores bytecode and completes the spool
    results = bench.in_turn(
        {
            "import click": lambda: run([sys.executable, "-c", "import click"]),
            "full": lambda: one("full"),
            "relaxed": lambda: one("relaxed"),
        },
        bench.pick(1, 21, 61),
    )
    limit = results["import click"]
    bench.raw["enqueue one"] = {name: [u.wall_s for u in used] for name, used in results.items()}
    yield only("python -c 'import click'", wall(limit) * 1e3, " ms")
    for name in _RATES:
        ratio = wall(results[name]) / wall(limit)
        yield at_most(f"enqueue one job, {name}, of import click", ratio, 1.4)
    yield only("its CPU, full, of import click", cpu(results["full"]) / cpu(limit))


def _many(bench: Bench) -> Iterator[Row]:
    counts = {"relaxed": bench.pick(50, 20_000, 50_000), "full": bench.pick(50, 5000, 20_000)}

    def many(durability: str) -> Usage:
        spool = new_spool(bench, "many", durability=durability)
        flush()
        with tempfile.TemporaryFile() as lines:
            lines.write(b'{"command": "true"}\n' * counts[durability])
            lines.seek(0)
            words = [*queuectl(), "enqueue", "-"]
            return run(words, env=environment(spool), stdin=lines, stdout=subprocess.DEVNULL)

    results = bench.in_turn({name: lambda n=name: many(n) for name in _RATES}, bench.pick(1, 3, 5))  # type: ignore[misc]
    for name, target in _RATES.items():
        rate = counts[name] / wall(results[name])
        yield at_least(f"enqueue -, {name}, lines a second", rate, target, "/s")
        yield only(f"its CPU, {name}", cpu(results[name]) / counts[name] * 1e6, " us/job")
