"""Attempts that were counted, whose count a power cut has left only in a spare.

A claim makes sure of its names and of the new body, in a spare, and only then exchanges the two
bodies' names; the exchange is made sure of with the outcome. So after a power cut the held file may
have its old body again although the command has run: then the spare has the new one.
spool-layout.md, sections "Claim" and "Recover".
"""

from __future__ import annotations

import contextlib
import os
from functools import cached_property
from typing import TYPE_CHECKING

from queuectl.errors import BadJobError, error_text
from queuectl.record.fields import check_fields
from queuectl.record.job import Job, again, decode
from queuectl.record.outcome import is_start_of
from queuectl.record.reading import read_regular
from queuectl.spool.spares import spares_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl.spool.layout import Layout
    from queuectl.workers.worklog import WorkLog


class Starts:
    """The bodies among the spares of one owner that are those of jobs about to start.

    Args:
        spool: where.
        owner: who died.
        log: is told of a spare that cannot be read.
    """

    def __init__(self, spool: Layout, owner: str, log: WorkLog) -> None:
        self._spool = spool
        self._owner = owner
        self._log = log

    def latest(self, held: str, job_id: str, before: Job | None) -> Job | None:
        """Return the body of a job's last start, None if no spare has it.

        Args:
            held: the job's file in processing/.
            job_id: its id.
            before: what that file holds, None if that is damaged.

        Raises:
            FileNotFoundError: `held` is gone.
        """
        # the rename that took it set this time; a spare from before tells of an earlier turn
        taken_at = os.lstat(held).st_ctime
        starts = (
            start
            for start in self._all
            if start.id == job_id
            and _started_at(start) >= taken_at
            and (before is None or _follows(before, start))
        )
        return max(starts, key=_started_at, default=None)

    @cached_property
    def _all(self) -> list[Job]:
        found: list[Job] = []
        for path in spares_of(self._spool.directory("tmp"), self._owner):
            try:
                found += self._read(path)
            except OSError as error:  # noqa: PERF203 - the others may tell all the same
                self._log.event(
                    "error", worker=self._owner, detail=f"cannot read {error_text(error)}"
                )
        return found

    def _read(self, path: str) -> Iterator[Job]:
        """Yield the job in a spare if it is one that was about to start."""
        with contextlib.suppress(BadJobError, FileNotFoundError):  # not written to its end
            record = decode(read_regular(path, any_owner=self._spool.config.shared))
            check_fields(record)
            job = Job(record)
            if job.state == "processing" and job.worker == self._owner and "id" in record:
                yield job


def _started_at(start: Job) -> float:
    return start.instant("started_at") or 0.0


def _follows(before: Job, start: Job) -> bool:
    # moved to pending/ by hand, it had its attempts start again
    return is_start_of(before, start) or is_start_of(again(before), start)
