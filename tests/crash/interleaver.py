"""A program that lets one act on a job stand still at each step that others see, and runs another.

    interleaver.py ACT DIRECTORY STRIDE [OTHER...]

It does so with the job in each state before, and with each act as the other, or those given. The
result has to be one that the two give one after the other, in some order, with recovery at any
time. It prints one JSON document: how many cases there were, and those that nothing explains.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuectl import Spool
from queuectl.states import STATES
from tests.crash import mutations
from tests.crash.acts import ACTS, BEFORE, HELD, JOB, REFUSALS, SECOND
from tests.crash.stepper import begin_child, in_child, side_by_side
from tests.crash.steps import Steps
from tests.crash.support import LASTING, make_spool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# steps that others cannot see need no case of their own
UNSEEN = ("write", "torn write", "close", "fsync", "sync data", "begin sync")
WAITS_S = 0.7  # an act that takes longer is taken to wait for the one that stands still
HANGS_S = 60
FIRST, OTHER, RECOVERY = range(3)
ORDERS = [
    *((FIRST, OTHER), (OTHER, FIRST), (FIRST,), (OTHER,)),
    # an act that goes on once the other is done, as a pool does
    *((FIRST, OTHER, FIRST), (OTHER, FIRST, OTHER)),
]


@dataclass(frozen=True)
class Came:
    """The result of two acts: what each said, which jobs are where, how often a command ran."""

    said: tuple[str, str]
    jobs: list[str]
    runs: int
    faults: list[str]


def main(name: str, directory: Path, stride: int, others: Iterable[str]) -> None:
    """Try the act beside each of the others, from each state, and print the report."""
    mutations.apply_named()
    pairs = []
    for state, prepare in BEFORE.items():
        template = make_spool(directory / state, durability="relaxed", max_retries=2)
        in_child(partial(prepare, Spool(template)))
        pairs += [partial(_pair, template, [name, other], stride) for other in others]
    json.dump(side_by_side(pairs), sys.stdout)


def _pair(template: Path, acts: Sequence[str], stride: int) -> dict[str, Any]:
    """Try two acts at once, and return how many cases there were, and the unexplained ones."""
    steps = _steps_of(template, acts[FIRST])
    cases = [
        (step, came)
        for number, step in list(steps.items())[::stride]
        if (came := _at_once(template, acts, number)) is not None
    ]
    in_turn = _in_turn(template, acts)
    tried: list[Came] = []
    unexplained = [
        f"{template.name}, {acts} at {step}: {asdict(came)}"
        for step, came in cases
        if not _is_explained(came, acts, tried, in_turn)
    ]
    return {"cases": len(cases), "unexplained": unexplained}


def _steps_of(template: Path, name: str) -> dict[int, str]:
    """Return the steps of an act that others can see, by number."""
    path = _fresh(template)
    in_child(partial(_act, name, path, FIRST, Steps(path)))
    steps = json.loads(_told(path, FIRST).read_text())["steps"]
    return {number: step for number, step in enumerate(steps, 1) if not step.startswith(UNSEEN)}


def _is_explained(
    came: Came, acts: Sequence[str], tried: list[Came], in_turn: Iterator[Came]
) -> bool:
    """Tell whether acts in turn explain a result; orders are tried only as far as needed."""
    if came.faults:
        return False
    if "drop" in acts and sorted(job.split()[0] for job in came.jobs) == sorted([JOB, SECOND]):
        return True  # dropped under the id of a job in hand: neither is lost
    while True:
        is_same = any((one.said, one.jobs) == (came.said, came.jobs) for one in tried)
        if is_same and came.runs <= max(one.runs for one in tried):
            return True
        if (one := next(in_turn, None)) is None:
            return False
        tried.append(one)


def _in_turn(template: Path, acts: Sequence[str]) -> Iterator[Came]:
    """Yield the results of the acts one after the other, for each order."""
    orders: list[tuple[int, ...]] = list(ORDERS)
    if template.name in HELD:
        orders += [
            (*order[:at], RECOVERY, *order[at:]) for order in ORDERS for at in range(len(order))
        ]
    for order in orders:
        path = _fresh(template)
        for role in order:
            assert in_child(partial(_act, [*acts, "recover"][role], path, role)) == 0, acts
        yield _came_of(template, path, ())


def _at_once(template: Path, acts: Sequence[str], number: int) -> Came | None:
    """Return the result if the first act stands still before a step; None if it has fewer steps.

    Threads take turns, so not every run has the same steps.
    """
    path = _fresh(template)
    steps = Steps(path, number, signal.SIGSTOP)
    standing = begin_child(partial(_act, acts[FIRST], path, FIRST, steps))
    if not os.WIFSTOPPED(os.waitpid(standing, os.WUNTRACED)[1]):
        return None
    beside = begin_child(partial(_act, acts[OTHER], path, OTHER))
    until = time.monotonic() + WAITS_S
    while os.waitid(os.P_PID, beside, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            break
        time.sleep(0.001)
    os.kill(standing, signal.SIGCONT)
    return _came_of(template, path, [os.waitpid(pid, 0)[1] for pid in (standing, beside)])


def _fresh(template: Path) -> Path:
    path = tempfile.mkdtemp(prefix=f"{template.name}-", dir=template.parent)
    return Path(shutil.copytree(template, path, dirs_exist_ok=True))


def _told(path: Path, role: int) -> Path:
    return path.with_name(f"{path.name}.told-{role}")


def _act(name: str, path: Path, role: int, steps: Steps | None = None) -> None:
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
    if not _told(path, role).exists():  # of an act that is done twice, the first counts
        _told(path, role).write_text(json.dumps({"said": said, "steps": seen}))


def _came_of(template: Path, path: Path, statuses: Sequence[int]) -> Came:
    """Recover what the dead have left, and return the result of the acts."""
    if template.name in HELD:
        in_child(partial(ACTS["recover"], Spool(path)))
    diary = path.with_name(f"{path.name}.runs")
    runs = diary.read_text().split() if diary.exists() else []
    jobs = [_job_text(file) for state in STATES for file in (path / state).glob("*.json")]
    left = [file for name in ("tmp", "workers") for file in (path / name).iterdir()]
    faults = {
        "one came to grief": any(statuses),
        "it ran twice at once": runs[::2][: len(runs) // 2] != runs[1::2],
        "something is left over": any(file.name not in LASTING for file in left),
    }
    said = (_said(path, FIRST), _said(path, OTHER))
    shutil.rmtree(path)
    return Came(
        said, sorted(jobs), len(runs) // 2, [text for text, is_so in faults.items() if is_so]
    )


def _said(path: Path, role: int) -> str:
    """Return what an act said; one that was not done at all counts as refused."""
    told = _told(path, role)
    return str(json.loads(told.read_text())["said"]) if told.exists() else "refused"


def _job_text(file: Path) -> str:
    record = json.loads(file.read_bytes())
    which = SECOND if SECOND in record.get("tags", ()) else JOB
    how = " cancelled" if "cancelled" in (record.get("error_message") or "") else ""
    edited = " edited" if record.get("priority") == 7 else ""
    return f"{which} in {file.parent.name}/{file.stem.partition('@')[0]}{how}{edited}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or ACTS)
