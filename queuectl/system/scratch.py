"""The name under which a process writes into tmp/, and the lock that tells when it has died.

spool-layout.md, section "tmp/".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re

from queuectl import kernel
from queuectl.system import moving

LOCK_SUFFIX = ".lock"
_DRAFT_SUFFIX = ".json"


def new_owner() -> str:
    """Return a name that no other process has had: host-pid-random."""
    return f"{_host()}-{os.getpid()}-{os.urandom(4).hex()}"


def was_named_here(owner: str) -> bool:
    """Tell whether a machine of this name has given an owner its name."""
    return owner.rsplit("-", 2)[0] == _host()


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", kernel.host())[:40]


def draft_file(directory: str, what: str, owner: str) -> str:
    """Return where in tmp/ an owner writes something: its name says whose it is, see `owner_of`.

    What is no draft of a job begins with ~, which no id has.
    """
    return f"{directory}/{what}@{owner}{_DRAFT_SUFFIX}"


def owner_of(name: str) -> str | None:
    """Return whose `WHAT@OWNER.json` or `OWNER.lock` in tmp/ this is, None if it is not ours."""
    _, at, rest = name.rpartition("@")
    owner, suffix = os.path.splitext(rest)
    ours = suffix == (_DRAFT_SUFFIX if at else LOCK_SUFFIX)
    return owner if ours and is_owner(owner) else None


def is_owner(name: str) -> bool:
    """Tell whether this could be a name that `new_owner` made."""
    return _OWNER.fullmatch(name) is not None


_OWNER = re.compile(r"[A-Za-z0-9.-]*-[0-9]+-[0-9a-f]{8}")  # as `new_owner` makes them


class Scratch:
    """Holds tmp/OWNER.lock while files named ...@OWNER.json may be in tmp/.

    The lock is flock(2), which filelock's FileLock takes too; importing filelock costs 60 ms, more
    than all the rest of `queuectl enqueue`.
    """

    def __init__(self, directory: str) -> None:
        self.owner = new_owner()
        self._path = f"{directory}/{self.owner}{LOCK_SUFFIX}"
        self._descriptor = -1

    def __enter__(self) -> Scratch:
        descriptor = None
        try:
            while descriptor is None:  # whoever clears tmp/ may hold the fresh lock for an instant
                descriptor = try_lock(self._path, create=True)
        except OSError:
            moving.unlink_quietly(self._path)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        # what it guarded is done: a fault here undoes nothing, and the pools clear tmp/
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def try_lock(path: str, *, create: bool = False, shared: bool = False) -> int | None:
    """Return a descriptor that holds the lock file, None while somebody else does.

    `shared` is for those who only look: they do not take each other for the owner.

    Raises:
        FileNotFoundError: there is no such file, and `create` is false.
        OSError: it could not be opened or locked.
    """
    while True:
        descriptor = _open_lock(path, create=create, shared=shared)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:  # of a file system, or a sandbox, without locks
            os.close(descriptor)
            raise OSError(error.errno, f"cannot be locked: {error.strerror}", path) from None
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
        os.close(descriptor)  # cleared between our open and our lock: it guards no name any more


def _open_lock(path: str, *, create: bool, shared: bool) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    if create:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o600)
    if shared:  # the close of a writer wakes all who watch: 30 idle pools took 13% of a core
        return os.open(path, flags | os.O_RDONLY)
    try:
        return os.open(path, flags | os.O_RDWR)  # NFS grants an exclusive lock to writers only
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, flags | os.O_RDONLY)
