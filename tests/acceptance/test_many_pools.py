"""Ten slots in three pools: each job runs exactly once, and is never in two places."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support import read_text, wait_until, waiting_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support import SpoolDir

JOBS = 2000


class Watch:
    """A thread that looks through the whole spool, over and over, for an id in two places."""

    # Against the direction in which a job that succeeds moves: if it moves on between two of these
    # listings, it is seen once or not at all. So an id that is seen twice was in two places.
    ORDER = ("dead", "failed", "completed", "processing", "pending")

    def __init__(self, path: str) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on)
        self.looks = 0
        self.twice: set[str] = set()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(0.01):
            self._look()

    def _look(self) -> None:
        self.looks += 1
        twice = self._found_twice(self.ORDER)
        if twice:  # a job that was given back, on a slow disk, has moved the other way
            self.twice |= twice & self._found_twice(self.ORDER[::-1])

    def _found_twice(self, order: Sequence[str]) -> set[str]:
        found: Counter[str] = Counter()
        for state in order:
            names = {name for name in os.listdir(f"{self._path}/{state}") if name[0] != "."}
            found.update(name.removesuffix(".json").partition("@")[0] for name in names)
        return {job_id for job_id, times in found.items() if times > 1}


@pytest.mark.slow
def test_two_thousand_jobs_run_exactly_once_and_are_never_in_two_directories(
    spool: SpoolDir,
) -> None:
    spool.create()
    ran = f"{spool.path}.ran"
    ids = [f"job-{number:04}" for number in range(JOBS)]
    lines = [
        json.dumps({"id": job_id, "command": f"echo $QUEUECTL_JOB_ID >> {ran}"}) for job_id in ids
    ]
    with Watch(spool.path) as watch, ExitStack() as pools:
        # half of the jobs are there before the pools, half arrive while all pools are at work
        spool.run("enqueue", "-", stdin="\n".join(lines[: JOBS // 2]))
        for count in (4, 3, 3):
            pools.enter_context(spool.pool(count))
        spool.run("enqueue", "-", stdin="\n".join(lines[JOBS // 2 :]))
        spool.wait_for("completed", *ids, deadline_s=180)
    assert Counter(read_text(ran).split()) == dict.fromkeys(ids, 1)
    assert spool.ids("completed") == ids
    assert watch.twice == set()
    assert watch.looks > 10
    workers = {spool.record("completed", job_id)["worker"] for job_id in ids}
    assert len(workers) > 1, "the pools shared the work"
    assert spool.leftovers() == []


def test_of_two_files_of_one_id_in_two_pools_the_second_to_end_is_set_beside(
    spool: SpoolDir, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    with spool.pool() as one, spool.pool() as other:
        spool.drop("x", f"echo one; {waiting_for(str(go_on))}")
        wait_until(lambda: one.events("started") or other.events("started"), "the first runs")
        spool.drop("x", f"{waiting_for(str(go_on) + '2')}; exit 1", max_retries=1)
        wait_until(lambda: one.events("started") and other.events("started"), "both run")
        go_on.touch()
        spool.wait_for("completed", "x")
        (tmp_path / "go-on2").touch()
        spool.wait_for("dead", "x.2")
    assert spool.states("x") == ["completed"]
    why = spool.record("dead", "x.2")["error_message"]
    assert why == "exit status 1; another job of this id is in completed/"


def test_one_that_dies_on_a_retry_leaves_a_file_of_its_id_in_failed_alone(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(backoff_base=0)
    waits = waiting_for(str(tmp_path / "go-on"))
    spool.api.submit(f"[ $QUEUECTL_ATTEMPT = 2 ] && {{ {waits}; }}; exit 7", id="x", max_retries=2)
    with spool.pool() as pool:
        wait_until(lambda: len(pool.events("started", "x")) == 2, "the second run")
        other = {"command": "true", "next_retry_at": "2100-01-01T00:00:00Z"}
        spool.drop_bytes("x", json.dumps(other).encode(), "failed")
        (tmp_path / "go-on").touch()
        spool.wait_for("dead", "x.2")
    assert spool.states("x") == ["failed"]
