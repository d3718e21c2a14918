"""A program that kills one verb of the spool at each of its steps, then lets a fresh pool repair.

    stepper.py VERB DIRECTORY [STRIDE]      0 only counts

Every case has its own spool below DIRECTORY. The victim and the pool that comes after it are forked
from this process, which has everything imported, so some hundred cases take seconds. The report is
one JSON document on standard output, which the tests judge.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from concurrent import futures  # noqa: F401 - imported here so that no child must
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock  # noqa: F401

import queuectl.cli.commands.look
import queuectl.pool.pool
import queuectl.system.arrivals
from queuectl import Spool
from queuectl.workers.worklog import WorkLog
from tests.crash import mutations
from tests.crash.steps import Steps
from tests.crash.support import make_spool
from tests.crash.verbs_to_kill import VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIDE_BY_SIDE = 6
DRAIN_S = 25


def main(name: str, directory: Path, stride: int) -> None:
    """Run the verb once to count its steps, then once for each step at which it is killed."""
    mutations.apply_named()
    verb = VERBS[name]
    template = make_spool(directory / "template")
    in_child(lambda: verb.prepare(Spool(template)))
    counted = _case(directory, template, name, None, drain=stride > 0)
    if stride == 0:
        json.dump({"steps": counted["steps"], "cases": []}, sys.stdout)
        return
    cases = range(1, len(counted["steps"]) + 1, stride)
    killed = side_by_side([partial(_case, directory, template, name, n) for n in cases])
    json.dump({"steps": counted["steps"], "cases": [counted, *killed]}, sys.stdout)


def _case(
    directory: Path, template: Path, name: str, die_at: int | None, *, drain: bool = True
) -> dict[str, Any]:
    """Run the verb on a copy, killed at step `die_at`, then drain; return what is to be judged."""
    path = directory / f"at-{die_at or 'none'}"
    shutil.copytree(template, path)
    told = directory / f"at-{die_at or 'none'}.told"
    told.touch()
    victim = in_child(lambda: _victim(name, path, told, die_at))
    pool = in_child(lambda: _drain(path)) if drain else 0
    steps = directory / f"{path.name}.steps"
    return {
        "spool": str(path),
        "die_at": die_at,
        "victim": victim,
        "pool": pool,
        "accepted": told.read_text().split(),
        "steps": json.loads(steps.read_text()) if steps.exists() else [],
    }


def _victim(name: str, path: Path, told: Path, die_at: int | None) -> None:
    steps = Steps(path, die_at)
    spool = Spool(path)
    steps.begin()
    for job_id in VERBS[name].act(spool):
        with told.open("a") as file:
            file.write(f"{job_id}\n")
    seen = [asdict(step) for step in steps.seen]
    (path.parent / f"{path.name}.steps").write_text(json.dumps(seen))


def _drain(path: Path) -> None:
    signal.alarm(DRAIN_S)
    log = os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pool = queuectl.pool.pool.Pool(Spool(path), 2, WorkLog(log), stop_when_empty=True)
    assert pool.run(), f"the pool came to grief: {path}.log"


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process, and return its exit status, or minus the signal's number."""
    return os.waitstatus_to_exitcode(os.waitpid(begin_child(work), 0)[1])


def begin_child(work: Callable[[], object]) -> int:
    """Begin `work` in a forked process, and return its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - a forked child must end here, whatever happens
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return pid


def side_by_side(cases: Sequence[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Run cases in forked processes, some at a time, and return their results."""
    running: dict[int, int] = {}
    results: list[dict[str, Any]] = []
    for case in cases:
        if len(running) == SIDE_BY_SIDE:
            results.append(_reap(running))
        reader, writer = os.pipe()
        pid = begin_child(partial(_write_result, case, writer))
        os.close(writer)
        running[pid] = reader
    while running:
        results.append(_reap(running))
    return results


def _write_result(case: Callable[[], dict[str, Any]], writer: int) -> None:
    with os.fdopen(writer, "w") as pipe:
        json.dump(case(), pipe)


def _reap(running: dict[int, int]) -> dict[str, Any]:
    """Wait for a case to end, and return its result, which is smaller than a pipe's 64 KiB."""
    deadline = time.monotonic() + 2 * DRAIN_S
    while time.monotonic() < deadline:
        pid, status = os.waitpid(-1, 0)
        if pid in running:
            assert status == 0, "a case came to grief by itself"
            with os.fdopen(running.pop(pid)) as pipe:
                result: dict[str, Any] = json.load(pipe)
            return result
    raise AssertionError


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
