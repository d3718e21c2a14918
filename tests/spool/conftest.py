"""Fixtures for the tests of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from queuectl import Spool
    from tests.support import SpoolDir


@pytest.fixture
def api(spool: SpoolDir) -> Spool:
    """Return a spool with its directories."""
    spool.create()
    return spool.api
