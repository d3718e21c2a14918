"""The time from a job's arrival to its command running, and from its end to the pool's knowing.

The command is a builtin of the shell that writes to a FIFO which is read here. So it needs no clock
of its own and no other program. A bare spawn of the same command is timed in turn, and its median
is subtracted.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from .harness import Bench, Row, at_most, median, only, percentile, wait_for
from .spools import RunningPool, environment, fill, flush, new_spool, queuectl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ABOUT = "arrival to start, end to notice"
_TIMEOUT_S = 30.0


class Bell:
    """A FIFO that commands ring by writing to it, and that is heard here."""

    def __init__(self, bench: Bench) -> None:
        self.path = bench.path("bell")
        os.mkfifo(self.path)
        # opened for reading and writing, so that neither side waits for the other to open it
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def hear(self) -> tuple[float, bytes]:
        """Wait for a ring; return its time (of the performance counter), and what was written.

        Raises:
            TimeoutError: If nothing is written in time.
        """
        if not self._poll.poll(_TIMEOUT_S * 1000):
            raise TimeoutError(self.path)
        at = time.perf_counter()
        return at, os.read(self._descriptor, 4096)

    def close(self) -> None:
        """Close and remove the FIFO."""
        os.close(self._descriptor)
        os.unlink(self.path)


def measure(bench: Bench) -> Iterator[Row]:
    """Time arrivals at pools that are idle and that are busy, and then the notice of an end."""
    with contextlib.closing(Bell(bench)) as bell:
        for durability in ("full", "relaxed"):
            yield from _idle(bench, bell, durability)
        yield from _beside(bench, bell)
        for durability in ("full", "relaxed"):
            yield from _busy(bench, bell, durability)
    yield from _end(bench)


def _idle(bench: Bench, bell: Bell, durability: str) -> Iterator[Row]:
    spool = new_spool(bench, "latency", durability=durability)
    flush()
    with RunningPool(bench, spool, 2) as pool:
        pool.wait_for_line("up")
        pool.wait_quiet()
        found = _sample(bench, bell, spool, bench.pick(3, 60, 300), pause_s=0.02)
    bench.raw[f"latency, {durability}"] = found
    yield from _rows(found, f"idle pool, {durability}")


def _beside(bench: Bench, bell: Bell) -> Iterator[Row]:
    """Time an idle pool while the pool of another spool drains as fast as it can."""
    spool = new_spool(bench, "latency", durability="full")
    busy = new_spool(bench, "busy", durability="full")
    fill(busy, bench.pick(200, 12_000, 60_000))
    flush()
    with RunningPool(bench, spool, 2) as pool, RunningPool(bench, busy, 2) as other:
        pool.wait_for_line("up")
        other.wait_completed(bench.pick(1, 200, 200))
        found = _sample(bench, bell, spool, bench.pick(3, 60, 300), pause_s=0.02, enqueue=False)
    bench.raw["latency, beside another"] = found
    yield from _rows(found, "idle pool beside a busy one")


def _busy(bench: Bench, bell: Bell, durability: str) -> Iterator[Row]:
    """Time drops, which go first, while two pools drain one backlog as fast as they can."""
    spool = new_spool(bench, "busy", durability=durability)
    backlog = bench.pick(200, 12_000, 60_000)
    fill(spool, backlog)
    flush()
    with RunningPool(bench, spool, 2) as pool, RunningPool(bench, spool, 2) as other:
        pool.wait_completed(bench.pick(1, 200, 200))
        other.wait_completed(1)
        found = _sample(bench, bell, spool, bench.pick(3, 60, 300), pause_s=0.005, enqueue=False)
        done = pool.completed() + other.completed()
    if done >= backlog and bench.scale != "tiny":
        bench.say("the backlog was drained before the last sample: part of this was idle")
    bench.raw[f"latency, two pools claiming, {durability}"] = found
    yield from _rows(found, f"two pools claiming, {durability}")


def _rows(found: dict[str, list[float]], where: str) -> Iterator[Row]:
    bare = median(found["bare"])
    yield only(f"bare spawn to running, {where}, p50", bare * 1e3, " ms")
    for name, values in found.items():
        if name == "bare":
            continue
        at50, at99 = (percentile(values, percent) - bare for percent in (50, 99))
        yield at_most(f"{name} to running over that, {where}, p50", at50 * 1e3, 3, " ms")
        yield at_most(f"{name} to running over that, {where}, p99", at99 * 1e3, 15, " ms")


def _sample(
    bench: Bench, bell: Bell, spool: str, rounds: int, pause_s: float, *, enqueue: bool = True
) -> dict[str, list[float]]:
    command = f"echo x > {bell.path}"
    kinds: dict[str, Callable[[int], float]] = {
        "bare": lambda _: _bare(command),
        "drop": lambda number: _drop(spool, f"drop-{number}", command),
    }
    if enqueue:
        kinds["enqueue"] = lambda _: _enqueue(spool, command)
    found: dict[str, list[float]] = {name: [] for name in kinds}
    bench.say(f"{rounds} rounds of {', '.join(kinds)}")
    for number in range(rounds):
        for name, start in kinds.items():
            begun = start(number)
            heard, _ = bell.hear()
            found[name].append(heard - begun)
            time.sleep(pause_s)  # until the pool has settled what ran and is idle again
    return found


def _bare(command: str) -> float:
    begun = time.perf_counter()
    process = subprocess.Popen(["/bin/sh", "-c", command], start_new_session=True)
    threading.Thread(target=process.wait).start()
    return begun


def _drop(spool: str, job_id: str, command: str) -> float:
    """Rename a file into pending/, and return the time at which the rename has returned."""
    draft = f"{spool}/tmp/.{job_id}"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump({"command": command, "priority": -1}, file)
    os.rename(draft, f"{spool}/pending/{job_id}.json")
    return time.perf_counter()


def _enqueue(spool: str, command: str) -> float:
    """Run `queuectl enqueue`; return the time at which it prints the id, before it exits."""
    words = [*queuectl(), "enqueue", "--priority", "-1", "--command", command]
    process = subprocess.Popen(words, env=environment(spool), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    printed = time.perf_counter()
    threading.Thread(target=process.communicate).start()
    return printed


def _end(bench: Bench) -> Iterator[Row]:
    """Compare the end of a process, as seen from here, with `finished_at` in its record."""
    spool = new_spool(bench, "end", durability="full")
    noticed: list[float] = []
    with contextlib.closing(Bell(bench)) as started, contextlib.closing(Bell(bench)) as gate:
        command = f"echo $$ > {started.path}; read x < {gate.path}"
        with RunningPool(bench, spool, 2) as pool:
            pool.wait_for_line("up")
            for number in range(bench.pick(2, 30, 150)):
                job_id = f"end-{number}"
                _drop_with_timeout(spool, job_id, command)
                pid = int(started.hear()[1])
                ended = _end_of(pid, gate.path)
                noticed.append(_finished(spool, job_id) - ended)
    bench.raw["latency, end"] = noticed
    yield at_most("a process's end to the pool's knowing, p50", median(noticed) * 1e3, 1, " ms")
    yield only("the same, p99", percentile(noticed, 99) * 1e3, " ms")


def _drop_with_timeout(spool: str, job_id: str, command: str) -> None:
    draft = f"{spool}/tmp/.{job_id}"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump({"command": command, "timeout": 60}, file)
    os.rename(draft, f"{spool}/pending/{job_id}.json")


def _end_of(pid: int, gate: str) -> float:
    """Let the command go on to its end; return the wall clock time at which its process ends."""
    watch = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        time.sleep(0.01)  # until the shell sleeps at the gate, and the pool in its wait
        with open(gate, "w", encoding="ascii") as file:
            file.write("go\n")
        poll.poll(_TIMEOUT_S * 1000)
        return time.time()
    finally:
        os.close(watch)


def _finished(spool: str, job_id: str) -> float:
    from datetime import datetime

    path = f"{spool}/completed/{job_id}.json"
    wait_for(lambda: os.path.exists(path) or None, f"{path} is there")
    with open(path, encoding="utf-8") as file:
        text: str = json.load(file)["finished_at"]
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
