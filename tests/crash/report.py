"""A program that prints a table of what was broken on purpose, how often, and with what result.

python -m tests.crash.report            runs all fault tests, the long ones too
python -m tests.crash.report FILE.xml   reports on a run that was made (pytest --junit-xml)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

KINDS = {
    "test_killed_at_every_step": "killed at each step of each verb",
    "test_interleaved": "two at once on a job, one stopped at each of its steps",
    "test_killed_from_outside": "killed by the kernel at each call (strace)",
    "test_errors_at_every_step": "EIO, ENOSPC, EDQUOT, ESTALE, EINTR, EMFILE at each call",
    "test_power_cut": "power cut under load, ext4, xfs and btrfs",
    "test_resources": "no room, inodes, descriptors, events, directories, log",
    "test_storm": "storm of kill -9, SIGSTOP, restarts",
    "test_hostile_input": "hostile files dropped",
    "test_process_trees": "commands that do not want to end, forged records",
    "test_time": "clocks that jump, silent hosts",
    "test_who_may": "others who may read, write, or not",
    "test_doctor": "doctor finds it, tells it, mends it",
}
FAULTS = "faults"  # the property in which a test records how many faults it injected


def run(xml: Path) -> None:
    """Run every fault test, two at a time, and write the results to `xml`."""
    words = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]
    here = Path(__file__)
    subprocess.run(
        [*words, f"--junit-xml={xml}", str(here.parent)], cwd=here.parents[2], check=False
    )


def count(xml: Path) -> dict[str, Counter[str]]:
    """Return how many tests and faults there were of each kind, and how the tests ended."""
    found = {kind: Counter[str]() for kind in KINDS}
    for case in ET.parse(xml).getroot().iter("testcase"):
        kind = case.get("classname", "").rpartition(".")[2]
        if kind in found:
            found[kind].update(_told(case))
    return found


def _told(case: ET.Element) -> Counter[str]:
    result = "passed"
    for tag, word in (("skipped", "skipped"), ("failure", "failed"), ("error", "failed")):
        if case.find(tag) is not None:
            result = word
    faults = sum(
        int(item.get("value", "1")) for item in case.iter("property") if item.get("name") == FAULTS
    )
    ran = result != "skipped"
    return Counter({"tests": 1, result: 1, FAULTS: (faults or 1) if ran else 0})


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the table as Markdown."""
    lines = ["| what was broken | times | result |", "| --- | ---: | --- |"]
    for kind, told in counts.items():
        lines.append(f"| {KINDS[kind]} | {told[FAULTS]} | {_result(told)} |")
    return "\n".join(lines)


def _result(told: Counter[str]) -> str:
    words = [f"{told[word]} {word}" for word in ("failed", "skipped") if told[word]]
    return ", ".join(words) or "nothing lost"


def main() -> int:
    """Print the table, and return 1 if anything failed, else 0."""
    with tempfile.TemporaryDirectory() as directory:
        xml = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(directory) / "run.xml"
        if len(sys.argv) == 1:
            run(xml)
        counts = count(xml)
    print(table(counts))
    return int(any(told["failed"] for told in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
