from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from queuectl.pool.lanes import Lanes
from queuectl.pool.stall import FILES, STARTS, Stall
from queuectl.system.loop import Loop
from queuectl.workers.registration import Registration
from queuectl.workers.worklog import WorkLog

if TYPE_CHECKING:
    from pathlib import Path

    from queuectl import Spool


def test_two_refusals_at_a_time_are_each_told_and_each_told_as_over(
    api: Spool, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with Registration(api, 2) as me, path.open("wb") as file:
        loop = Loop()
        stall = Stall(loop, WorkLog(file.fileno()), me, Lanes(loop, 2))
        for _ in range(2):  # the second time, they are tried again
            stall.hold("a", "start a", OSError(errno.EAGAIN, "no process"), STARTS)
            stall.hold("b", "record b", OSError(errno.EIO, "no disk"))
        for job_id in ("a", "b"):
            stall.let_go(job_id)
        stall.tell_it_is_over(FILES)
        stall.tell_it_is_over(STARTS)
        loop.close()
    told = [line.split(maxsplit=3)[1:] for line in path.read_text().splitlines()]
    assert told == [
        ["stalled", "-", "cannot start a: no process; waiting"],
        ["stalled", "-", "cannot record b: no disk; waiting"],
        ["resumed", "-", FILES],
        ["resumed", "-", STARTS],
    ]
