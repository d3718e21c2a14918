"""What a command finds when it starts, and how it is ended."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.test_outcomes import run_one
from tests.acceptance.test_scarcity import NO_LOOKS
from tests.support import DEADLINE_S, processes_with, wait_until, with_code_at_start

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir


def test_a_cwd_that_is_a_file_is_named(spool: SpoolDir, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.touch()
    record = run_one(spool, "true", "dead", max_retries=1, cwd=str(place))
    assert record["error_message"].startswith(f"could not start: cwd {place}: Not a directory")


def test_a_place_in_path_that_is_not_absolute_is_one_in_its_cwd(
    spool: SpoolDir, tmp_path: Path
) -> None:
    tool = tmp_path / "bin/tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/tool").touch()  # not executable
    path = "notes:bin:/usr/bin:/bin"
    run_one(spool, ["tool"], "completed", cwd=str(tmp_path), env={"PATH": path})


SIGNALS = """
import signal
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_a_command_finds_no_signal_ignored_or_blocked(spool: SpoolDir, tmp_path: Path) -> None:
    """A command starts with no signal ignored or blocked, though its pool has some so.

    A pool ignores SIGPIPE, and inherits what its own parent ignored or blocked.
    """
    assert blocked_and_ignored(spool, with_code_at_start(tmp_path, SIGNALS)) == [0, 0]


def blocked_and_ignored(spool: SpoolDir, env: dict[str, str]) -> list[int]:
    """Return the masks of the signals that a command finds blocked and ignored in such a pool."""
    spool.drop("job", ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])
    spool.drain(env=env)
    # not those that the C library keeps for itself: the tests may have inherited these as ignored
    standard = (1 << 31) - 1
    lines = spool.output("job").splitlines()
    return [int(line.split()[1], 16) & standard for line in lines]


@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_a_command_inherits_no_file_of_whoever_started_its_pool(spool: SpoolDir) -> None:
    reading, writing = os.pipe()
    spool.drop("job", ["ls", "/proc/self/fd"])
    words = ["worker", "start", "--count", "1", "--stop-when-empty"]
    with spool.start(*words, pass_fds=(reading, writing), stderr=subprocess.DEVNULL) as pool:
        assert pool.wait(DEADLINE_S) == 0
    os.close(reading)
    os.close(writing)
    assert spool.output("job").split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


def test_output_that_a_command_begins_anew_has_no_hole(spool: SpoolDir) -> None:
    spool.drop("job", "echo as long as may be; echo two > /dev/stdout; echo three")
    spool.drain()
    assert spool.output("job") == "two\nthree\n"


def test_without_descriptors_a_pool_kills_what_does_not_end_when_told(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(kill_grace=0.3)
    spool.drop("job", "trap '' TERM; sleep 1000; sleep 1000", timeout=0.2, max_retries=1)
    with spool.pool(
        env=with_code_at_start(tmp_path, NO_LOOKS.replace("range(8)", "range(10**9)"))
    ) as pool:
        pool.wait_for("dead", "job")
        of_jobs = set(processes_with("QUEUECTL_JOB_ID=job"))
        assert of_jobs.isdisjoint(processes_with(f"QUEUECTL_SPOOL={spool.path}"))


def test_a_cancel_that_comes_while_what_timed_out_is_ended_is_not_why_it_ended(
    spool: SpoolDir,
) -> None:
    spool.configure(kill_grace=3)
    told = f"{spool.path}.told"
    stubborn = f"trap 'touch {told}' TERM; while :; do sleep 0.05; done"
    spool.drop("job", stubborn, timeout=1.5, max_retries=2)  # by then its trap is set
    with spool.pool() as pool:
        wait_until(lambda: os.path.exists(told), pool.log)
        with spool.start("cancel", "job", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            wait_until(lambda: pool.events("failed") or pool.events("dead"), pool.log)
        record = spool.record(spool.states("job")[0], "job")
        assert record["history"][0]["ended"] == "timeout"


def test_what_is_ended_is_told_once(spool: SpoolDir) -> None:
    """Each process of a job gets one SIGTERM: many programs take a second for impatience."""
    spool.configure(kill_grace=1)
    command = "trap 'echo told' TERM; touch {}; while :; do sleep 0.05; done"
    up = [f"{spool.path}.{name}" for name in ("leaver", "leader")]
    both = f'setsid sh -c "{command.format(up[0])}" & {command.format(up[1])}'
    spool.drop("job", both)  # one has left the group
    with spool.pool() as pool:
        wait_until(lambda: all(map(os.path.exists, up)), pool.log)
        spool.run("cancel", "job")
    assert spool.output("job") == "told\n" * 2
