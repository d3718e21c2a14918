"""A program that runs a command line of queuectl as another user.

    as_nobody.py UID WORD...

That user may be unable to read the packages, so everything is imported before the change of user.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import tempfile

from filelock import FileLock

import queuectl
from queuectl.cli import main
from queuectl.cli.groups import COMMANDS


def load_everything() -> None:
    """Import all of queuectl, and what it imports within functions."""
    for module in pkgutil.walk_packages(queuectl.__path__, "queuectl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in (
        "datetime",
        "difflib",
        "heapq",
        "shlex",
        "encodings.ascii",
        "encodings.idna",
        "locale",
        "pwd",
    ):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as directory, FileLock(f"{directory}/lock"):
        pass  # has filelock import what it imports within functions
    assert COMMANDS


if __name__ == "__main__":
    load_everything()
    uid = int(sys.argv.pop(1))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    main()
