"""How this queuectl is started, for those that start it again."""

from __future__ import annotations

import os
import sys

NAME = "queuectl"


def words() -> list[str]:
    """Return the absolute words that start this queuectl, wherever they are said."""
    script = path()
    if script is not None:
        return [script]
    # -m would import what lies in the current directory, which may be anybody's
    code = "import sys; del sys.path[0]; from queuectl.cli import main; main()"
    return [sys.executable, "-c", code]


def path() -> str | None:
    """Return where the program is, None if this Python runs it in another way."""
    for beside in (sys.executable, os.path.abspath(sys.argv[0])):
        script = f"{os.path.dirname(beside)}/{NAME}"
        if os.path.isfile(script) and os.access(script, os.X_OK):
            return script
    return None
