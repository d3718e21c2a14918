"""What the fault tests share. `-m "not slow"` leaves out the long ones, which are marked `slow`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.crash.report import FAULTS
from tests.crash.support import Spoolside, make_spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark that the everyday run leaves out."""
    config.addinivalue_line("markers", "slow: takes from five seconds to some minutes")


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Spoolside]:
    """Yield a spool that is quick to look, retry and give up, then end what was started on it."""
    with Spoolside(make_spool(tmp_path / "q")) as made:
        yield made


@pytest.fixture
def tell_faults(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Return a function that records how many faults a test injected, for tests.crash.report."""
    return lambda number: record_property(FAULTS, number)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Yield a directory that every user of the machine can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="queuectl-crash-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)
