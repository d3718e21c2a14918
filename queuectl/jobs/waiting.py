"""Which of some jobs have ended, and which exit status follows from that.

spool-layout.md, sections "Waking" and "Exit statuses".
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from queuectl.errors import NoSuchJobError
from queuectl.record.outcome import EXIT, SIGNAL, TIMEOUT, is_cancelled, signal_number
from queuectl.spool.filenames import SUFFIX
from queuectl.states import AT_REST, FINISHED
from queuectl.system.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from queuectl.spool.layout import Found, Layout

_NOT_DONE = 1  # the exit status for a dead job whose reason has no number


class Endings:
    """The jobs that are waited for, all or `any_one` of them, and those that have ended."""

    def __init__(self, spool: Layout, job_ids: Sequence[str], *, any_one: bool = False) -> None:
        self.statuses: dict[str, int] = {}  # of the jobs that have ended, see `exit_status`
        self.failures = 0  # how many of them did not complete
        self._spool = spool
        self.any_one = any_one
        self._job_ids = dict.fromkeys(job_ids)

    @property
    def remaining(self) -> list[str]:
        """The jobs that have not ended."""
        return [job_id for job_id in self._job_ids if job_id not in self.statuses]

    @property
    def complete(self) -> bool:
        """Whether there is nothing more to wait for."""
        return len(self.statuses) >= (1 if self.any_one and self._job_ids else len(self._job_ids))

    def look(self, names: Collection[str] = ()) -> Iterator[tuple[str, Found | None]]:
        """Yield each job that has ended since the last look, with None if no state holds it.

        Args:
            names: the file names of the jobs to look at; all that remain if there are none.
        """
        for job_id in self._named(names) if names else self._over_or_gone():
            if job_id not in self.statuses:
                found = self._found(job_id)
                if found is None or found.state in FINISHED:  # else it was retried meanwhile
                    self.statuses[job_id] = exit_status(found)
                    self.failures += found is None or found.state != "completed"
                    yield job_id, found

    def _named(self, names: Collection[str]) -> Iterator[str]:
        wanted = (name.removesuffix(SUFFIX) for name in names)
        return (job_id for job_id in wanted if job_id in self._job_ids and self._over(job_id))

    def _over_or_gone(self) -> Iterator[str]:
        yield from (job_id for job_id in self.remaining if self._over(job_id))
        yield from self._gone()

    def _over(self, job_id: str) -> bool:
        return self._spool.found_in(job_id, FINISHED) is not None

    def _gone(self) -> list[str]:
        """Return the jobs that no state seems to hold; `_found` then finds one on its way."""
        held = {held.job_id for held in self._spool.held()}
        return [
            job_id
            for job_id in self.remaining
            if job_id not in held and self._spool.found_in(job_id, AT_REST) is None
        ]

    def _found(self, job_id: str) -> Found | None:
        # first where it mostly is: for thousands of jobs, `find` would list processing/ each time
        for state in FINISHED:
            for found in self._spool.jobs(state, [job_id]):
                return found
        try:
            return self._spool.find(job_id)
        except NoSuchJobError:
            return None

    def changes(self) -> Changes:
        """Return the `Changes` that tell when one of the jobs ends."""
        wanted = {job_id + SUFFIX for job_id in self._job_ids}
        directories = [self._spool.directory(state) for state in FINISHED]
        return Changes(directories, wanted.__contains__, self._spool.config.poll_interval)

    def status(self) -> int:
        """Return the exit status of the first job, as given, that did not complete; else 0."""
        statuses = (self.statuses.get(job_id, 0) for job_id in self._job_ids)
        return next((status for status in statuses if status), 0)


def exit_status(found: Found | None) -> int:
    """Return the exit status of a job that has ended, as a shell would give it: 0 if it completed.

    Otherwise it is the exit code of the last run, or 128 plus the number of the signal that ended
    it. A timeout counts as SIGTERM: 143. It is 1 if there is no such number, as for a cancelled
    job.
    """
    if found is None:
        return _NOT_DONE
    if found.state == "completed":
        return 0
    record, history = found.job.record, found.job.history
    if not history or is_cancelled(record):
        return _NOT_DONE
    last = history[-1]
    if last.get("ended") == EXIT:
        return _code(last.get("exit_code"))
    if last.get("ended") == SIGNAL:
        return 128 + signal_number(str(last.get("signal")))
    return 128 + signal.SIGTERM if last.get("ended") == TIMEOUT else _NOT_DONE


def _code(value: object) -> int:
    # 0 can be a failure too, where success_codes says so
    return value if isinstance(value, int) and 0 < value <= 255 else _NOT_DONE
