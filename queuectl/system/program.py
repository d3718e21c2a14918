"""How this queuectl is started, for those that start it again."""

from __future__ import annotations

import os
import sys

from queuectl.system.files import is_program

NAME = "queuectl"


def words() -> list[str]:
    """Return the absolute words that start this queuectl, wherever they are said."""
    script = _our_script()
    if script is not None:
        return [script]
    # -m would import what lies in the current directory, which may be anybody's
    # at the end it may be there twice; a checkout, or a zip file, would not be there at all
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    where = f"sys.path[:] = [*filter(None, sys.path), {root!r}]"
    return [sys.executable, "-c", f"import sys; {where}; from queuectl.cli import main; main()"]


def path() -> str | None:
    """Return where the program is, None if this Python runs it in another way."""
    beside = f"{os.path.dirname(sys.executable or '')}/{NAME}"
    return _our_script() or (beside if is_program(beside) else None)


def _our_script() -> str | None:
    """Return the script that was started; after -c and -m there is none, and no directory of it."""
    if os.path.basename(sys.argv[0]) != NAME:
        return None
    script = os.path.abspath(sys.argv[0])
    return script if is_program(script) else None
