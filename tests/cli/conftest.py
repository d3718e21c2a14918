"""Fixtures for the tests of the commands that only look at a spool."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from queuectl.units import utc_text
from tests.cli.support import put

if TYPE_CHECKING:
    from tests.support import SpoolDir


@pytest.fixture
def filled(spool: SpoolDir) -> SpoolDir:
    """Return a spool with jobs in every state but processing."""
    later = utc_text(time.time() + 3600)
    put(spool, "pending", "p1", tags=["nightly", "db"])
    put(spool, "pending", "p2", run_at=later)
    put(spool, "completed", "c1", tags=["nightly"], finished_at=utc_text(time.time()))
    put(spool, "failed", "f1", next_retry_at=later, error_message="exit status 1")
    put(spool, "dead", "d1", error_message="exit status 2", max_retries=3)
    return spool
