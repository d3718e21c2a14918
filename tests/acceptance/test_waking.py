"""Arrivals are hints: without them jobs only start later."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support import ROOT, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir

SILENT = """
from queuectl import arrivals
arrivals.Arrivals.start = lambda self: None
"""
REFUSED = """
import errno
from queuectl import arrivals
def start(self):
    raise OSError(errno.EMFILE, "too many open files")
arrivals.Arrivals.start = start
"""


def with_code_at_start(tmp_path: Path, code: str) -> dict[str, str]:
    """Return the environment for a child that runs this code before anything else."""
    (tmp_path / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


@pytest.mark.parametrize("code", [SILENT, REFUSED], ids=["silent", "refused"])
def test_without_events_jobs_run_when_the_pool_looks(
    spool: SpoolDir, tmp_path: Path, code: str
) -> None:
    spool.configure(poll_interval=0.2, backoff_base=0, max_retries=2)
    with spool.pool(env=with_code_at_start(tmp_path, code)) as pool:
        for number in range(3):
            spool.drop(f"job-{number}")
            spool.wait_for("completed", f"job-{number}")
        spool.drop("fails", "exit 1")
        spool.wait_for("dead", "fails")
        os.rename(spool.file("dead", "fails"), spool.file("pending", "fails"))
        wait_until(lambda: len(pool.events("dead", "fails")) == 2, pool.log)
        spool.run("config", "set", "max-retries", "9")
        pool.wait_for("config")
        spool.run("worker", "stop")
        assert pool.wait() == 0
        warnings = [event["detail"] for event in pool.events("warning")]
    if code is REFUSED:
        assert [text for text in warnings if "looking every 0.2 s instead" in text]


def test_without_events_a_pool_stops_when_the_spool_is_empty(
    spool: SpoolDir, tmp_path: Path
) -> None:
    for number in range(20):
        spool.drop(f"job-{number:02}")
    spool.drain(env=with_code_at_start(tmp_path, SILENT))
    assert len(spool.ids("completed")) == 20


def test_a_directory_that_was_removed_and_made_again_is_watched_again(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.2)
    with spool.pool() as pool:
        spool.drop("before")
        spool.wait_for("completed", "before")
        os.rmdir(f"{spool.path}/pending")
        pool.wait_for("warning")
        wait_until(lambda: os.path.isdir(f"{spool.path}/pending"))
        spool.drop("after")
        spool.wait_for("completed", "after")


def test_a_spool_behind_a_symlink_wakes_its_pool(spool: SpoolDir, tmp_path: Path) -> None:
    spool.configure(poll_interval=3600)
    os.symlink(spool.path, tmp_path / "link")
    with spool.pool(env={"QUEUECTL_SPOOL": str(tmp_path / "link")}):
        spool.drop("first")
        spool.wait_for("completed", "first")
        spool.drop("second")
        spool.wait_for("completed", "second")
