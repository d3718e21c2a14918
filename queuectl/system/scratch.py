"""Name the owner of files in tmp/, and lock a file there that tells when the owner has died.

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
    """Return a name that no other process has had, in the form HOST-PID-RANDOM."""
    return f"{_host()}-{os.getpid()}-{os.urandom(4).hex()}"


def was_named_here(owner: str) -> bool:
    """Tell whether an owner's name begins with the name of this machine."""
    return owner.rsplit("-", 2)[0] == _host()


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", kernel.host())[:40]


def draft_file(directory: str, what: str, owner: str) -> str:
    """Return the path in tmp/ for something that an owner writes.

    The name contains the owner, see `owner_of`. If this is not the draft of a job, `what` begins
    with `~`, which no job id contains.
    """
    return f"{directory}/{what}@{owner}{_DRAFT_SUFFIX}"


def owner_of(name: str) -> str | None:
    """Return the owner in the name `WHAT@OWNER.json` or `OWNER.lock`, None in any other name."""
    _, at, rest = name.rpartition("@")
    owner, suffix = os.path.splitext(rest)
    ours = suffix == (_DRAFT_SUFFIX if at else LOCK_SUFFIX)
    return owner if ours and is_owner(owner) else None


def is_owner(name: str) -> bool:
    """Tell whether `new_owner` could have made this name."""
    return _OWNER.fullmatch(name) is not None


_OWNER = re.compile(r"[A-Za-z0-9.-]*-[0-9]+-[0-9a-f]{8}")  # as `new_owner` makes them


class Scratch:
    """Holds tmp/OWNER.lock while files named ...@OWNER.json may be in tmp/.

    The lock is flock(2), as is that of filelock's FileLock. Importing filelock costs 60 ms, more
    than all the rest of `queuectl enqueue`.
    """

    def __init__(self, directory: str) -> None:
        self.owner = new_owner()
        self._directory = directory
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # what the lock guarded is done: an error here undoes nothing, and pools clear tmp/
        if kind is not None:
            with contextlib.suppress(OSError):
                self._remove_drafts()
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _remove_drafts(self) -> None:
        """Remove what an interrupt has left, which may come as soon as a draft is there."""
        for name in os.listdir(self._directory):
            if name.endswith(_DRAFT_SUFFIX) and owner_of(name) == self.owner:
                moving.unlink_quietly(f"{self._directory}/{name}")


def try_lock(path: str, *, create: bool = False, shared: bool = False) -> int | None:
    """Lock a file and return the descriptor that holds the lock, None if somebody else has it.

    `shared` is for processes that only look, so that none of them takes another for the owner.

    Raises:
        FileNotFoundError: there is no such file, and `create` is false.
        OSError: the file could not be opened or locked.
    """
    while True:
        descriptor = _open_lock(path, create=create, shared=shared)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:  # the file system or the sandbox has no locks
            os.close(descriptor)
            raise OSError(error.errno, f"cannot be locked: {error.strerror}", path) from None
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
        os.close(descriptor)  # removed between our open and our lock: it guards no name any more


def _open_lock(path: str, *, create: bool, shared: bool) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    if create:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o600)
    if shared:  # closing a writable one wakes all who watch: 30 idle pools took 13% of a core
        return os.open(path, flags | os.O_RDONLY)
    try:
        return os.open(path, flags | os.O_RDWR)  # NFS grants an exclusive lock to writers only
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, flags | os.O_RDONLY)
