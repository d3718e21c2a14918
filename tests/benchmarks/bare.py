"""The bare limits: a program that starts `sh -c true` COUNT times, P at a time, and nothing more.

Run as `python bare.py posix_spawn COUNT P`, so that its cost can be read at its end.
"""

from __future__ import annotations

import os
import subprocess
import sys

SHELL = ["/bin/sh", "-c", "true"]


def posix_spawn(count: int, parallel: int) -> None:
    """Start with os.posix_spawn and wait with os.wait, the least that Python can do."""
    running = 0
    for _ in range(count):
        if running == parallel:
            os.wait()
            running -= 1
        os.posix_spawn("/bin/sh", SHELL, os.environ)
        running += 1
    for _ in range(running):
        os.wait()


def popen(count: int, parallel: int) -> None:
    """Start with subprocess.Popen, as most programs do."""
    running: dict[int, subprocess.Popen[bytes]] = {}
    for _ in range(count):
        if len(running) == parallel:
            _reap(running)
        process = subprocess.Popen(SHELL, stdin=subprocess.DEVNULL, start_new_session=True)
        running[process.pid] = process
    while running:
        _reap(running)


def _reap(running: dict[int, subprocess.Popen[bytes]]) -> None:
    pid, _ = os.wait()
    running.pop(pid).returncode = 0


if __name__ == "__main__":
    {"posix_spawn": posix_spawn, "popen": popen}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
