"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support import SpoolDir, read_text

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

HANGS_S = 600  # the longest test takes 100 s on two cores that many processes share

# no deadline per example: a shared machine stalls now and then, whatever the code does
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SpoolDir]:
    """Yield a spool that does not exist yet, then kill what its jobs have left running."""
    place = SpoolDir(os.path.realpath(tmp_path / "spool"))
    yield place
    place.end_processes()


def pytest_configure() -> None:
    """Stop ignoring SIGINT and SIGHUP, so that they end what tests start.

    In the background, or under nohup, they are ignored, and child processes inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _hangs(*_: object) -> None:
    pytest.fail(f"it hangs: not over within {HANGS_S} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Fail a hanging test at the line where it hangs, so that it cleans up and the others run."""
    signal.signal(signal.SIGALRM, _hangs)
    signal.setitimer(signal.ITIMER_REAL, HANGS_S, HANGS_S)  # again: hypothesis repeats what failed
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


pytest_runtest_setup = pytest_runtest_teardown = pytest_runtest_call


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failed test the logs of the pools that it started."""
    report = yield
    tmp_path = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and tmp_path is not None:
        report.sections += [(log.name, read_text(str(log))) for log in tmp_path.glob("*.log")]
    return report
