"""One thing that was looked at, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it; `mend` does it where nothing can be lost by it."""

    level: str
    what: str
    todo: str = ""
    mend: Callable[[], object] | None = None


def ok(what: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(OK, what)


def warning(what: str, todo: str = "", mend: Callable[[], object] | None = None) -> Finding:
    """Return that something is worth knowing, and stops nobody."""
    return Finding(WARNING, what, todo, mend)


def problem(what: str, todo: str = "", mend: Callable[[], object] | None = None) -> Finding:
    """Return that something keeps jobs from running, or could lose them."""
    return Finding(PROBLEM, what, todo, mend)
