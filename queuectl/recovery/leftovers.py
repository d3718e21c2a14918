"""Removing what nobody needs any more: drafts of dead writers, requests to owners that are gone.

spool-layout.md, sections "tmp/" and "workers/".
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from queuectl.system.moving import is_there, unlink_file
from queuectl.system.scratch import LOCK_SUFFIX, owner_of, try_lock
from queuectl.workers import owners

if TYPE_CHECKING:
    from collections.abc import Generator

    from queuectl.spool.spool import Spool


def clear(spool: Spool, me: str, asked: list[tuple[str, str]]) -> None:
    """Remove the drafts of dead writers, and the requests to owners that are gone.

    Args:
        spool: the spool.
        me: our own owner, which is alive whatever its files say.
        asked: the requests that `requests.standing` listed earlier. Each is to an owner that had
            registered by then.

    Raises:
        OSError, SpoolError: the file system refused.
    """
    there = {*_owners(spool), me}
    _clear_tmp(spool, there)
    for name, owner in asked:
        if owner not in there:
            unlink_file(f"{spool.directory('workers')}/{name}")


def abandoned_drafts(spool: Spool) -> list[str]:
    """Return the file names in tmp/ of dead writers that are not registered and hold no job.

    Raises:
        OSError, SpoolError: tmp/, workers/ or processing/ cannot be read.
    """
    with contextlib.closing(_abandoned(spool, _owners(spool))) as abandoned:
        return [name for names in abandoned for name in names]


def _owners(spool: Spool) -> set[str]:
    """Return the owners that are registered or hold a job."""
    return {*owners.known(spool), *(held.owner for held in spool.held())}


def _clear_tmp(spool: Spool, there: set[str]) -> None:
    tmp = spool.directory("tmp")
    with contextlib.closing(_abandoned(spool, there)) as abandoned:
        for names in abandoned:
            # the lock last: drafts without one belong to nobody
            for name in sorted(names, key=lambda name: name.endswith(LOCK_SUFFIX)):
                unlink_file(f"{tmp}/{name}")


def _abandoned(spool: Spool, there: set[str]) -> Generator[list[str], None, None]:
    """Yield the files in tmp/ of each dead writer, holding its lock until the next."""
    tmp = spool.directory("tmp")
    drafts: dict[str, list[str]] = {}
    for name in os.listdir(tmp):
        # other names are left: a program may write there what it will rename into pending/
        if (writer := owner_of(name)) is not None and writer not in there:
            drafts.setdefault(writer, []).append(name)
    for writer, names in drafts.items():
        try:
            lock = try_lock(f"{tmp}/{writer}{LOCK_SUFFIX}")
            alive = lock is None
        except FileNotFoundError:
            # an owner that registers moves its lock to workers/, and still writes drafts here
            lock, alive = None, is_there(owners.path(spool, writer, LOCK_SUFFIX))
        except OSError:
            continue  # not known now; tried again the next time
        if not alive:
            try:
                yield names
            finally:
                if lock is not None:
                    os.close(lock)
