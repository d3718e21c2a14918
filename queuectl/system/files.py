"""Write files that survive: complete, and on disk, before others see them.

Whatever waits for the disk is a generator of `Step`s. The same generator serves a command line,
which blocks at each step, for one job or for several together, and a pool, which waits for the
steps of many jobs while other jobs go on.
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
from queuectl.errors import NotSyncedError, QueuectlError
from queuectl.system import moving

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


_holders: set[tuple[int, int, str]] = set()  # process, thread and directory of each lock


class Step(NamedTuple):
    """A wait until the names in some directories, and the data of a file, are on disk."""

    directories: Sequence[str] = ()
    descriptor: int | None = None

    def run(self) -> None:
        """Block until they are on disk.

        Raises:
            OSError: not all of them are; the descriptor must not be synced again.
        """
        if self.descriptor is not None:
            kernel.sync_data(self.descriptor)
        for path in self.directories:
            sync_directory(path)


T = TypeVar("T")
Steps: TypeAlias = Generator[Step, None, T]


def carry_out(steps: Steps[T]) -> T:
    """Go through steps, blocking at each, and return their result.

    Raises:
        OSError: a step failed, and the generator did not handle it.
    """
    try:
        step = next(steps)
        while True:
            try:
                step.run()
            except OSError as error:  # noqa: PERF203 - the generator may handle it
                step = steps.throw(error)
            else:
                step = steps.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value


def sync_directory(path: str) -> None:
    """Put the names in a directory on disk.

    Each call opens a new descriptor, since a failed fsync must not be repeated on the old one.

    Raises:
        OSError: they are not on disk.
    """
    with to_be_synced(path) as sync:
        sync()


def keep(path: str, done: str) -> None:
    """Put the names in a directory on disk; `done` says in words what was done there.

    Raises:
        NotSyncedError: it is done, but a power cut may undo it.
    """
    try:
        sync_directory(path)
    except OSError as error:
        raise NotSyncedError(done, path, error) from error


@contextlib.contextmanager
def to_be_synced(path: str) -> Iterator[Callable[[], None]]:
    """Open a directory now, and yield a call that syncs it later, when no descriptor may be left.

    Raises:
        OSError: the directory cannot be opened.
    """
    descriptor = open_directory(path)
    try:
        yield partial(kernel.sync, descriptor)
    finally:
        close_directory(descriptor)


def while_locked(directory: str, work: Callable[[], None], waits: Callable[[], object]) -> None:
    """Do `work` while holding the lock of a directory, if its file system has locks.

    `waits` is called once if others hold the lock for longer than a few seconds.

    Raises:
        OSError: the directory cannot be opened or locked, or this thread has it locked already: a
            signal handler that waits for the code which it interrupted would wait for ever.
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
        # Unlock before any call of a Python function: a signal handler might raise in it, and
        # whoever keeps that exception would keep the lock. A close alone does not unlock: a child
        # that was forked meanwhile has the descriptor too.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except OSError:  # the file system has no locks
            pass
        finally:
            try:
                close_directory(descriptor)
            finally:
                _holders.discard(holder)


