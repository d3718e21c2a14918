"""What a pool claims at a time, of jobs that others may have run already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from queuectl.loop import Loop
from queuectl.pool.claims import Claims
from queuectl.pool.intake import Intake, News
from queuectl.pool.turn import Turns
from queuectl.registration import Registration
from queuectl.worklog import WorkLog

if TYPE_CHECKING:
    from tests.support import SpoolDir

JOBS = 1000


def ignore(*_: object) -> None:
    pass


def test_a_loop_is_not_held_up_by_jobs_that_others_have_run(spool: SpoolDir) -> None:
    api, log = spool.api, WorkLog(-1)
    api.create()
    intake = Intake(api, log, "w", News(ready=ignore, due=ignore, scan=ignore))
    for number in range(JOBS):
        spool.drop(f"job-{number}")
    intake.scan()
    for number in range(JOBS):
        os.unlink(spool.file("pending", f"job-{number}"))
    loop = Loop()
    with Registration(api, 1) as me:
        turns = Turns(api, log, loop, intake, me)
        claims = Claims(loop, intake, turns, on_over=ignore, follow_pause=ignore)
        claims.begin()
        claims.claim()
        assert len(intake._backlog) > JOBS / 2

        async def until_all_were_tried() -> None:
            while not intake.idle or claims.under_way:
                await loop.sleep(0.001)

        loop.run(until_all_were_tried())
        turns.close()
    loop.close()
    assert spool.ids("dead") == []
