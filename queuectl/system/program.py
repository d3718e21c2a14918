"""Find out how to start this queuectl again."""

from __future__ import annotations

import os
import sys

from queuectl.system.files import is_program

NAME = "queuectl"


def words() -> list[str]:
    """Return the command line that starts this queuectl from any directory."""
    script = _our_script()
    if script is not None:
        return [script]
    # Not -m, which would import from the current directory, and that may be anybody's. The root is
    # appended, since a checkout or a zip file is not on sys.path; an installed one is there twice.
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    where = f"sys.path[:] = [*filter(None, sys.path), {root!r}]"
    return [sys.executable, "-c", f"import sys; {where}; from queuectl.cli import main; main()"]


def path() -> str | None:
    """Return the path of the program `queuectl`, or None if this Python has no such program."""
    beside = f"{os.path.dirname(sys.executable or '')}/{NAME}"
    return _our_script() or (beside if is_program(beside) else None)


def _our_script() -> str | None:
    """Return the absolute path of our script if that was started, None after -c and -m."""
    if os.path.basename(sys.argv[0]) != NAME:
        return None
    script = os.path.abspath(sys.argv[0])
    return script if is_program(script) else None