def open_directory(path: str) -> int:
    """Open a directory, to sync or lock it, and return the descriptor.

    Raises:
        OSError: the directory cannot be opened.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def close_directory(descriptor: int) -> None:
    """Close the descriptor of a directory, ignoring errors."""
    try:  # noqa: SIM105 - it takes three calls more, for each job
        os.close(descriptor)
    except OSError:
        pass  # nothing was written to it, so the error means nothing


class Open(NamedTuple):
    """A file about to be written: its descriptor and size, and if a lease keeps others off."""

    descriptor: int
    size: int = 0
    leased: bool = False


def writing_new(path: str, data: bytes, *, sync: bool, mode: int) -> Steps[None]:
    """Create a file with these bytes, on disk at the end if `sync`, or leave none on failure.

    Raises:
        OSError: the file exists, or a step failed.
    """
    descriptor = made(path, mode)
    try:
        yield from filling(Open(descriptor), data, sync=sync)
    except BaseException:
        moving.unlink_quietly(path)
        raise


def made(path: str, mode: int) -> int:
    """Create a file, open for writing; what `mode` grants to others holds whatever our umask is.

    Raises:
        OSError: the file exists, or cannot be created.
    """
    descriptor = os.open(path, _NEW_FILE, mode)
    share(descriptor, mode)
    return descriptor


def share(descriptor: int, mode: int) -> None:
    """Set a file's mode, whatever our umask was, if that mode grants anything to others.

    A refusal is ignored, since a file system may have its own modes, and the file may be somebody
    else's. Whoever cannot read the file will report that.
    """
    if mode & 0o077:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)


def give_group(path: str, directory: str) -> None:
    """Give a file the group of a directory, which may differ from ours, as it does for root.

    A refusal is ignored, as in `share`. In a container the group may even have no number.
    """
    with contextlib.suppress(OSError):
        os.chown(path, -1, os.stat(directory).st_gid)


def write_new(path: str, data: bytes, *, sync: bool, mode: int = 0o600) -> None:
    """Do what `writing_new` does, blocking at each step."""
    carry_out(writing_new(path, data, sync=sync, mode=mode))


def put_sign(path: str, file: str, *, mode: int) -> None:
    """Create a file that says all by being there, even on a full disk if a name still fits.

    Args:
        path: where the empty file is created.
        file: an existing file that `path` becomes a link to if there is no room for a new one.
        mode: of the empty file.

    Raises:
        FileExistsError: `path` exists already.
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
    """Write the new file `draft`, and call `place` to give it its name; leave none on failure.

    If `sync`, the draft is on disk before that call.

    Raises:
        BaseException: a step or `place` failed with it.
    """
    moving.unlink_quietly(draft)  # left by an earlier try that failed
    yield from writing_new(draft, data, sync=sync, mode=mode)
    try:
        place()
    except BaseException:
        moving.unlink_quietly(draft)
        raise


def replace(path: str, data: bytes, draft: str, *, sync: bool, mode: int = 0o600) -> None:
    """Give a file these bytes atomically, by renaming the new file `draft` over it.

    If `sync`, the bytes are on disk before that. The name is not, see `sync_directory`.

    Raises:
        OSError: a step failed; the file is unchanged, and there is no draft.
    """
    carry_out(placing(draft, data, partial(moving.move, draft, path), sync=sync, mode=mode))


def filling(file: Open, data: bytes, *, sync: bool, beside: Sequence[str] = ()) -> Steps[None]:
    """Overwrite a file from its beginning and close it, leaving nothing of its old content.

    If `sync`, it is on disk at the end, and so are the names in the directories `beside`.

    Raises:
        OSError: a step failed.
    """
    descriptor = file.descriptor
    try:
        written = os.write(descriptor, data)
        while written < len(data):  # a nearly full disk takes a part, then gives ENOSPC
            written += os.write(descriptor, data[written:])
        # not O_TRUNC: at close, ext4 flushes a file that was cut to nothing and written again
        if file.size > len(data):
            os.ftruncate(descriptor, len(data))
        if file.leased:
            kernel.release_lease(descriptor)
        if sync:
            yield Step(beside, descriptor)
    finally:
        # a close that fails means that bytes were not stored, so let it raise
        os.close(descriptor)


def is_program(path: str) -> bool:
    """Tell whether a path is a file that we may execute."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


def from_here(path: str = "") -> str:
    """Return an absolute path, by putting the current directory before a relative one.

    Raises:
        QueuectlError: the current directory was removed.
    """
    if os.path.isabs(path):
        return path
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise QueuectlError("the current directory is gone: cd to one that exists") from None
    return os.path.join(here, path) if path else here


def size(path: str) -> int:
    """Return the size of a file in bytes, 0 if that cannot be found out."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
