"""Who may put jobs in: whoever can write to pending/ runs commands as the worker's user.

spool-layout.md, section "Who may do what".
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from queuectl import config
from queuectl.errors import SpoolError, UnsafeSpoolError
from queuectl.files import is_there
from queuectl.layout import DIRECTORIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl.spool import Spool


def check_safe(spool: Spool) -> None:
    """Check that nobody else can put commands into the spool, unless it is shared on purpose.

    Raises:
        UnsafeSpoolError: somebody can; the text says where, and what to do.
        SpoolError: a directory cannot be looked at.
    """
    for path, why in unsafe(spool):
        raise UnsafeSpoolError(
            f"{path} {why}, who could run commands as you: "
            f"chmod go-w {path}, or `queuectl config set shared true` if that is meant"
        )


def unsafe(spool: Spool) -> Iterator[tuple[str, str]]:
    """Yield each path through which others could run commands as us, and why they could.

    Raises:
        SpoolError: a directory cannot be looked at.
    """
    if spool.config.shared:
        return
    for path in (spool.path, *map(spool.directory, DIRECTORIES)):
        yield from _open_to_others(path)
    settings = f"{spool.path}/{config.FILE_NAME}"  # they name the shell that runs every command
    if is_there(settings):
        yield from _open_to_others(settings)


def _open_to_others(path: str) -> Iterator[tuple[str, str]]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise SpoolError("look at", path, error) from error
    if status.st_uid not in (os.geteuid(), 0):
        yield path, f"belongs to user {status.st_uid}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield path, f"can be written to by others (mode {stat.S_IMODE(status.st_mode):o})"
