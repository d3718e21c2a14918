"""A real `enqueue` and a real pool, killed by the kernel on entry to each call that changes files.

Accepted jobs still come to their end.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.crash.support import Spoolside, make_spool
from tests.crash.tracing import STEADY, Point, inject, needs_strace, points, trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    TellFaults = Callable[[int], None]

pytestmark = needs_strace
NAMES = ("openat", "write", "fsync", "fdatasync",
         "rename", "renameat2", "link", "linkat", "unlink", "flock",
         "mkdir", "ftruncate", "utimensat")  # fmt: skip
NOT_KILLED = "not killed"
TO_RUN = ("good", "fails")


def sweep(cases: Sequence[Callable[[], str]]) -> int:
    """Run all cases, some at a time; fail with what is wrong in them, or return their number."""
    assert len(cases) > 5
    with ThreadPoolExecutor(4) as threads:
        said = [text for text in threads.map(lambda case: case(), cases) if text]
    # threads take turns: one that made a call in the counting run may not make it in another
    assert said.count(NOT_KILLED) <= len(cases) / 3, "most were not killed"
    said = [text for text in said if text != NOT_KILLED]
    assert not said, f"{len(said)} of {len(cases)}:\n" + "\n".join(said[:10])
    return len(cases)


def judged(side: Spoolside, what: object, ended: Sequence[str]) -> str:
    """Drain the spool and check it; return what is wrong, or an empty string."""
    try:
        side.drain()
        side.check_promise(ended)
    except AssertionError as error:
        return f"{what}: {error}"
    return ""


# --- enqueue ----------------------------------------------------------------------------------

ENQUEUE = ("enqueue", "--id", "one", "--", "/bin/true")


def enqueue_points(directory: Path) -> list[Point]:
    with Spoolside(directory / "counted") as side:
        done = side.run(*ENQUEUE, before=trace(directory / "counted.trace", *NAMES), env=STEADY)
        assert done.stdout == "one\n", done.stderr
    return points(directory / "counted.trace", side.path, NAMES)


def killed_enqueue(directory: Path, point: Point) -> str:
    name = f"{point.name}-{point.number}"
    with Spoolside(directory / name) as side:
        before = inject(directory / f"{name}.trace", point, "signal=KILL")
        done = side.run(*ENQUEUE, before=before, env=STEADY)
        if done.returncode == 0:
            return f"{point}: not killed"
        side.accepted = done.stdout.split()
        return judged(side, point, ("completed",))


@pytest.mark.slow
def test_an_enqueue_killed_at_any_call_loses_no_id_that_it_printed(
    tmp_path: Path, tell_faults: TellFaults
) -> None:
    found = enqueue_points(tmp_path)
    tell_faults(sweep([partial(killed_enqueue, tmp_path, point) for point in found]))


# --- a pool -----------------------------------------------------------------------------------


def prepare(directory: Path) -> Path:
    """Make a spool that gives a pool a bit of everything to do."""
    path = make_spool(directory / "template", backoff_base=0)
    with Spoolside(path) as side:
        side.spool.submit(["/bin/true"], id="good")
        side.spool.submit(["/bin/false"], id="fails", max_retries=2)
        side.drop_bytes("bad", b"[1]")
    return path


def work_points(directory: Path, template: Path) -> list[Point]:
    """Return the calls of the pool, without openat, which the commands that it runs also make."""
    names = tuple(set(NAMES) - {"openat"})
    path = shutil.copytree(template, directory / "counted")
    before = trace(directory / "counted.trace", *names)
    with Spoolside(path) as side:
        pool = side.pool("--count", "2", "--stop-when-empty", before=before, env=STEADY)
        assert pool.wait() == 0, pool.log()
    return points(directory / "counted.trace", path, names)


def killed_pool(directory: Path, template: Path, point: Point) -> str:
    name = f"{point.name}-{point.number}"
    with Spoolside(shutil.copytree(template, directory / name)) as side:
        side.accepted = [*TO_RUN, "bad"]
        before = inject(directory / f"{name}.trace", point, "signal=KILL")
        pool = side.pool("--count", "2", "--stop-when-empty", before=before, env=STEADY)
        killed = pool.wait() != 0
        return judged(side, point, ("completed", "dead")) or ("" if killed else NOT_KILLED)


def sweep_pool(directory: Path, stride: int) -> int:
    template = prepare(directory)
    found = work_points(directory, template)[::stride]
    return sweep([partial(killed_pool, directory, template, point) for point in found])


@pytest.mark.slow
def test_a_pool_killed_at_some_calls_loses_nothing(tmp_path: Path, tell_faults: TellFaults) -> None:
    tell_faults(sweep_pool(tmp_path, 12))


@pytest.mark.slow
def test_a_pool_killed_at_every_third_call_loses_nothing(
    tmp_path: Path, tell_faults: TellFaults
) -> None:
    tell_faults(sweep_pool(tmp_path, 3))
