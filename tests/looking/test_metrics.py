from __future__ import annotations

import math
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from queuectl.cli.metrics import METRICS
from queuectl.units import parse_time
from tests.looking.support import EXIT_1, past, put, run_entry
from tests.support import SpoolDir, wait_until

if TYPE_CHECKING:
    from pathlib import Path

parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus_client")


def scrape(spool: SpoolDir) -> dict[str, Any]:
    text = spool.run("status", "--format", "prometheus").out
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    found = [s.value for s in families[name].samples if labels.items() <= s.labels.items()]
    assert len(found) == 1, (name, labels, found)
    return float(found[0])


def test_the_official_parser_reads_every_documented_metric_and_no_other(spool: SpoolDir) -> None:
    spool.run("enqueue", "true")
    spool.drain()
    families = scrape(spool)
    assert set(families) == set(METRICS)
    status = os.statvfs(spool.path)
    no_limit = {
        "queuectl_free_bytes": not status.f_blocks,
        "queuectl_free_inodes": not status.f_files,
    }
    for name, family in families.items():
        assert family.type == "gauge"
        assert family.documentation == METRICS[name]
        assert family.samples or no_limit.get(name), name
        assert all(math.isfinite(sample.value) for sample in family.samples)


def test_metrics_say_what_the_directories_hold(spool: SpoolDir) -> None:
    spool.drop("a")
    spool.drop("b")
    os.utime(spool.file("pending", "a"), (time.time() - 500, time.time() - 500))
    put(spool, past("c", "dead", time.time() - 30, run_entry(1, time.time() - 20, 4, **EXIT_1)))
    families = scrape(spool)
    assert value(families, "queuectl_jobs", state="pending") == 2
    assert value(families, "queuectl_jobs", state="dead") == 1
    assert value(families, "queuectl_oldest_pending_seconds") >= 500
    assert value(families, "queuectl_recent_ended_jobs", state="dead") == 1
    assert value(families, "queuectl_recent_runs", outcome="dead") == 1
    run_s = value(families, "queuectl_recent_run_seconds", quantile="0.5")
    assert run_s == pytest.approx(4, rel=0.02)
    assert value(families, "queuectl_pools") == 0
    assert value(families, "queuectl_paused") == 0


def test_a_running_pool_and_its_job_are_seen(spool: SpoolDir) -> None:
    spool.drop("long", "sleep 60")
    with spool.pool(3) as pool:
        pool.wait_for("started", "long")
        families = scrape(spool)
        assert value(families, "queuectl_pools") == 1
        assert value(families, "queuectl_slots") == 3
        assert value(families, "queuectl_jobs", state="processing") == 1
        assert value(families, "queuectl_longest_running_seconds") > 0
        assert value(families, "queuectl_suspended_pools") == 0
        pool.signal(signal.SIGSTOP)
        wait_until(lambda: value(scrape(spool), "queuectl_suspended_pools") == 1)
        pool.kill()
    assert value(scrape(spool), "queuectl_lost_jobs") == 1
    spool.run("cancel", "long")
    families = scrape(spool)
    assert value(families, "queuectl_lost_jobs") == 0
    assert value(families, "queuectl_recent_ended_jobs", state="dead") == 1
    assert value(families, "queuectl_recent_cancelled_jobs") == 1


def test_what_is_held_and_does_not_run_counts_for_no_running_time(spool: SpoolDir) -> None:
    """A retry that was just taken does not count, though it still has the body of its last run."""
    spool.drop("retry", started_at="2020-01-01T00:00:00Z", state="failed", attempts=1)
    spool.api.take("retry", "pending", "nobody")
    assert value(scrape(spool), "queuectl_longest_running_seconds") == 0


def test_a_spool_with_quotes_and_newlines_in_its_path_breaks_no_label(tmp_path: Path) -> None:
    spool = SpoolDir(os.path.realpath(tmp_path) + '/odd "name\\\nhere')
    spool.create()
    (sample,) = scrape(spool)["queuectl_info"].samples
    assert sample.labels["spool"] == spool.path


def test_where_nothing_ended_there_are_no_quantiles_instead_of_zeros(spool: SpoolDir) -> None:
    spool.create()
    assert scrape(spool)["queuectl_recent_run_seconds"].samples == []


def test_json_is_the_same_by_either_name(spool: SpoolDir) -> None:
    spool.drop("a")
    assert spool.run("status", "--json").json == spool.run("status", "--format", "json").json
    spool.refuse("status", "--json", "--format", "prometheus", status=2)
    assert "pending 1" in spool.run("status").out


def test_a_code_that_means_later_by_a_setting_is_no_failed_run(spool: SpoolDir) -> None:
    spool.configure(later_codes=[75])
    now = time.time()
    entry = run_entry(1, now - 9, 1, ended="exit", exit_code=75)
    put(spool, past("job", "pending", now - 10, entry))
    assert value(scrape(spool), "queuectl_recent_runs", outcome="failed") == 0


def test_the_longest_of_those_that_run_is_told(spool: SpoolDir) -> None:
    with spool.pool(2) as pool:
        spool.drop("first", "sleep 600")
        pool.wait_for("started", "first")
        begun = spool.run("show", "first", "--json").json["started_at"]
        time.sleep(2)
        spool.drop("second", "sleep 600")
        pool.wait_for("started", "second")
        least = time.time() - parse_time(begun)
        assert value(scrape(spool), "queuectl_longest_running_seconds") >= least
        pool.kill()


def test_who_died_of_a_failure_was_not_cancelled(spool: SpoolDir) -> None:
    spool.drop("job", "exit 3", max_retries=1)
    spool.drain()
    families = scrape(spool)
    assert value(families, "queuectl_recent_ended_jobs", state="dead") == 1
    assert value(families, "queuectl_recent_cancelled_jobs") == 0
