from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from queuectl.run.commands import marks_of
from queuectl.run.runner import OutputFiles, Run, Task
from queuectl.run.spawn import Environment, reap_adopted, spawn
from queuectl.run.stragglers import Sweeper
from queuectl.system.loop import Loop
from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def sleeping(tmp_path: Path) -> Task:
    return Task(
        argv=["/bin/sleep", "1000"],
        env=Environment((), []),
        cwd="/",
        logs=(f"{tmp_path}/out", f"{tmp_path}/err"),
        timeout_s=0.05,
        has_own_timeout=True,
        grace_s=0.3,
        # with the name of an owner: without, every job of this id on the machine would be ended
        marks=marks_of("job", str(tmp_path)),
        log_mode=0o600,
        job_id="job",
    )


def test_nothing_is_signalled_that_has_been_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process group gets no signal after the reap: its number may be another's by then."""
    task = sleeping(tmp_path)
    signalled: list[int] = []
    loop = Loop()

    async def run() -> None:
        await Run(loop, Sweeper(loop), task, OutputFiles(task)).wait()
        monkeypatch.setattr(os, "killpg", lambda group, _number: signalled.append(group))
        await loop.sleep(0.5)

    loop.run(run())
    loop.close()
    assert signalled == []


def test_a_start_for_which_there_are_too_few_descriptors_gives_them_back(tmp_path: Path) -> None:
    before, limits = os.listdir("/dev/fd"), resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))  # room for one
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="open files"):
                OutputFiles(sleeping(tmp_path))
            os.close(os.open(os.devnull, os.O_RDONLY))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert os.listdir("/dev/fd") == before


def test_a_command_that_has_ended_is_left_to_who_waits_for_it() -> None:
    child = spawn(["/bin/sh", "-c", "exit 7"], Environment((), []), "/", (0, 1, 2))
    wait_until(child.has_ended)
    reap_adopted()
    assert child.reap() == 7
