"""The same drain by other queues that are installed, for comparison."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from .drain import drain
from .harness import Bench, Row, Usage, only, run, wall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ABOUT = "other queues, where installed: task-spooler, nq, GNU parallel"
_SLOTS = 2


def measure(bench: Bench) -> Iterator[Row]:
    """Drain `true` jobs with each queue."""
    count = bench.pick(10, 500, 2000)
    contenders: dict[str, Callable[[], Usage]] = {
        "xargs": lambda: _fed(["xargs", f"-P{_SLOTS}", "-n1", "sh", "-c", "true"], count),
        "queuectl full": lambda: drain(bench, count, _SLOTS, "full"),
        "queuectl relaxed": lambda: drain(bench, count, _SLOTS, "relaxed"),
    }
    if _installed(bench, "parallel"):
        words = ["parallel", f"-j{_SLOTS}", "-n1", "true"]
        contenders["parallel"] = lambda: _fed(words, count)
    if _installed(bench, "tsp"):
        contenders["task-spooler"] = lambda: _task_spooler(bench, count)
    if _installed(bench, "nq") and _installed(bench, "fq"):
        contenders["nq, one at a time"] = lambda: _nq(bench, count)
    results = bench.in_turn(contenders, bench.pick(1, 3, 5))
    for name, usages in results.items():
        yield only(f"{name}, P={_SLOTS}, of xargs", wall(results["xargs"]) / wall(usages))


def _installed(bench: Bench, program: str) -> bool:
    if shutil.which(program) is None:
        bench.say(f"{program} is not installed: left out")
        return False
    return True


def _fed(words: list[str], count: int) -> Usage:
    with tempfile.TemporaryFile() as lines:
        lines.write(b"x\n" * count)
        lines.seek(0)
        return run(words, stdin=lines, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _task_spooler(bench: Bench, count: int) -> Usage:
    """Queue the jobs behind one that waits, so that only the draining is timed."""
    where = {**os.environ, "TS_SOCKET": bench.path("tsp"), "TS_MAXFINISHED": "10"}
    gate = bench.path("gate")
    os.mkfifo(gate)
    run(["tsp", "-S", "1"], env=where, stdout=subprocess.DEVNULL)
    run(["tsp", "-n", "cat", gate], env=where, stdout=subprocess.DEVNULL)
    for _ in range(count):
        run(["tsp", "-n", "true"], env=where, stdout=subprocess.DEVNULL)
    run(["tsp", "-S", str(_SLOTS)], env=where, stdout=subprocess.DEVNULL)
    with open(gate, "w", encoding="ascii"):
        pass
    try:
        return run(["tsp", "-w"], env=where, stdout=subprocess.DEVNULL)
    finally:
        run(["tsp", "-K"], env=where, stdout=subprocess.DEVNULL)


def _nq(bench: Bench, count: int) -> Usage:
    directory = bench.path("nq")
    os.mkdir(directory)
    where = {**os.environ, "NQDIR": directory}
    gate = bench.path("gate")
    os.mkfifo(gate)
    run(["nq", "-q", "cat", gate], env=where)
    for _ in range(count):
        run(["nq", "-q", "true"], env=where)
    with open(gate, "w", encoding="ascii"):
        pass
    return run(["nq", "-w"], env=where, stdout=subprocess.DEVNULL)
