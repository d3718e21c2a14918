"""What a pool does at regular intervals, besides what it is woken for."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Periodic:
    """Something done at once, and then every `period_s()` seconds, which may change."""

    def __init__(self, do: Callable[[], object], period_s: Callable[[], float]) -> None:
        self._do = do
        self._period_s = period_s
        self._last = -inf

    @property
    def wait_s(self) -> float:
        """Seconds until it is due; negative once it is overdue."""
        return self._last + self._period_s() - time.monotonic()

    def run_if_due(self) -> None:
        """Do it, if it is due."""
        if self.wait_s <= 0:
            self._last = time.monotonic()
            self._do()
