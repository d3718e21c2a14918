"""Who can put jobs in: anyone who can write to pending/ runs commands as the worker's user.

spool-layout.md, section "Who may do what".
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from queuectl.errors import SpoolError, UnsafeSpoolError, command_as, for_shell, refused_to
from queuectl.settings import config
from queuectl.spool.filenames import DIRECTORIES
from queuectl.system.moving import is_there
from queuectl.system.users import user_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuectl.spool.layout import Layout
    from queuectl.spool.places import Places


def check_safe(spool: Layout) -> None:
    """Check that nobody else can put commands into the spool, unless it is shared on purpose.

    Raises:
        UnsafeSpoolError: somebody can; the message says where, and what to do.
        SpoolError: a directory cannot be looked at.
    """
    for found in unsafe(spool):
        raise UnsafeSpoolError(
            f"{found.path} {found.why}, who could run commands as you: {found.todo}"
        )


def check_links(spool: Places) -> None:
    """Check that no directory of the spool is a link by which others could redirect us.

    Raises:
        UnsafeSpoolError: one is; the message says whose it is, and what to do.
        SpoolError: a directory cannot be looked at.
    """
    top = _status(spool.path, os.stat)
    us = os.geteuid()
    if top is None or (top.st_uid in (us, 0) and not is_open_to_others(top)):
        return  # nobody else can have put a link there
    # users trust whoever made the spool for them, but root does not
    trusted = (us, 0, top.st_uid) if us != 0 else (0,)
    for path in map(spool.directory, DIRECTORIES):
        link = _status(path, os.lstat)
        if link is not None and stat.S_ISLNK(link.st_mode) and link.st_uid not in trusted:
            raise UnsafeSpoolError(
                f"{path} is a link of user {user_name(link.st_uid)}, who could lead you anywhere:"
                " have it replaced by a directory, or by a link that you or root made"
            )


def _status(path: str, look: Callable[[str], os.stat_result]) -> os.stat_result | None:
    """Return the status of a path; None if nothing is there.

    Raises:
        SpoolError: the file system refuses to tell.
    """
    try:
        return look(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SpoolError("look at", path, error) from error


class Opening(NamedTuple):
    """A path through which others could run commands as us."""

    path: str
    why: str
    remedy: str
    can_be_shared: bool = True

    @property
    def todo(self) -> str:
        """What to do about it."""
        if not self.can_be_shared:
            return self.remedy
        return f"{self.remedy}, or `queuectl config set shared true` if that is meant"


def unsafe(spool: Layout) -> Iterator[Opening]:
    """Yield each path through which others could run commands as us.

    Raises:
        SpoolError: a directory cannot be looked at.
    """
    if spool.config.shared:
        return
    owner = spool.left_to()
    if owner is not None:
        # nothing else counts: root may neither change the spool nor declare it shared
        yield Opening(
            spool.path, f"belongs to user {owner}", command_as(owner), can_be_shared=False
        )
        return
    for path in (spool.path, *map(spool.directory, DIRECTORIES)):
        if is_there(path):
            yield from _open_to_others(path, spool.path)
    settings = f"{spool.path}/{config.FILE_NAME}"  # it names the shell that runs commands
    if is_there(settings):
        yield from _open_to_others(settings, spool.path)


def is_open_to_others(status: os.stat_result) -> bool:
    """Tell whether the group or others can write to a file or directory."""
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _open_to_others(path: str, spool_path: str) -> Iterator[Opening]:
    with refused_to("look at", path):
        status = os.stat(path)
    if status.st_uid not in (os.geteuid(), 0):
        remedy = f"chown {os.geteuid()} {for_shell(path)}"
        yield Opening(path, f"belongs to user {user_name(status.st_uid)}", remedy)
    elif is_open_to_others(status):
        why = f"can be written to by others (mode {stat.S_IMODE(status.st_mode):o})"
        remedy = f"chmod go-w {for_shell(path)}"
        if path == spool_path and os.geteuid() not in (status.st_uid, 0):  # such as a volume
            remedy = f"use a directory in it, such as {for_shell(f'{path}/queue')}"
        yield Opening(path, why, remedy)
