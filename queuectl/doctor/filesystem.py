"""Checks of what the file system under a spool can do; queuectl's guarantees rest on these."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from queuectl import kernel
from queuectl.doctor.finding import ok, problem, warning
from queuectl.errors import (
    QueuectlError,
    SpoolError,
    UnsafeSpoolError,
    WrongUserError,
    command_as,
    for_shell,
)
from queuectl.kernel.processes import check_proc
from queuectl.spool import safety
from queuectl.spool.filenames import DIRECTORIES
from queuectl.system import files, moving
from queuectl.system.room import room_in
from queuectl.system.scratch import LOCK_SUFFIX, Scratch, draft_file, owner_of, try_lock
from queuectl.system.users import group_name
from queuectl.units import duration_text, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuectl.doctor.finding import Finding
    from queuectl.spool.spool import Spool

_FOR_GROUP = stat.S_IRWXG | stat.S_ISGID  # setgid: new files there get the same group
_LITTLE_BYTES = 64 << 20
_FEW_INODES = 1000
_SLOW_SYNC_S = 0.1  # a spinning disk takes 0.02 s
_EVENT_S = 2.0
_CLOCK_S = 2.0
# what does not work while a directory cannot be written to
_WITHOUT = {
    "logs": "what jobs print is lost",
    "tmp": "nothing can be queued nor run",
    "workers": "no worker starts",
}
_ELSEWHERE = "put the spool on a local file system, such as ext4, xfs, btrfs or APFS"
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def examine(spool: Spool) -> Iterator[Finding]:
    """Yield how well the file system does what queuectl asks of it, as tried in tmp/."""
    yield from _permissions(spool)
    missing = [name for name in DIRECTORIES if not os.path.isdir(spool.directory(name))]
    if missing:
        what = f"{', '.join(f'{name}/' for name in missing)} missing: nothing else was looked at"
        yield problem(what, "a worker or `queuectl doctor --fix` makes it again", spool.create)
        return
    yield from _writable(spool)
    yield from _settings(spool)
    yield from _kernel()
    yield from _one_file_system(spool)
    yield from _room(spool)
    try:
        spool.check_trusted()
    except WrongUserError as error:
        what = "the file system was not tried: root writes nothing into another user's spool"
        yield warning(what, command_as(error.owner))
        return
    except UnsafeSpoolError as error:
        yield problem(f"{error}; until then nothing is changed here")
        return
    try:
        with Scratch(spool.directory("tmp")) as scratch:
            yield from _Trial(spool, scratch.owner).run()
    except OSError as error:
        todo = "nothing can be queued nor run until it can be written to"
        yield problem(f"cannot write to {spool.directory('tmp')}: {error.strerror}", todo)


def _permissions(spool: Spool) -> Iterator[Finding]:
    found = False
    try:
        for opening in safety.unsafe(spool):
            found, path = True, opening.path
            close = partial(_close, path)
            mine = os.stat(path).st_uid == os.lstat(path).st_uid == os.geteuid()
            what = f"{path} {opening.why}: a worker refuses to start"
            yield problem(what, opening.todo, close if mine else None)
    except SpoolError as error:  # also for a link whose target is gone
        found = True
        yield problem(f"{error}: a worker refuses to start")
    if spool.config.shared:
        yield from _sharing(spool)
    elif not found:
        yield ok("only its owner can put jobs in")


def _close(path: str) -> None:
    """Let only its owner write to a path."""
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~0o022)
    if safety.is_open_to_others(os.stat(path)):
        why = f"this file system keeps no modes: mount it with umask=077, or {_ELSEWHERE}"
        raise OSError(errno.ENOTSUP, why, path)


def _sharing(spool: Spool) -> Iterator[Finding]:
    """Yield what keeps out users who should share the spool."""
    directories = filter(os.path.isdir, map(spool.directory, DIRECTORIES))
    # the target of a link is not part of the spool
    paths = [spool.path, *(path for path in directories if not os.path.islink(path))]
    seen = {path: os.stat(path) for path in paths}
    sticky = [path for path in paths if seen[path].st_mode & stat.S_ISVTX]
    if sticky:
        what = f"only its owner can move a file out of {', '.join(sticky)}: the sticky bit is set"
        yield warning(what, f"chmod -t {' '.join(map(for_shell, sticky))}")
    top = seen[spool.path]
    closed = [path for path in paths if not _is_shared_like(top, seen[path])]
    if closed and _is_open_to_all(top):
        what = f"shared with all, but closed to some: {', '.join(closed)}"
        yield warning(what, f"chmod o+rwx {' '.join(map(for_shell, closed))}")
    elif closed:
        group = group_name(top.st_gid) if top.st_mode & stat.S_IWGRP else "GROUP"
        all_of_it = for_shell(spool.path)
        recipe = f"chgrp -R {group} {all_of_it} && chmod -R g+rwX {all_of_it}"
        recipe += f" && chmod g+s {all_of_it} {all_of_it}/*/"
        what = f"shared, but not set up for a group: {', '.join(closed)}"
        yield warning(what, recipe)
    if not sticky and not closed:
        yield ok("shared on purpose")


def _is_open_to_all(status: os.stat_result) -> bool:
    return bool(status.st_mode & stat.S_IWOTH)


def _is_shared_like(top: os.stat_result, status: os.stat_result) -> bool:
    """Tell whether all who share the spool, a group or everybody, can work in a directory."""
    if _is_open_to_all(top):
        return _is_open_to_all(status)
    return status.st_gid == top.st_gid and status.st_mode & _FOR_GROUP == _FOR_GROUP


def _writable(spool: Spool) -> Iterator[Finding]:
    for name in DIRECTORIES:
        if not os.access(spool.directory(name), os.W_OK | os.X_OK):
            lost = _WITHOUT.get(name, "no job can be moved there")
            todo = f"{lost} until it can be written to; `ls -ld` shows whose it is"
            yield problem(f"{name}/ cannot be written to by us", todo)


def _kernel() -> Iterator[Finding]:
    try:
        kernel.boot_id()
    except OSError as error:
        what = f"{error.filename} cannot be read: {error.strerror}"
        yield problem(what, "no worker can start: it must be told from one before a reboot")
    try:
        check_proc()
    except QueuectlError as error:
        yield problem(str(error), "no worker starts, and what dead workers held is not recovered")


def _settings(spool: Spool) -> Iterator[Finding]:
    for error in spool.faults:
        yield problem(str(error), "running workers keep their settings; no new one starts")


def _one_file_system(spool: Spool) -> Iterator[Finding]:
    devices = {os.stat(spool.directory(name)).st_dev for name in DIRECTORIES if name != "logs"}
    if len(devices) > 1:
        yield problem("its directories are on several file systems", "nothing moves between them")


def _room(spool: Spool) -> Iterator[Finding]:
    yield _room_in(spool.path, "")
    logs = spool.directory("logs")
    if os.stat(logs).st_dev != os.stat(spool.path).st_dev:
        yield _room_in(logs, " in logs/")


def _room_in(path: str, where: str) -> Finding:
    free = room_in(path)
    room = f"{size_text(int(free.bytes))} free" if free.bytes < inf else "no size limit"
    what = room + (f", {free.inodes} inodes" if free.inodes < inf else "") + where
    if free.lack:
        return problem(
            what, "make room: until then nothing starts, and perhaps no outcome is recorded"
        )
    if free.bytes < _LITTLE_BYTES or free.inodes < _FEW_INODES:
        return warning(what, "make room before it is full")
    return ok(what)


class _Trial:
    """Tries each operation on files of its own in tmp/, and removes them."""

    def __init__(self, spool: Spool, owner: str) -> None:
        self._spool = spool
        self._tmp = spool.directory("tmp")
        self._owner = owner

    def run(self) -> Iterator[Finding]:
        """Yield one finding for each operation."""
        steps: tuple[tuple[str, Callable[[], Finding]], ...] = (
            ("write a file", self._write),
            ("rename a file", self._rename),
            ("link a file", self._link),
            ("lock a file", self._locks),
            ("exchange two names", self._exchange),
            ("sync a directory", self._sync),
            ("watch a directory", self._events),
        )
        for what, step in steps:
            yield self._try(what, step)

    def _try(self, what: str, step: Callable[[], Finding]) -> Finding:
        try:
            return step()
        except OSError as error:
            full = error.errno in kernel.NO_ROOM
            todo = "make room, and look again" if full else _ELSEWHERE
            return problem(f"cannot {what}: {error.strerror}", todo)
        finally:
            self._clear()

    def _path(self, name: str) -> str:
        return draft_file(self._tmp, f"~doctor-{name}", self._owner)

    def _new(self, name: str, data: bytes) -> str:
        files.write_new(self._path(name), data, sync=self._spool.config.sync)
        return self._path(name)

    def _clear(self) -> None:
        for name in os.listdir(self._tmp):
            if name.startswith("~doctor-") and owner_of(name) == self._owner:
                os.unlink(f"{self._tmp}/{name}")

    def _write(self) -> Finding:
        before = time.time()
        written = os.stat(self._new("clock", b"{}\n")).st_mtime
        ahead_s = written - min(max(written, before), time.time())
        if abs(ahead_s) > _CLOCK_S:
            side = "ahead" if ahead_s > 0 else "behind"
            what = f"the file system's clock is {duration_text(abs(ahead_s))} {side}"
            return warning(what, "set both clocks right: only times shown to people are wrong")
        return ok("files can be written, and its clock agrees")

    def _rename(self) -> Finding:
        one, other = self._new("one", b"1"), self._new("other", b"2")
        os.rename(one, other)
        with open(other, "rb") as file:
            kept = file.read() == b"1" and not moving.is_there(one)
        return (
            ok("rename replaces at once")
            if kept
            else problem("rename does not replace at once", _ELSEWHERE)
        )

    def _link(self) -> Finding:
        one, other = self._new("one", b"1"), self._new("other", b"2")
        try:
            moving.publish(one, self._path("linked"))
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return problem(f"hard links cannot be made ({error.strerror}), as on FAT", _ELSEWHERE)
        try:
            os.link(one, other)
        except FileExistsError:
            return ok("links never replace a file")
        return problem("a link replaced a file: ids may be taken twice", _ELSEWHERE)

    def _locks(self) -> Finding:
        # our Scratch holds this lock, so a second one must be refused
        second = try_lock(f"{self._tmp}/{self._owner}{LOCK_SUFFIX}")
        if second is None:
            return ok("locks are kept")
        os.close(second)
        todo = f"living workers would be taken for dead: {_ELSEWHERE}"
        return problem("a lock was given twice", todo)

    def _exchange(self) -> Finding:
        if kernel.exchange(self._new("one", b"1"), self._new("other", b"2")):
            return ok("names can be exchanged")
        return ok("names cannot be exchanged: records are replaced by rename, a bit slower")

    def _sync(self) -> Finding:
        if not self._spool.config.sync:
            todo = "`queuectl config set durability full` if jobs must survive a power cut"
            return warning("durability is relaxed: nothing waits for the disk", todo)
        begun = time.monotonic()
        self._new("sync", b"{}\n")
        files.sync_directory(self._tmp)
        took_s = time.monotonic() - begun
        what = f"putting a job on disk takes {duration_text(took_s)}"
        return warning(what, "a faster disk queues faster") if took_s > _SLOW_SYNC_S else ok(what)

    def _events(self) -> Finding:
        late = f"jobs start within {duration_text(self._spool.config.poll_interval)} instead"
        try:
            from queuectl.system.arrivals import Arrivals
        except ImportError as error:
            return warning(f"no file system events: {error}", late)
        came = threading.Event()
        draft, target = self._new("draft", b"{}\n"), self._path("event")

        def arrived(name: str) -> None:
            if f"{self._tmp}/{name}" == target:
                came.set()

        arrivals = Arrivals({self._tmp: arrived})
        try:
            arrivals.start()
        except OSError as error:
            return warning(f"no file system events: {error.strerror}", late)
        try:
            os.rename(draft, target)
            if came.wait(_EVENT_S):
                return ok("file system events tell of new files")
            return warning("no file system event tells of new files", late)
        finally:
            arrivals.stop()
