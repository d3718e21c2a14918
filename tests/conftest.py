"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support import SpoolDir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# no deadline an example: a shared machine stalls now and then, which says nothing of the code
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SpoolDir]:
    """Return a spool that does not exist yet; what its jobs leave running is ended afterwards."""
    place = SpoolDir(os.path.realpath(tmp_path / "spool"))
    yield place
    place.end_processes()


def pytest_configure() -> None:
    """Have Ctrl-C end what tests start: a run in the background inherits SIGINT as ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
