"""Files that survive: written whole, and on disk before they are seen.

What waits for the disk is a generator of `Step`s, so that one description serves a command line,
which waits for each step, of one job or of some together, and a pool, which waits for those of many
jobs while others go on.
spool-layout.md, section "Durability".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from threading import get_ident
from typing import NamedTuple, TypeAlias, TypeVar

from queuectl import kernel
from queuectl.errors import QueuectlError
from queuectl.system import moving

MANY = 16  # files: fewer are synced sooner than threads are started
_SYNCING = 16  # threads: more gave nothing on ext4; without fsyncs one does 17,500/s, two 14,000/s
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


_holders: set[tuple[int, int, str]] = set()  # processes and threads that have locked a directory


class Step(NamedTuple):
    """Wait until the names in some directories, and what was written to a file, are on disk."""

    directories: Sequence[str] = ()
    descriptor: int | None = None

    def run(self) -> None:
        """Wait here.

        Raises:
            OSError: they are not all on disk; the descriptor must not be asked again.
        """
        if self.descriptor is not None:
            kernel.sync_data(self.descriptor)
        for path in self.directories:
            sync_directory(path)


T = TypeVar("T")
Steps: TypeAlias = Generator[Step, None, T]


def carry_out(steps: Steps[T]) -> T:
    """Go through steps, waiting for each; return what they return.

    Raises:
        OSError: a step failed, and the steps did not know better.
    """
    try:
        step = next(steps)
        while True:
            try:
                step.run()
            except OSError as error:  # noqa: PERF203 - each step may be answered for
                step = steps.throw(error)
            else:
                step = steps.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value


def sync_directory(path: str) -> None:
    """Put a directory's names on disk.

    Raises:
        OSError: they are not; a new descriptor each time, since a failed fsync is not asked again.
    """
    with to_be_synced(path) as sync:
        sync()


@contextlib.contextmanager
def to_be_synced(path: str) -> Iterator[Callable[[], None]]:
    """Open a directory; yield what puts its names on disk later, when no descriptor may be left.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = open_directory(path)
    try:
        yield partial(kernel.sync, descriptor)
    finally:
        close_directory(descriptor)


def while_locked(directory: str, work: Callable[[], None], waits: Callable[[], object]) -> None:
    """Do something while others that do the same with a directory wait, if it can be locked.

    `waits` is called if we wait for them longer than a moment.

    Raises:
        OSError: it cannot be opened, or this thread has it locked: it was interrupted by a signal,
            and waiting in the handler would have no end.
    """
    holder = (os.getpid(), get_ident(), directory)
    if holder in _holders:
        why = "this thread has it locked, as where a signal handler runs in it"
        raise OSError(errno.EDEADLK, why)
    descriptor = open_directory(directory)
    try:
        _holders.add(holder)
        kernel.lock(descriptor, waits)
        work()
    finally:
        # No call of Python's own before the lock is given back: a signal handler might raise in it,
        # and whoever keeps that exception would keep the lock. Given back, not only closed: a child
        # that was forked meanwhile has the descriptor too.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except OSError:  # where there are no locks
            pass
        finally:
            try:
                close_directory(descriptor)
            finally:
                _holders.discard(holder)


