"""`dlq retry`, and settings that change under running workers, or by several commands at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from queuectl.settings import config
from tests.support import read_json, wait_until

if TYPE_CHECKING:
    from tests.support import SpoolDir

KEYS = [
    "max-retries",
    "backoff-base",
    "backoff-max",
    "job-timeout",
    "kill-grace",
    "poll-interval",
    "lease",
    "worker-count",
    "later-delay",
    "success-codes",
]


def test_dlq_retry_starts_attempts_again_and_keeps_the_history(spool: SpoolDir) -> None:
    spool.configure(backoff_base=0)
    go = f"{spool.path}.go"
    spool.drop("job", f"[ -e {go} ]", max_retries=2)
    with spool.pool():
        spool.wait_for("dead", "job")
        open(go, "x").close()
        assert spool.run("dlq", "retry", "job").out == "job\n"
        spool.wait_for("completed", "job")
    record = spool.record("completed", "job")
    assert record["attempts"] == 1
    assert record["error_message"] is None
    assert [entry["number"] for entry in record["history"]] == [1, 2, 3]


def test_dlq_retry_puts_the_job_into_pending_with_no_attempts(spool: SpoolDir) -> None:
    spool.drop("job", "exit 3", max_retries=1)
    spool.drain()
    spool.run("dlq", "retry", "job")
    record = spool.record("pending", "job")
    assert (record["attempts"], record["exit_code"], record["error_message"]) == (0, None, None)
    assert len(record["history"]) == 1
    assert spool.leftovers() == []


def test_a_change_of_settings_reaches_running_workers(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600)
    with spool.pool() as pool:
        spool.drop("first", "exit 1")
        spool.wait_for("failed", "first")
        spool.run("config", "set", "max_retries", "1")
        pool.wait_for("config")
        spool.drop("second", "exit 1")
        spool.wait_for("dead", "second")
        spool.run("config", "unset", "max-retries")
        wait_until(lambda: len(pool.events("config")) == 2, pool.log)
        spool.drop("third", "exit 1")
        spool.wait_for("failed", "third")


def test_a_bad_settings_file_changes_nothing_and_is_told(spool: SpoolDir) -> None:
    spool.configure(max_retries=1)
    with spool.pool() as pool:
        spool.drop("first", "exit 1")
        spool.wait_for("dead", "first")
        with open(f"{spool.path}/config.json", "w") as file:
            file.write('{"max-retries": "many"}')
        # the pool may first read the file half written, when it is not JSON yet
        wait_until(lambda: "must be an integer" in pool.log(), pool.log)
        spool.drop("second", "exit 1")
        spool.wait_for("dead", "second")


def slots(spool: SpoolDir) -> list[int]:
    return [worker["slots"] for worker in spool.run("worker", "list", "--json").json]


def test_a_pool_without_a_count_follows_worker_count(spool: SpoolDir) -> None:
    spool.configure(poll_interval=3600, lease=36000)  # so that no regular look finds the change
    for job_id in "abcde":
        spool.drop(job_id, f"until [ -e {spool.path}.{job_id} ]; do sleep 0.02; done")
    with spool.pool(None) as pool:
        pool.wait_for("started", "a")
        assert spool.run("config", "set", "worker-count", "3").err == ""
        pool.wait_for("started", "c")
        assert slots(spool) == [3]
        spool.run("config", "set", "worker-count", "1")
        wait_until(lambda: slots(spool) == [1])
        wait_until(lambda: "3/1" in spool.run("worker", "list").out)
        assert "3 of 1 busy" in spool.run("status").out
        for job_id in "acbde":  # two of three end before another begins
            open(f"{spool.path}.{job_id}", "x").close()
            pool.wait_for("completed", job_id)
    told = [(event["event"], event.get("id")) for event in pool.events()]
    begun, ended = told.index(("started", "d")), [told.index(("completed", x)) for x in "ac"]
    assert begun > max(ended)


def test_a_pool_with_a_count_keeps_it(spool: SpoolDir) -> None:
    with spool.pool(2) as pool:
        told = spool.run("config", "set", "worker-count", "5").err
        assert told.startswith(f"not followed by {pool.name}: started with --count")
        pool.wait_for("config")
        assert slots(spool) == [2]


@pytest.mark.slow
def test_two_hundred_concurrent_settings_lose_nothing(spool: SpoolDir) -> None:
    spool.create()

    def set_again_and_again(key: str) -> None:
        # nobody else writes this key: if it is not what was just set, an edit was lost
        for value in range(1, 21):
            spool.run("config", "set", key, str(value))
            stored = read_json(f"{spool.path}/config.json")[key]
            assert stored == ([value] if key == "success-codes" else value)

    with ThreadPoolExecutor(len(KEYS)) as threads:
        list(threads.map(set_again_and_again, KEYS))
    stored = config.load_stored(spool.path)[0]
    assert stored == {key: [20] if key == "success-codes" else 20 for key in KEYS}
    assert spool.leftovers() == []
