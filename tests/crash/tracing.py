"""strace: the system calls of a program, and a fault in the n-th of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import environment

if TYPE_CHECKING:
    from collections.abc import Sequence

CHANGING = (
    "write", "fsync", "fdatasync",
    "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat",
    "ftruncate", "flock", "mkdir", "utimensat",
)  # fmt: skip
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$", re.MULTILINE)
# bytecode written at a first import would shift the numbers of the second run
STEADY = environment(PYTHONDONTWRITEBYTECODE="1")


@cache
def can_trace() -> bool:
    """Tell whether there is a strace that may trace."""
    if shutil.which("strace") is None:
        return False
    probe = [*trace(Path(os.devnull), "fsync"), "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Point:
    """The n-th call of one name, and the line that strace wrote for it in the counting run."""

    name: str
    number: int
    line: str

    def __str__(self) -> str:
        return f"{self.name} {self.number}: {self.line[:100]}"


def trace(log: Path, *names: str, fast: bool = True) -> list[str]:
    """Return the words to put before a program to have it traced.

    If `fast`, it stops only at the calls that are traced, and no signal can be injected.
    """
    way = ["--seccomp-bpf"] if fast else []
    names_traced = f"trace={','.join(names)}"
    return ["strace", "-f", *way, "-qq", "-s", "300", "-o", str(log), "-e", names_traced]


def inject(log: Path, point: Point, fault: str, *also_traced: str) -> list[str]:
    """Return the words before a program for a fault (`signal=KILL`, `error=EIO`) at a point."""
    rule = f"inject={point.name}:{fault}:when={point.number}"
    fast = not fault.startswith("signal")
    return [*trace(log, point.name, *also_traced, fast=fast), "-e", rule]


def points(log: Path, below: Path, names: Sequence[str] = CHANGING) -> list[Point]:
    """Return the calls of a traced program, from the first one that names the spool.

    Calls are numbered from the start of each thread, as strace's `when` counts them.
    """
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, int], Point] = {}
    begun = False
    for pid, name, rest in _CALL.findall(log.read_text(errors="replace")):
        seen[pid, name] += 1
        begun = begun or str(below) in rest
        number = seen[pid, name]
        if begun and name in names:
            found.setdefault((name, number), Point(name, number, f"{name}({rest}"))
    return sorted(found.values(), key=lambda point: (point.name, point.number))


def failed_descriptors_asked_again(log: Path) -> list[str]:
    """Return the fsyncs of descriptors on which one had failed, without a close in between."""
    failed: set[str] = set()
    again = []
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"\d+ +(fsync|fdatasync|close)\((\d+)", line)
        if match is None:
            continue
        call, descriptor = match.groups()  # all threads share descriptors
        if call == "close":
            failed.discard(descriptor)
        elif descriptor in failed:
            again.append(line)
        elif "INJECTED" in line and "EINTR" not in line:  # not EINTR: Python itself calls again
            failed.add(descriptor)
    return again


needs_strace = pytest.mark.skipif(not can_trace(), reason="needs strace, and leave to trace")
