"""Two that do something to one job at once: what comes of it is what one after the other gives.

One of them stands still before one of its steps while the other does its own (interleaver.py), for
each step, each two, and each state in which the job may be before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash.acts import ACTS, BEFORE, JOB, SECOND
from tests.crash.support import report_of

if TYPE_CHECKING:
    from collections.abc import Callable

    TellFaults = Callable[[int], None]

LONG = ("work", "recover")
INTERLEAVER = Path(__file__).with_name("interleaver.py")


def interleave(act: str, directory: Path, stride: int, mutation: str = "") -> list[dict[str, Any]]:
    """Return the interleaver's report."""
    report: list[dict[str, Any]] = report_of(INTERLEAVER, act, directory, stride, mutation=mutation)
    assert len(report) == len(ACTS) * len(BEFORE)
    return report


def judge(report: list[dict[str, Any]]) -> int:
    """Check everything that came of two acts at once; return how many cases there were."""
    bad = [
        f"{pair['before']}, {pair['acts']}: {fault}: {came}"
        for pair in report
        for came in pair["at_once"]
        if (fault := fault_of(pair, came))
    ]
    assert not bad, "\n".join(bad[:10])
    cases = sum(len(came["at"]) for pair in report for came in pair["at_once"])
    assert cases > 5
    return cases


def fault_of(pair: dict[str, Any], came: dict[str, Any]) -> str:
    """Return what is wrong with what came of two acts, empty if nothing is."""
    if any(came["statuses"]):
        return "one came to grief"
    if came["overlap"]:
        return "it ran twice at once"
    if came["debris"]:
        return "something is left over"
    if came["runs"] > max(order["runs"] for order in pair["in_turn"]):
        return "it ran too often"
    if (came["said"], came["jobs"]) in allowed(pair) or is_kept_beside(pair, came):
        return ""
    return "it is not what comes of one after the other"


def allowed(pair: dict[str, Any]) -> list[tuple[list[str], list[str]]]:
    """Return what two acts may say, and which jobs there may be then."""
    first, second, both, reverse, thrice = pair["in_turn"]
    return [
        ([*first["said"], "refused"], first["jobs"]),
        (["refused", *second["said"]], second["jobs"]),
        (both["said"], both["jobs"]),
        (reverse["said"][::-1], reverse["jobs"]),
        (thrice["said"][:2], thrice["jobs"]),
    ]


def is_kept_beside(pair: dict[str, Any], came: dict[str, Any]) -> bool:
    """Tell whether a file was dropped under the id of a job in hand: both are there then."""
    places = dict(job.split(" in ") for job in came["jobs"])
    return "drop" in pair["acts"] and len(came["jobs"]) == 2 and places.keys() == {JOB, SECOND}


def test_a_retry_and_another_at_once_do_what_one_after_the_other_does(
    tmp_path: Path, tell_faults: TellFaults
) -> None:
    tell_faults(judge(interleave("retry", tmp_path, 9)))


@pytest.mark.slow
@pytest.mark.parametrize("act", sorted(ACTS))
def test_two_at_once_do_what_one_after_the_other_does(
    act: str, tmp_path: Path, tell_faults: TellFaults
) -> None:
    stride = 3 if act in LONG else 1
    tell_faults(judge(interleave(act, tmp_path, stride)))


@pytest.mark.parametrize(
    ("mutation", "act"),
    [("move by copying", "retry"), ("replace what is there", "retry")],
)
def test_with_a_guard_taken_out_the_same_check_fails(
    mutation: str, act: str, tmp_path: Path
) -> None:
    report = interleave(act, tmp_path, 3, mutation)
    with pytest.raises(AssertionError):
        judge(report)
