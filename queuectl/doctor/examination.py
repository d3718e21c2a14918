"""Running every check, and the mends that they propose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from queuectl.doctor import contents, filesystem
from queuectl.doctor.finding import as_far_as_possible
from queuectl.errors import QueuectlError, error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuectl.doctor.finding import Finding
    from queuectl.spool.spool import Spool


_PARTS = (filesystem.examine, contents.examine)


def examine(spool: Spool) -> Iterator[Finding]:
    """Yield the findings on the file system under a spool, and on what is in the spool."""
    told: set[str] = set()  # what several checks stumble over is reported once
    for part in _PARTS:
        for finding in as_far_as_possible(part(spool)):
            if finding.what not in told:
                told.add(finding.what)
                yield finding


def mend(spool: Spool) -> Iterator[tuple[Finding, str]]:
    """Mend what can be mended; yield each such finding, and why that failed ("" if it did not)."""
    for part in _PARTS:  # the second looks once what the first has found is mended
        for finding in list(as_far_as_possible(part(spool))):
            if finding.mend is not None:
                yield finding, _try(finding.mend)


def _try(step: Callable[[], object]) -> str:
    try:
        step()
    except (OSError, QueuectlError) as error:
        return error_text(error)
    return ""