def open_directory(path: str) -> int:
    """Return a descriptor of a directory, to be synced.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def close_directory(descriptor: int) -> None:
    """Give the descriptor of a directory back."""
    try:  # noqa: SIM105 - three calls more, for each job
        os.close(descriptor)
    except OSError:
        pass  # nothing was written to it: its close says nothing


class Open(NamedTuple):
    """A file that is about to be written, its size, and if it is `leased`: others are kept off."""

    descriptor: int
    size: int = 0
    leased: bool = False


def writing_new(path: str, data: bytes, *, sync: bool, mode: int) -> Steps[None]:
    """Create a file with these bytes, on disk at the end if `sync`; leave none on failure.

    Raises:
        OSError: it exists, or any step failed.
    """
    descriptor = made(path, mode)
    try:
        yield from filling(Open(descriptor), data, sync=sync)
    except BaseException:
        moving.unlink_quietly(path)
        raise


def made(path: str, mode: int) -> int:
    """Create a file; if it is for others too, they can read it whatever our umask is.

    Raises:
        OSError: it exists, or could not be made.
    """
    descriptor = os.open(path, _NEW_FILE, mode)
    share(descriptor, mode)
    return descriptor


def share(descriptor: int, mode: int) -> None:
    """Let others have a file as `mode` says, whatever our umask was; nothing if it is ours alone.

    What is refused is not raised, since a file system may have modes of its own, and the file be
    somebody else's: whoever cannot read it says so.
    """
    if mode & 0o077:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)


def give_group(path: str, directory: str) -> None:
    """Let a file be of the group that a directory is of, which need not be ours: root's never is.

    What is refused is not raised, as in `share`.
    """
    with contextlib.suppress(PermissionError):
        os.chown(path, -1, os.stat(directory).st_gid)


def write_new(path: str, data: bytes, *, sync: bool, mode: int = 0o600) -> None:
    """Do what `writing_new` does, waiting here."""
    carry_out(writing_new(path, data, sync=sync, mode=mode))


def put_sign(path: str, file: str, *, mode: int) -> None:
    """Make a name that says all by being there, also on a full disk, where there is room for it.

    Args:
        path: of the sign, an empty file.
        file: is linked to if there is no room for another file.
        mode: of the empty file.

    Raises:
        FileExistsError: it is there already.
        OSError: there is no room for a name either, or the file system refused.
    """
    try:
        write_new(path, b"", sync=False, mode=mode)
    except OSError as error:
        if error.errno not in kernel.NO_ROOM:
            raise
        os.link(file, path)


def placing(
    draft: str, data: bytes, place: Callable[[], None], *, sync: bool, mode: int
) -> Steps[None]:
    """Write the new file `draft`, on disk before `place` gives it its name; leave none on failure.

    Raises:
        BaseException: any step failed, or what `place` raised.
    """
    moving.unlink_quietly(draft)  # of an earlier try that failed
    yield from writing_new(draft, data, sync=sync, mode=mode)
    try:
        place()
    except BaseException:
        moving.unlink_quietly(draft)
        raise


def replace(path: str, data: bytes, draft: str, *, sync: bool, mode: int = 0o600) -> None:
    """Give a file these bytes at one instant, by way of the new file `draft`.

    If `sync`, the bytes are on disk before; the name is not, see `sync_directory`.

    Raises:
        OSError: any step failed; the file is as it was, and there is no draft.
    """
    carry_out(placing(draft, data, partial(moving.move, draft, path), sync=sync, mode=mode))


def filling(file: Open, data: bytes, *, sync: bool, beside: Sequence[str] = ()) -> Steps[None]:
    """Write a file from its beginning and close it; what was there before is gone.

    If `sync`, it is on disk at the end, and so are the names in the directories `beside`.

    Raises:
        OSError: any step failed.
    """
    descriptor = file.descriptor
    try:
        written = os.write(descriptor, data)
        while written < len(data):  # a nearly full disk writes a part, then says ENOSPC
            written += os.write(descriptor, data[written:])
        # not O_TRUNC: ext4 flushes at close what was cut to nothing and written again
        if file.size > len(data):
            os.ftruncate(descriptor, len(data))
        if file.leased:
            kernel.release_lease(descriptor)
        if sync:
            yield Step(beside, descriptor)
    finally:
        # a close that fails means bytes that were not stored: let it be heard
        os.close(descriptor)


def is_program(path: str) -> bool:
    """Tell whether there is a file that may be executed."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


def from_here(path: str = "") -> str:
    """Return a path with the current directory before it, unless it is absolute.

    Raises:
        QueuectlError: that directory was removed.
    """
    if os.path.isabs(path):
        return path
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise QueuectlError("the current directory is gone: cd to one that exists") from None
    return os.path.join(here, path) if path else here


def size(path: str) -> int:
    """Return the bytes in a file, 0 if it cannot be asked for."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def side_by_side(work: Callable[[Sequence[T]], None], items: Sequence[T]) -> None:
    """Do work on slices of `items` in threads: the file system commits what they sync together.

    Raises:
        BaseException: what `work` raised; the other slices are done then, or failed too.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_SYNCING) as pool:
        for _ in pool.map(work, [items[start::_SYNCING] for start in range(_SYNCING)]):
            pass
