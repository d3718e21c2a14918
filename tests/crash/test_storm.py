"""The promise holds though pools are killed, stopped and started at random, under a mixed load."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from queuectl.errors import QueuectlError
from queuectl.jobs import verbs
from tests.crash.support import Pool, Spoolside, places
from tests.support import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.record.job import Job

_MOST_POOLS = 4
_WORK = (
    "true",
    "sleep 0.02",
    "sleep 0.3",
    'test "$QUEUECTL_ATTEMPT" -gt 1 || exit 3',
    "sleep 0.1; exit 4",
    "(sleep 0.2; true) & wait",
)


class Storm:
    """One random history, which `seed` repeats as far as the machine's timing allows."""

    def __init__(self, side: Spoolside, seed: int) -> None:
        self._side = side
        self._random = random.Random(seed)
        self._spool = side.spool
        self._pools: list[Pool] = []
        self._count = self.signals = 0
        self._actions: list[tuple[int, Callable[[], object]]] = [
            (16, self._submit),
            (8, self._drop),
            (4, self._cancel),
            (3, self._retry),
            (4, self._start),
            (3, lambda: self._send(signal.SIGKILL)),
            (3, lambda: self._send(signal.SIGSTOP)),
            (5, lambda: self._send(signal.SIGCONT)),
            (1, lambda: self._send(signal.SIGTERM)),
        ]

    def blow(self, seconds: float) -> None:
        """Do one random thing after the other, and let every pool go on at the end."""
        weights = [weight for weight, _ in self._actions]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ((_, action),) = self._random.choices(self._actions, weights)
            action()
            time.sleep(self._random.random() * 0.05)
        for pool in self._pools:
            pool.send(signal.SIGCONT)

    def _submit(self) -> None:
        limit = self._random.choice((1, 3, 3))
        self._side.submit(self._random.choice(_WORK), max_retries=limit)

    def _drop(self) -> None:
        self._count += 1
        job_id = f"dropped-{self._count}"
        self._side.drop(job_id, self._random.choice(_WORK), max_retries=3)

    def _some_id(self) -> str:
        return self._random.choice(self._side.accepted or ["none"])

    def _cancel(self) -> None:
        def cancelled(job: Job) -> Job:
            return job.changed(state="dead", error_message="cancelled")

        wanted, states = [self._some_id()], ("pending", "failed")
        with contextlib.suppress(QueuectlError):
            verb = verbs.Verb(states=states, new_body=cancelled, done="cancelled")
            list(verbs.apply(self._spool, wanted, verb))

    def _retry(self) -> None:
        with contextlib.suppress(QueuectlError):
            list(verbs.retry(self._spool, [self._some_id()], ("dead", "completed")))

    def _start(self) -> None:
        self._pools = [pool for pool in self._pools if pool.process.poll() is None]
        if len(self._pools) < _MOST_POOLS:
            self._pools.append(self._side.pool("--count", "3"))

    def _send(self, number: int) -> None:
        if self._pools:
            self.signals += 1
            self._random.choice(self._pools).send(number)


def overlaps(diary: list[tuple[str, str, int]]) -> list[str]:
    """Return the jobs that had a run end after their next run had begun."""
    runs: dict[str, list[int]] = defaultdict(list)
    found = []
    for job_id, what, pid in diary:
        if what == "start":
            runs[job_id].append(pid)
        elif runs[job_id][-1] != pid:
            found.append(job_id)
    return found


def weather(side: Spoolside, seconds: float, seed: int) -> int:
    """Let a storm blow, check the promise, and return how many signals were sent."""
    storm = Storm(side, seed)
    storm.blow(seconds)
    for pool in side.pools():
        pool.kill()
    side.drain(DEADLINE_S + 4 * seconds)
    side.check_promise(("completed", "dead"))
    assert not overlaps(side.diary()), f"seed {seed}"
    assert not list((side.path / "dead").glob("*.rejected")), f"seed {seed}"
    assert set(places(side.path)) == set(side.accepted)
    completed = {file.stem for file in (side.path / "completed").iterdir()}
    ended = {job_id for job_id, what, _ in side.diary() if what == "end"}
    assert completed <= ended, f"completed and never run to the end, seed {seed}"
    return storm.signals


@pytest.mark.parametrize("seed", [1])
def test_a_storm_of_five_seconds_loses_nothing(
    seed: int, side: Spoolside, tell_faults: Callable[[int], None]
) -> None:
    tell_faults(weather(side, 5, seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2])
def test_a_storm_of_a_minute_loses_nothing(
    seed: int, side: Spoolside, tell_faults: Callable[[int], None]
) -> None:
    tell_faults(weather(side, 60, seed))


def test_the_check_for_two_runs_at_a_time_sees_them() -> None:
    assert overlaps([("a", "start", 1), ("a", "start", 2), ("a", "end", 1)]) == ["a"]
    assert overlaps([("a", "start", 1), ("a", "start", 2), ("a", "end", 2)]) == []
