"""Who may put jobs in: whoever can write to pending/ runs commands as the worker's user.

spool-layout.md, section "Who may do what".
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from queuectl import config
from queuectl.errors import SpoolError, UnsafeSpoolError
from queuectl.spool import DIRECTORIES

if TYPE_CHECKING:
    from queuectl.spool import Spool


def check_safe(spool: Spool) -> None:
    """Check that nobody else can put commands into the spool, unless it is shared on purpose.

    Raises:
        UnsafeSpoolError: somebody can; the text says where, and what to do.
        SpoolError: a directory cannot be looked at.
    """
    if spool.config.shared:
        return
    for path in (spool.path, *map(spool.directory, DIRECTORIES)):
        _check(path)
    settings = f"{spool.path}/{config.FILE_NAME}"  # they name the shell that runs every command
    if os.path.lexists(settings):
        _check(settings)


def _check(path: str) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise SpoolError("look at", path, error) from error
    if status.st_uid not in (os.geteuid(), 0):
        who = f"belongs to user {status.st_uid}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = f"can be written to by others (mode {stat.S_IMODE(status.st_mode):o})"
    else:
        return
    msg = (
        f"{path} {who}, who could run commands as you: "
        f"chmod go-w {path}, or `queuectl config set shared true` if that is meant"
    )
    raise UnsafeSpoolError(msg)
