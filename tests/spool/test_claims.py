"""What a pool claims, and when."""

from __future__ import annotations

import os
from math import inf
from typing import TYPE_CHECKING

from queuectl.pool.claims import Claims
from queuectl.pool.intake import Intake, News
from queuectl.pool.turn import Turns
from queuectl.system.loop import Loop
from queuectl.workers.registration import Registration
from queuectl.workers.worklog import WorkLog

if TYPE_CHECKING:
    from queuectl.pool.backlog import Entry
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


def test_what_was_dropped_after_a_pause_is_not_claimed_by_who_had_looked_before_it(
    spool: SpoolDir,
) -> None:
    paused = f"{spool.path}/paused"

    class Late(Intake):
        """An intake to which a pause and a job come just before it is asked for a job to claim."""

        def next(self, below: float = inf) -> Entry | None:
            if not spool.states("job"):
                open(paused, "x").close()
                spool.drop("job")
                self.look("pending", "job")
            return super().next(below)

    def follow_pause() -> None:
        (claims.pause if api.paused else claims.resume)()

    async def until_it_has_run() -> None:
        while claims.under_way:
            await loop.sleep(0.001)

    api, log = spool.api, WorkLog(-1)
    api.create()
    loop = Loop()
    intake = Late(api, log, "w", News(ready=ignore, due=ignore, scan=ignore))
    with Registration(api, 1) as me:
        turns = Turns(api, log, loop, intake, me)
        claims = Claims(loop, intake, turns, on_over=ignore, follow_pause=follow_pause)
        claims.begin()
        claims.claim()
        assert spool.states("job") == ["pending"]
        assert not claims.under_way
        assert not intake.idle
        os.unlink(paused)
        claims.claim()
        loop.run(until_it_has_run())
        turns.close()
    loop.close()
    assert spool.states("job") == ["completed"]
