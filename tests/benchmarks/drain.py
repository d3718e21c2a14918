"""How fast a backlog of `true` jobs drains, and what a job costs, compared with `xargs -P`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from .harness import Bench, Row, Usage, at_least, at_most, cpu, only, run, wall
from .spools import environment, fill, flush, new_spool, queuectl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ABOUT = "drain rate and CPU per job"
_BARE = os.path.join(os.path.dirname(__file__), "bare.py")
_TARGETS = {"relaxed": 0.65, "full": 0.50}
# in microseconds where a bare spawn took 550 to 650 us, and as a ratio to that, in which the speed
# of the machine cancels out
_CPU_TARGET, _CPU_RATIO_TARGET = 350, 350 / 600


def measure(bench: Bench) -> Iterator[Row]:
    """Drain `true` jobs with 2 and 4 slots, and with both durabilities."""
    count = bench.pick(20, 2000, 5000)
    for slots in (2, 4):
        results = bench.in_turn(_contenders(bench, count, slots), bench.pick(1, 3, 7))
        bench.raw[f"drain P={slots}"] = {
            name: [[used.wall_s, used.cpu_s] for used in usages] for name, usages in results.items()
        }
        limit = wall(results["xargs"])
        yield only(f"xargs -P {slots} -n1 sh -c true", count / limit, " jobs/s")
        for name in ("posix_spawn", "popen"):
            yield only(f"bare {name} loop, P={slots}, of xargs", limit / wall(results[name]))
        for durability, target in _TARGETS.items():
            ratio = limit / wall(results[durability])
            yield at_least(f"drain, {durability}, P={slots}, of xargs", ratio, target)
        yield from _cpu_rows(results, count, slots)


def _cpu_rows(results: dict[str, list[Usage]], count: int, slots: int) -> Iterator[Row]:
    # the start of the interpreter is no part of a job's cost
    bare = cpu(results["posix_spawn"]) - cpu(results["python"])
    for durability in _TARGETS:
        over = cpu(results[durability]) - cpu(results["start"]) - bare
        what = f"CPU per job over a bare spawn, {durability}, P={slots}"
        yield at_most(what, over / count * 1e6, _CPU_TARGET, " us")
        yield at_most(f"{what}, of a bare spawn", over / bare, _CPU_RATIO_TARGET)
    yield only(f"CPU per bare spawn, P={slots}", bare / count * 1e6, " us")


def _contenders(bench: Bench, count: int, slots: int) -> dict[str, Callable[[], Usage]]:
    def bare(kind: str) -> Usage:
        return run([sys.executable, "-I", _BARE, kind, str(count), str(slots)])

    return {
        "xargs": lambda: _xargs(count, slots),
        "posix_spawn": lambda: bare("posix_spawn"),
        "popen": lambda: bare("popen"),
        "python": lambda: run([sys.executable, "-I", _BARE, "posix_spawn", "0", "1"]),
        "start": lambda: drain(bench, 0, slots, "relaxed"),
        "relaxed": lambda: drain(bench, count, slots, "relaxed"),
        "full": lambda: drain(bench, count, slots, "full"),
    }


def _xargs(count: int, slots: int) -> Usage:
    with tempfile.TemporaryFile() as words:
        words.write(b"x\n" * count)
        words.seek(0)
        return run(["xargs", "-P", str(slots), "-n1", "sh", "-c", "true"], stdin=words)


def drain(bench: Bench, count: int, slots: int, durability: str) -> Usage:
    """Run a pool on a fresh spool of `count` jobs until it is empty.

    The spool stays until the whole directory is removed. Deleting thousands of files between two
    rounds fills the journal that the next one needs, and ext4 without a journal avoids their inodes
    for minutes.
    """
    spool = new_spool(bench, "drain", durability=durability)
    fill(spool, count)
    flush()
    words = [*queuectl(), "worker", "start", "--count", str(slots), "--stop-when-empty"]
    used = run(words, env=environment(spool), stderr=subprocess.DEVNULL)
    done = len(os.listdir(f"{spool}/completed"))
    if done != count:
        raise RuntimeError(f"{done} of {count} jobs completed in {spool}")
    return used
