"""Files that survive: written whole, on disk before they are seen, moved knowingly.

spool-layout.md, section "Durability".
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections import deque
from dataclasses import dataclass, field
from itertools import count

from queuectl import kernel

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def write_new(path: str, data: bytes, *, sync: bool, mode: int = 0o600) -> None:
    """Create a file with these bytes; on disk when this returns, if `sync`. Leaves none on failure.

    Raises:
        OSError: it exists, or any step failed.
    """
    descriptor = os.open(path, _NEW_FILE, mode)
    try:
        try:
            _write_all(descriptor, data)
            if sync:
                os.fsync(descriptor)
        finally:
            # a close that fails means bytes that were not stored: let it be heard
            os.close(descriptor)
    except BaseException:
        _unlink(path)
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):  # a nearly full disk writes a part, then says ENOSPC
        written += os.write(descriptor, data[written:])


class Spares:
    """Bodies that were exchanged for newer ones, kept to be written over instead of deleted.

    A job's body is replaced twice a run. With a new file each time that is two inodes made and two
    deleted: 170 us for the rename on ext4, which flushes a file that replaces another, and up to
    800 us for the creation on one without a journal, which shuns inodes just deleted. With spares
    it is one write into an allocated block and one exchange of names, 25 us.
    """

    def __init__(self, directory: str, owner: str) -> None:
        self._stem = f"{directory}/spare"
        self._tail = f"@{owner}.json"
        self._free: deque[str] = deque()
        self._made = count(1)

    def exchange(self, path: str, data: bytes, *, sync: bool, mode: int) -> str | None:
        """Give `path` a new body at one instant; return the spare that holds the old one.

        Returns None where names cannot be exchanged: nothing was changed then. In a spool that
        syncs, the spare may be given back only once the exchange is on disk: until then a power
        cut would bring the old body's name back.

        Raises:
            FileNotFoundError: `path` is gone.
            OSError: the file system refused; `path` has its old body.
        """
        spare = self._take()
        try:
            _overwrite(spare, data, sync=sync, mode=mode)
            done = kernel.exchange(spare, path)
        except BaseException:
            _unlink(spare)
            raise
        if not done:
            _unlink(spare)
        return spare if done else None

    def give_back(self, spare: str) -> None:
        """Let a spare be written over; one with another name elsewhere is not ours to write to."""
        status = os.lstat(spare)
        plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        if plain and status.st_uid == os.geteuid() and status.st_size <= _SPARE_BYTES:
            self._free.append(spare)
        else:
            _unlink(spare)

    def clear(self) -> None:
        """Delete the spares that are free."""
        while self._free:
            _unlink(self._free.popleft())

    def _take(self) -> str:
        try:
            return self._free.popleft()
        except IndexError:
            return f"{self._stem}-{next(self._made)}{self._tail}"


_SPARE_BYTES = 1 << 16


def _overwrite(path: str, data: bytes, *, sync: bool, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        _write_all(descriptor, data)
        # not O_TRUNC: ext4 flushes at close what was cut to nothing and written again
        os.ftruncate(descriptor, len(data))
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def move(source: str, target: str) -> None:
    """Rename a file that is ours alone.

    Raises:
        OSError: it was not moved.
    """
    try:
        os.rename(source, target)
    except OSError:
        # NFS: a rename whose answer was lost is sent again and finds its own work done
        if os.path.lexists(source) or not os.path.lexists(target):
            raise


def move_contended(source: str, target: str) -> None:
    """Rename a file that others want too, to a name that nobody else uses.

    Raises:
        FileNotFoundError: somebody else was first.
        OSError: it was not moved.
    """
    try:
        os.rename(source, target)
    except OSError:
        if not os.path.lexists(target):
            raise


def publish(source: str, target: str) -> None:
    """Give a file a second name unless that name is taken: rename would replace it silently.

    Raises:
        FileExistsError: the name is taken.
        OSError: it was not published.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        if os.stat(source).st_nlink != 2:  # NFS again: EEXIST may be our own first try
            raise


def sync_directory(path: str) -> None:
    """Put a directory's names on disk.

    Raises:
        OSError: they are not; a new descriptor each time, since a failed fsync is not asked again.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class _Turn:
    """Where one directory's fsyncs stand; every figure counts fsyncs since the start."""

    begun: int = 0
    done: int = 0
    running: bool = False
    errors: int = 0
    errno: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)


class DirectorySync:
    """Lets threads that sync one directory at the same time share the fsync.

    A caller needs an fsync that begins after it called; one that is under way does not count.
    """

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self._lock = threading.Lock()

    def sync(self, path: str) -> None:
        """Return once an fsync of `path` that began after this call has succeeded.

        Raises:
            OSError: it failed, for everyone who was waiting.
        """
        with self._lock:
            turn = self._turns.setdefault(path, _Turn())
        with turn.changed:
            mine, errors = turn.begun + 1, turn.errors
            while turn.running:
                turn.changed.wait()
                if turn.errors != errors:
                    # the kernel reports a lost write once: whoever waited must hear it too
                    raise OSError(turn.errno, os.strerror(turn.errno), path)
                if turn.done >= mine:
                    return
            turn.begun += 1
            turn.running = True
        self._take_turn(path, turn)

    def _take_turn(self, path: str, turn: _Turn) -> None:
        failure: OSError | None = None
        try:
            sync_directory(path)
        except OSError as error:
            failure = error
            raise
        finally:
            with turn.changed:
                turn.running = False
                if failure is None:
                    turn.done = turn.begun
                else:
                    turn.errors += 1
                    turn.errno = failure.errno or 0
                turn.changed.notify_all()
