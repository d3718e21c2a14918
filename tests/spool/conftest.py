"""Fixtures for the tests of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuectl import kernel

if TYPE_CHECKING:
    from queuectl import Spool
    from tests.support import SpoolDir


@pytest.fixture(autouse=True)
def _of_a_machine_with_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "machine_id", lambda: "0123456789abcdef")


@pytest.fixture
def api(spool: SpoolDir) -> Spool:
    """Return a spool whose directories exist."""
    spool.create()
    return spool.api
