"""Finding attempts that were counted, but whose count a power cut has left only in a spare.

A claim syncs its directories and the new body, in a spare, and only then exchanges the names of the
two bodies. The exchange is synced with the outcome. So after a power cut the held file may have its
old body again although the command has run. The spare then has the new body.
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
    """The spares of one dead owner that hold the body of a job about to start.

    Args:
        spool: the spool.
        owner: the dead owner.
        log: where to report a spare that cannot be read.
    """

    def __init__(self, spool: Layout, owner: str, log: WorkLog) -> None:
        self._spool = spool
        self._owner = owner
        self._log = log

    def latest(self, held: str, job_id: str, before: Job | None) -> Job | None:
        """Return the body that a job had at its last start; None if no spare has it.

        Args:
            held: the job's file in processing/.
            job_id: its id.
            before: the job in that file; None if the file is damaged.

        Raises:
            FileNotFoundError: `held` is gone.
        """
        # set by the rename that took the job; an older spare belongs to an earlier turn
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
            except OSError as error:  # noqa: PERF203 - the other spares may be readable
                self._log.event(
                    "error", worker=self._owner, detail=f"cannot read {error_text(error)}"
                )
        return found

    def _read(self, path: str) -> Iterator[Job]:
        """Yield the job in a spare, if it was about to start."""
        with contextlib.suppress(BadJobError, FileNotFoundError):  # not completely written
            record = decode(read_regular(path, any_owner=self._spool.config.shared))
            check_fields(record)
            job = Job(record)
            if job.state == "processing" and job.worker == self._owner and "id" in record:
                yield job


def _started_at(start: Job) -> float:
    return start.instant("started_at") or 0.0


def _follows(before: Job, start: Job) -> bool:
    # the attempts of a job that was moved to pending/ by hand start again
    return is_start_of(before, start) or is_start_of(again(before), start)
