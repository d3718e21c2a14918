"""The findings of the health check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from queuectl.errors import QueuectlError, error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it; `mend` does it, if nothing can be lost by that."""

    level: str
    what: str
    todo: str = ""
    mend: Callable[[], object] | None = None


def as_far_as_possible(found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings; if the file system refuses a look, end with a finding that says so."""
    try:
        yield from found
    except (OSError, QueuectlError) as error:
        yield could_not_look(error)


def could_not_look(error: Exception) -> Finding:
    """Return the finding that the file system refused a look."""
    return problem(f"could not look further: {error_text(error)}")


def ok(what: str) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(OK, what)


def warning(what: str, todo: str = "", mend: Callable[[], object] | None = None) -> Finding:
    """Return the finding that something is worth knowing, but stops nobody."""
    return Finding(WARNING, what, todo, mend)


def problem(what: str, todo: str = "", mend: Callable[[], object] | None = None) -> Finding:
    """Return the finding that something keeps jobs from running, or could lose them."""
    return Finding(PROBLEM, what, todo, mend)
