"""A job in failed/ runs again when it is due, whatever happens to other files of its id."""

from __future__ import annotations

import json
import os
import shlex
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import ROOT, SILENT, wait_until, waiting_for, with_code_at_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support import Pool, SpoolDir


def starts(pool: Pool, job_id: str) -> int:
    return len(pool.events("started", job_id))


@contextmanager
def failing_when_told(spool: SpoolDir) -> Iterator[tuple[Pool, Callable[[], None]]]:
    """Have a pool run a job; yield the pool, and a function that makes the job fail."""
    go = f"{spool.path}.go"
    with spool.pool(2) as pool:
        spool.drop("job", f"{waiting_for(go)}; exit 1")
        pool.wait_for("started", "job")
        yield pool, lambda: open(go, "x").close()


def test_a_second_file_of_its_id_does_not_take_its_retry_away(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600, backoff_base=2)
    with spool.pool() as pool:
        spool.drop("job", "exit 1")
        spool.wait_for("failed", "job")
        spool.drop("job", "echo again")
        spool.wait_for("dead", "job.2")
        wait_until(lambda: starts(pool, "job") >= 2, pool.log)


def test_a_second_file_that_came_and_went_while_it_ran_does_not_either(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600, backoff_base=1)
    with failing_when_told(spool) as (pool, fail):
        spool.drop("job")
        spool.drop("mark")
        spool.wait_for("completed", "mark")  # so the pool has also seen the second file
        os.unlink(spool.file("pending", "job"))
        fail()
        wait_until(lambda: starts(pool, "job") >= 2, pool.log)


def test_rubbish_under_its_name_does_not_end_its_retries(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.05, backoff_base=1)
    with failing_when_told(spool) as (pool, fail):
        spool.drop_bytes("job", b'{"command": 7}')
        spool.wait_for("dead", "job.2")
        fail()
        wait_until(lambda: starts(pool, "job") >= 2, pool.log)


def test_a_retry_by_hand_is_found_without_events(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=0.2, backoff_base=1000)
    with spool.pool(env=with_code_at_start(tmp_path, SILENT)) as pool:
        spool.drop("job", "exit 1")
        spool.wait_for("failed", "job")
        time.sleep(2)  # until the pool looks at failed/ no more, as long as nothing changes there
        spool.run("retry", "job")
        wait_until(lambda: starts(pool, "job") == 2, pool.log)


def test_a_time_to_start_set_while_it_waits_counts_too(spool: SpoolDir) -> None:
    spool.configure(backoff_base=6)
    spool.drop("job", "exit 1")
    spool.drop("other", "exit 1")
    with spool.pool(2) as pool:
        for job_id in ("job", "other"):
            spool.wait_for("failed", job_id)
        spool.run("edit", "job", EDITOR='sed -i \'s/{/{"run_at": "2100-01-01T00:00:00Z",/\'')
        wait_until(lambda: starts(pool, "other") == 2, pool.log)
        time.sleep(0.5)
        assert starts(pool, "job") == 1
    assert spool.states("job") == ["failed"]


def test_a_time_to_start_that_nothing_tells_of_counts_when_the_retry_is_due(
    spool: SpoolDir,
) -> None:
    spool.configure(poll_interval=3600, backoff_base=3)
    for job_id in ("job", "other"):
        spool.drop(job_id, "exit 1")
    with spool.pool() as pool:
        for job_id in ("job", "other"):
            pool.wait_for("failed", job_id)
        edited = {**spool.record("failed", "job"), "run_at": "2100-01-01T00:00:00Z"}
        with open(spool.file("failed", "job"), "r+b", buffering=0) as file:
            # over the old body, and not closed before the retry is due: a close would be an event
            file.write(json.dumps(edited).encode().ljust(os.fstat(file.fileno()).st_size))
            wait_until(lambda: starts(pool, "other") == 2, pool.log)  # due after job
        assert starts(pool, "job") == 1
    assert spool.states("job") == ["failed"]
    assert spool.record("failed", "job")["attempts"] == 1


def test_a_time_to_start_that_is_over_brings_no_retry_forward(spool: SpoolDir) -> None:
    spool.configure(backoff_base=1000)
    spool.drop("job", "exit 1", run_at="2001-01-01T00:00:00Z")
    with spool.pool() as pool:
        spool.wait_for("failed", "job")
        spool.drop("after")  # runs after everything else that may run now
        spool.wait_for("completed", "after")
        assert starts(pool, "job") == 1
    assert spool.states("job") == ["failed"]


@pytest.mark.parametrize(("code", "state"), [(0, "completed"), (3, "dead")])
def test_a_job_that_asks_for_another_follows_it_and_takes_no_slot_meanwhile(
    spool: SpoolDir, code: int, state: str
) -> None:
    spool.configure(later_delay=0.2)
    queuectl = shlex.join(spool.command())
    spool.api.submit(f"exit {code}", id="build", max_retries=1)
    spool.api.submit(
        f"{queuectl} wait --timeout 0.01 build && echo deployed",
        id="deploy",
        priority=-1,
        later_codes=[124],
        max_retries=1,
        env={"PYTHONPATH": ROOT},
    )
    with spool.pool(1):
        spool.wait_for(state, "deploy")
    record = spool.record(state, "deploy")
    assert record["attempts"] == 1
    assert record["history"][0]["exit_code"] == 124
    assert (
        spool.output("deploy", record["history"][-1]["number"])
        == "build\ndeployed\n"[: None if code == 0 else 6]
    )
