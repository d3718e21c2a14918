"""Each verb is killed at each of its steps: accepted jobs run to their end, nothing is left over.

The steps are counted in a run of the verb itself (steps.py), so a new call is a new case.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash.support import check_output, check_promise, report_of
from tests.crash.verbs_to_kill import VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    TellFaults = Callable[[int], None]

STEPPER = Path(__file__).with_name("stepper.py")
SEVERAL_ENDS = ("completed", "dead")
# over a hundred steps each: the everyday run takes every fifth
LONG = {"work", "recover", "retry many"}


def kill_at_each_step(
    verb: str, directory: Path, stride: int = 1, mutation: str = ""
) -> dict[str, Any]:
    """Run the stepper, and return its report."""
    directory.mkdir(exist_ok=True)
    report: dict[str, Any] = report_of(STEPPER, verb, directory, stride, mutation=mutation)
    return report


def judge(verb: str, report: dict[str, Any]) -> int:
    """Check every case of a report, and return how many there were."""
    assert len(report["steps"]) > 5
    killed = sum(case["victim"] == -9 for case in report["cases"])
    assert killed >= 0.9 * (len(report["cases"]) - 1), "most steps were never come to"
    bad = list(filter(None, (fault_of(verb, case) for case in report["cases"])))
    assert not bad, f"{len(bad)} of {len(report['cases'])} cases:\n" + "\n".join(bad[:10])
    return len(report["cases"])


def fault_of(verb: str, case: dict[str, Any]) -> str:
    """Return what is wrong with a case, or an empty string."""
    try:
        # a pool's threads take turns: some runs have fewer steps than the one that was counted
        assert case["victim"] in (0, -9), "the victim came to grief by itself"
        assert case["pool"] == 0, "the pool that came after did not come to its end"
        set_aside = VERBS[verb].set_aside
        check_promise(Path(case["spool"]), case["accepted"], SEVERAL_ENDS, set_aside)
        check_output(Path(case["spool"]))
        rejected = {file.stem for file in Path(case["spool"], "dead").glob("*.rejected")}
        assert rejected <= set_aside, f"set aside: {rejected}"
        runs = Path(case["spool"] + ".runs")
        told = Counter(runs.read_text().split()[::3]) if runs.exists() else Counter()
        assert max(told.values(), default=0) <= 3, f"run again and again: {told}"
    except AssertionError as error:
        return f"{case['spool']}: {error}"
    return ""


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - LONG))
def test_a_verb_killed_at_any_step_loses_nothing_and_leaves_nothing(
    verb: str, tmp_path: Path, tell_faults: TellFaults
) -> None:
    tell_faults(judge(verb, kill_at_each_step(verb, tmp_path)))


@pytest.mark.parametrize("verb", sorted(LONG))
def test_a_pool_killed_at_every_fifth_step_loses_nothing(
    verb: str, tmp_path: Path, tell_faults: TellFaults
) -> None:
    tell_faults(judge(verb, kill_at_each_step(verb, tmp_path, stride=5)))


@pytest.mark.slow
@pytest.mark.parametrize("verb", sorted(LONG))
def test_a_pool_killed_at_any_step_loses_nothing(
    verb: str, tmp_path: Path, tell_faults: TellFaults
) -> None:
    tell_faults(judge(verb, kill_at_each_step(verb, tmp_path)))


@pytest.mark.parametrize(
    ("mutation", "verb"),
    [
        ("move by copying", "take, rewrite, release to completed"),
        ("publish by copying", "submit"),
        ("leave tmp/ as it is", "submit"),
        ("delete records before output", "delete"),
    ],
)
def test_with_a_guard_taken_out_the_same_check_fails(
    mutation: str, verb: str, tmp_path: Path
) -> None:
    report = kill_at_each_step(verb, tmp_path, mutation=mutation)
    with pytest.raises(AssertionError):
        judge(verb, report)


# --- no call is left out ----------------------------------------------------------------------

CHANGING = {
    "os.rename", "os.link", "os.unlink", "os.mkdir", "os.makedirs", "os.utime", "os.ftruncate",
    "os.write", "os.fsync", "kernel.sync_data", "kernel.exchange",
    "kernel.move_new",
}  # fmt: skip
MOVERS = ("system", "settings", "record", "spool", "workers", "recovery", "jobs", "pool")
# Functions for what another program did. Those cases are tested elsewhere.
NOT_ON_THE_WAY = {"withdraw_stop", "withdraw_cancel", "beat", "_withdraw"}
RARE = {
    "os.ftruncate in filling",  # bodies are padded to whole blocks: only one of several is cut
    "kernel.exchange in _swap",  # the second one, back, after somebody replaced the body
    "os.unlink in _open_spare",  # of a spare that somebody has linked elsewhere, or a large one
    "os.unlink in remove_output",  # of runs that meant later, once the history forgets them
    "os.unlink in resume",  # its first step, and the only one that changes anything
    "os.ftruncate in _cut_middle",  # of output; another test breaks it off at each step
    "os.write in _write",  # into the log
}


@cache
def sites() -> dict[tuple[str, int], str]:
    """Return each call that changes the spool, by its file and line."""
    import queuectl

    found = {}
    package = Path(queuectl.__file__).parent
    for path in (path for name in MOVERS for path in sorted((package / name).glob("*.py"))):
        tree, name = ast.parse(path.read_text()), str(path.relative_to(package))
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            for call in calls_on_the_way(function):
                found[name, call.lineno] = f"{ast.unparse(call.func)} in {function.name}"
    return found


def calls_on_the_way(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls below a node that change the spool, except where only an error leads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and ast.unparse(child.func) in CHANGING:
            yield child
        # a loop writes the rest after a write that a full disk cut short
        if not isinstance(child, (ast.ExceptHandler, ast.While)):
            yield from calls_on_the_way(child)


def test_every_call_that_changes_the_spool_is_a_step_of_some_verb(tmp_path: Path) -> None:
    seen: set[str] = set()
    for number, verb in enumerate(sorted(VERBS)):
        report = kill_at_each_step(verb, tmp_path / str(number), stride=0)
        seen.update(step["site"] for step in report["steps"])
    missed = {
        f"{name}:{line}: {what}"
        for (name, line), what in sites().items()
        if f"{name}:{line}" not in seen and what not in RARE
        if what.rpartition(" ")[2] not in NOT_ON_THE_WAY
    }
    assert not missed
