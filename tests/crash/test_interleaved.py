"""Two acts on one job at the same time give what they give one after the other.

One of them stands still before one of its steps while the other runs (interleaver.py). That is done
for each step, each pair of acts, and each state in which the job may be before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash.acts import ACTS, BEFORE
from tests.crash.support import report_of

if TYPE_CHECKING:
    from collections.abc import Callable

    TellFaults = Callable[[int], None]

# these have many steps: only every fifth is tried
LONG = {"work", "recover", "cancel", "retry", "edit"}
INTERLEAVER = Path(__file__).with_name("interleaver.py")


def interleave(
    act: str, directory: Path, stride: int, *others: str, mutation: str = ""
) -> list[dict[str, Any]]:
    """Run the interleaver, and return its report."""
    words = (act, directory, stride, *others)
    report: list[dict[str, Any]] = report_of(INTERLEAVER, *words, mutation=mutation)
    assert len(report) == len(others or ACTS) * len(BEFORE)
    return report


def judge(report: list[dict[str, Any]]) -> int:
    """Check that no case is unexplained, and return how many there were."""
    unexplained = [text for pair in report for text in pair["unexplained"]]
    assert not unexplained, "\n".join(unexplained[:10])
    cases: int = sum(pair["cases"] for pair in report)
    assert cases > 5
    return cases


def test_a_retry_and_another_at_once_do_what_one_after_the_other_does(
    tmp_path: Path, tell_faults: TellFaults
) -> None:
    tell_faults(judge(interleave("retry", tmp_path, 12, "work", "cancel", "drop")))


@pytest.mark.slow
@pytest.mark.parametrize("act", sorted(ACTS))
def test_two_at_once_do_what_one_after_the_other_does(
    act: str, tmp_path: Path, tell_faults: TellFaults
) -> None:
    stride = 5 if act in LONG else 1
    tell_faults(judge(interleave(act, tmp_path, stride)))


@pytest.mark.parametrize("mutation", ["move by copying", "replace what is there"])
def test_with_a_guard_taken_out_the_same_check_fails(mutation: str, tmp_path: Path) -> None:
    report = interleave("retry", tmp_path, 1, "drop", mutation=mutation)
    with pytest.raises(AssertionError, match="drop"):
        judge(report)
