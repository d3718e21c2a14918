"""Has one act on a job stand still at each step that others see, while another goes on: a program.

    interleaver.py ACT DIRECTORY STRIDE

It does so with the job in each state before, and beside each of the acts; and does them one after
the other, too. What came of it, one JSON document on standard output, is judged by the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuectl.spool import Spool
from queuectl.states import STATES
from tests.crash import mutations
from tests.crash.acts import ACTS, BEFORE, JOB, REFUSALS, SECOND
from tests.crash.stepper import begin_child, in_child, side_by_side
from tests.crash.steps import Steps
from tests.crash.support import LASTING, make_spool

if TYPE_CHECKING:
    from collections.abc import Sequence

# what others cannot see needs no case of its own
UNSEEN = ("write", "torn write", "close", "fsync", "sync data", "begin sync")
WAITS_S = 0.7  # who takes longer than this is taken to wait for the one that stands still
HANGS_S = 60


def main(name: str, directory: Path, stride: int) -> None:
    """Try the act with each of the others."""
    mutations.apply_named()
    pairs = []
    for state, prepare in BEFORE.items():
        template = make_spool(directory / state, durability="relaxed", max_retries=2)
        in_child(partial(prepare, Spool(template)))
        pairs += [partial(_pair, template, [name, other], stride) for other in ACTS]
    json.dump(side_by_side(pairs), sys.stdout)


def _pair(template: Path, acts: Sequence[str], stride: int) -> dict[str, Any]:
    """Return what comes of two acts one after the other, and at once."""
    name, other = acts
    counted = _fresh(template)
    in_child(partial(_act, name, counted, 0, Steps(counted)))
    steps = json.loads(_told(counted, 0).read_text())["steps"]
    seen = [number for number, step in enumerate(steps, 1) if not step.startswith(UNSEEN)]
    at_once: dict[str, dict[str, Any]] = {}
    for number in seen[::stride]:
        came = _at_once(template, acts, number)
        if came is not None:  # threads take turns: not every run has the same steps
            at_once.setdefault(json.dumps(came), {**came, "at": []})["at"].append(steps[number - 1])
    # the last: an act that goes on, such as a pool's, once the other is done
    orders = [[name], [other], [name, other], [other, name], [name, other, name]]
    return {
        "before": template.name,
        "acts": acts,
        "in_turn": [_in_turn(template, order) for order in orders] if at_once else [],
        "at_once": list(at_once.values()),
    }


def _in_turn(template: Path, acts: Sequence[str]) -> dict[str, Any]:
    path = _fresh(template)
    for number, act in enumerate(acts):
        assert in_child(partial(_act, act, path, number)) == 0, acts
    return _came_of(path, len(acts))


def _at_once(template: Path, acts: Sequence[str], number: int) -> dict[str, Any] | None:
    """Return what comes of it if the first stands still before a step; None if it has fewer."""
    path = _fresh(template)
    steps = Steps(path, number, signal.SIGSTOP)
    standing = begin_child(partial(_act, acts[0], path, 0, steps))
    if not os.WIFSTOPPED(os.waitpid(standing, os.WUNTRACED)[1]):
        return None
    beside = begin_child(partial(_act, acts[1], path, 1))
    until = time.monotonic() + WAITS_S
    while os.waitid(os.P_PID, beside, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            break
        time.sleep(0.001)
    os.kill(standing, signal.SIGCONT)
    statuses = [os.waitpid(pid, 0)[1] for pid in (standing, beside)]
    return {"statuses": statuses, **_came_of(path, 2)}


def _fresh(template: Path) -> Path:
    path = tempfile.mkdtemp(prefix=f"{template.name}-", dir=template.parent)
    return Path(shutil.copytree(template, path, dirs_exist_ok=True))


def _told(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.told-{number}")


def _act(name: str, path: Path, number: int, steps: Steps | None = None) -> None:
    signal.alarm(HANGS_S)
    spool = Spool(path)
    if steps is not None:
        steps.begin()
    said = "done"
    try:
        ACTS[name](spool)
    except REFUSALS:
        said = "refused"
    seen = [] if steps is None else list(map(str, steps.seen))
    _told(path, number).write_text(json.dumps({"said": said, "steps": seen}))


def _came_of(path: Path, acts: int) -> dict[str, Any]:
    """Return what acts said, which jobs there are where, and how often commands ran."""
    told = [_told(path, number) for number in range(acts)]
    diary = path.with_name(f"{path.name}.runs")
    runs = [line.split() for line in diary.read_text().splitlines()] if diary.exists() else []
    came = {
        "said": [json.loads(file.read_text())["said"] if file.exists() else "" for file in told],
        "jobs": sorted(
            _job_text(file) for state in STATES for file in (path / state).glob("*.json")
        ),
        "runs": len(runs) // 2,
        # start and end of one process, each time
        "overlap": any(one != other for one, other in zip(runs[::2], runs[1::2], strict=False)),
        "debris": [
            f"{name}/" for name in ("tmp", "workers") if set(os.listdir(path / name)) - LASTING
        ],
    }
    shutil.rmtree(path)
    return came


def _job_text(file: Path) -> str:
    record = json.loads(file.read_bytes())
    which = SECOND if SECOND in record.get("tags", ()) else JOB
    how = " cancelled" if "cancelled" in (record.get("error_message") or "") else ""
    edited = " edited" if record.get("priority") == 7 else ""
    return f"{which} in {file.parent.name}/{file.stem.partition('@')[0]}{how}{edited}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
