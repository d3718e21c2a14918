"""Puts jobs that are held in a pool's name without a turn, as from a backup, where they belong.

spool-layout.md, section "Recover".
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from queuectl.errors import BadJobError, IncompleteJobError
from queuectl.pool.rejects import QUIET_S
from queuectl.recovery.recovery import sent_back
from queuectl.spool.joblogs import forget_output

if TYPE_CHECKING:
    from queuectl.pool.custody import Custody
    from queuectl.record.job import Job
    from queuectl.spool.moves import Claim
    from queuectl.spool.spool import Spool
    from queuectl.workers.worklog import WorkLog


class Strays:
    """Sends away the jobs that are held in a pool's name though it has not taken them."""

    def __init__(self, spool: Spool, log: WorkLog, custody: Custody) -> None:
        self._spool = spool
        self._log = log
        self._custody = custody

    async def send_away(self, claim: Claim) -> None:
        """Put a job where it belongs, or leave it for another time while it is being written."""
        if self._is_being_written(claim):
            return
        job = await self._custody.read(claim)
        if job is not None:
            await self._put_where_it_belongs(claim, job)

    def _is_being_written(self, claim: Claim) -> bool:
        try:
            self._spool.read_claim(claim)
        except IncompleteJobError:
            with contextlib.suppress(FileNotFoundError):
                return abs(time.time() - os.lstat(claim.path).st_ctime) < QUIET_S
        except (OSError, BadJobError):  # `Custody.read` deals with these
            pass
        return False

    async def _put_where_it_belongs(self, claim: Claim, job: Job) -> None:
        why = f"{claim.owner} did not run it"
        # a copy is older than what was done since, so missing output proves nothing
        back = sent_back(self._spool, claim, job, why, this_boot=False)
        settled = await self._custody.persist(
            "put back", claim, lambda: self._spool.settling(claim, back)
        )
        if settled:
            forget_output(self._spool, job, back)
            detail = f"from a copy, to {claim.place(back.state)}"
            self._log.event("recovered", claim.job_id, detail=detail)
