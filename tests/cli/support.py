"""Helpers that bring a spool into a state from which several tests of commands start."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import SpoolDir


def put(spool: SpoolDir, state: str, job_id: str, **fields: object) -> None:
    """Write a job's record straight into the directory of a state."""
    record = {"id": job_id, "command": "true", "state": state, "attempts": 1, **fields}
    spool.drop_bytes(job_id, json.dumps(record).encode(), state)


@contextmanager
def many_running(spool: SpoolDir, count: int) -> Iterator[list[str]]:
    """Start one pool that runs `count` jobs side by side; yield their ids in order."""
    ids = [f"job{number:02}" for number in range(count)]
    for job_id in ids:
        spool.drop(job_id, "sleep 1000")
    with spool.pool(count) as pool:
        for job_id in ids:
            pool.wait_for("started", job_id)
        yield ids
        spool.run("worker", "stop", "--now")
