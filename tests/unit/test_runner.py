from __future__ import annotations

import os
from typing import TYPE_CHECKING

from queuectl.loop import Loop
from queuectl.run.runner import Output, Run, Task
from queuectl.run.spawn import Environment
from queuectl.run.stragglers import Sweeper

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_nothing_is_signalled_that_has_been_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group may be another's by then."""
    task = Task(
        argv=["/bin/sleep", "1000"],
        env=Environment((), []),
        cwd="/",
        logs=(f"{tmp_path}/out", f"{tmp_path}/err"),
        timeout_s=0.05,
        has_own_timeout=True,
        grace_s=0.3,
        marks=(b"QUEUECTL_JOB_ID=job",),
        log_mode=0o600,
    )
    signalled: list[int] = []
    loop = Loop()

    async def run() -> None:
        await Run(loop, Sweeper(loop), task, Output(task)).wait()
        monkeypatch.setattr(os, "killpg", lambda group, _number: signalled.append(group))
        await loop.sleep(0.5)

    loop.run(run())
    loop.close()
    assert signalled == []
