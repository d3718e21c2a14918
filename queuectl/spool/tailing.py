"""Reading what commands print: the last lines, and what follows while the file grows or is cut.

spool-layout.md, section "logs/".
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from queuectl import kernel
from queuectl.errors import BadJobError, NoSuchJobError, QueuectlError, SpoolError, refused_to
from queuectl.record.reading import READ_FLAGS, special_text
from queuectl.spool.cutting import (
    CHUNK_BYTES,
    LINE_BYTES,
    MARK,
    MARK_BYTES,
    PATIENCE_S,
    kept,
    lock_to_read,
    mark_of,
)
from queuectl.spool.filenames import STREAMS
from queuectl.spool.joblogs import current_run, log_file
from queuectl.states import FINISHED
from queuectl.system.moving import is_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from queuectl.record.job import Job
    from queuectl.spool.layout import Found, Layout


class _Mark(NamedTuple):
    """The line that says how much was cut out: where it begins and ends, and the bytes cut."""

    head: int
    tail: int
    cut: int


class Output:
    """A file of output; each read goes on where the last one ended.

    Args:
        path: the path of the file, which need not exist yet.
        max_bytes: the size to which the file may be cut meanwhile, see `cap`; None: it is not cut.
    """

    def __init__(self, path: str, max_bytes: float | None = None) -> None:
        self._path = path
        self.max_bytes = max_bytes
        self.lost_bytes = 0  # cut out before they were read
        self._known: _Mark | None = None  # the mark that the last read saw
        self._patience_s = PATIENCE_S
        self._descriptor = -1

    def start_at_last(self, lines: int) -> None:
        """Skip all but the last `lines` lines of what is there now.

        Raises:
            SpoolError: the file is there but cannot be read; `read` raises it too.
        """
        with refused_to("read", self._path):
            if self._opened():
                with self._uncut():
                    at = _start_of_last(self._descriptor, lines)
                    os.lseek(self._descriptor, at, os.SEEK_SET)
                    self._known = self._mark()

    def read(self) -> Iterator[bytes]:
        """Yield the unread bytes, up to the current end of the file; nothing if there is no file.

        Raises:
            SpoolError: the file is there but cannot be read.
        """
        while data := self._read_on():
            yield data

    def _read_on(self) -> bytes:
        with refused_to("read", self._path):
            if not self._opened():
                return b""
            with self._uncut():
                data = self._go_on_behind_a_cut() or os.read(self._descriptor, CHUNK_BYTES)
                self._known = self._mark()
            return data

    @contextlib.contextmanager
    def _uncut(self) -> Iterator[None]:
        """Keep anything from being cut out meanwhile, if the lock is to be had."""
        if not lock_to_read(self._descriptor, self.max_bytes, self._patience_s):
            self._patience_s = 0.0  # to have waited once is enough
        try:
            yield
        finally:
            kernel.unlock(self._descriptor)

    def _go_on_behind_a_cut(self) -> bytes:
        """Go to the first unread byte of a file if its middle was cut out since the last read.

        Returns a line that says how many unread bytes are missing; empty if none are, or if the
        reading has yet to come to the file's own line.
        """
        mark, position = self._mark(), self._position()
        if mark is None or mark == self._known or not self._may_be_cut():
            return b""
        if position <= mark.head:
            self.lost_bytes += mark.cut
            return b""
        # before the cut, what now follows at mark.tail stood at mark.head + mark.cut
        at = position - (mark.head + mark.cut) + mark.tail
        os.lseek(self._descriptor, max(at, mark.tail), os.SEEK_SET)
        missing = max(mark.tail - at, 0)
        self.lost_bytes += missing
        return b"\n" + mark_of(missing) if missing else b""

    def _mark(self) -> _Mark | None:
        """Return the mark if one is where `cap` puts it; elsewhere it may have been printed."""
        if self.max_bytes is None or self.max_bytes < self._size() >= self._position():
            return None  # a larger file was not cut, unless it is shorter than what was read
        half = kept(self.max_bytes) // 2
        begin = max(0, half - LINE_BYTES)
        window = os.pread(self._descriptor, LINE_BYTES + 2 * MARK_BYTES, begin)
        found = MARK.search(window)
        if found is None:
            return None
        head = begin + found.start()
        return _Mark(head, begin + found.end(), int(found[1]))

    def _may_be_cut(self) -> bool:
        """Tell whether a cut leaves files as large as this; each half may lack most of a line."""
        return self.max_bytes is None or self._size() >= kept(self.max_bytes) - 2 * LINE_BYTES

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _position(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def _opened(self) -> bool:
        if self._descriptor < 0:
            try:
                descriptor = os.open(self._path, READ_FLAGS)
            except FileNotFoundError:
                return False
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                os.close(descriptor)
                raise OSError(errno.EINVAL, special_text(status))
            self._descriptor = descriptor
        return True

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def end_of(path: str, size_bytes: int) -> bytes:
    """Return the last `size_bytes` bytes of a log file, or fewer; empty if it cannot be read."""
    try:
        descriptor = os.open(path, READ_FLAGS)
    except OSError:
        return b""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b""
        return os.pread(descriptor, size_bytes, max(0, status.st_size - size_bytes))
    finally:
        os.close(descriptor)


def _start_of_last(descriptor: int, lines: int) -> int:
    """Return the offset at which the last `lines` lines of a file begin."""
    end = position = os.fstat(descriptor).st_size
    if lines == 0:
        return end
    while position > 0:
        begin = max(0, position - CHUNK_BYTES)
        data = os.pread(descriptor, position - begin, begin)
        at = len(data) - (position == end)  # a newline there ends the last line
        while (at := data.rfind(b"\n", 0, at)) >= 0:
            lines -= 1
            if lines == 0:
                return begin + at + 1
        position = begin
    return 0


class Follower:
    """A reader of one job's output, run after run, as it is written.

    Args:
        first_run: the run to begin with; it is waited for if it has not begun.
        lines: how many of the last lines of the first run to read; None: all.
    """

    def __init__(
        self,
        spool: Layout,
        job_id: str,
        streams: Sequence[str] = STREAMS,
        *,
        first_run: int,
        lines: int | None = None,
    ) -> None:
        self.job_id = job_id
        self.first_run = first_run
        self.over = False
        # called with the error of each output that cannot be read; None: the error is raised
        self.missed: Callable[[SpoolError], object] | None = None
        self.lost_bytes = 0  # cut out before they were read
        self.found: Found | None = None  # the job at the last reading; None: no state has it
        self.broken = ""  # why its record could not be read at the last reading, if so
        self._spool = spool
        self._streams = streams
        self._lines = lines
        self._number = first_run
        self._outputs: dict[str, Output] = {}
        self._has_looked = False  # whether `_outputs` is that of this run

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Yield all new output, each piece with its stream; set `over` once no more will come.

        Raises:
            BadJobError: the job has ended, and its file is no job's.
            SpoolError: an output cannot be read and `missed` is None, or the job cannot be found
                because the file system refused.
        """
        if self.over:
            return
        try:
            # before reading the output: if the run has ended by now, all its output is there
            found = self.found = self._spool.find(self.job_id)
        except NoSuchJobError:
            yield from self._drain()
            self.over, self.found = True, None
            return
        except BadJobError as error:
            # perhaps being written; if it stays so, a worker sets it aside, and that is the end
            if self._spool.found_in(self.job_id, FINISHED) is not None:
                raise
            self.broken = str(error)
            yield from self._drain()
            return
        self.broken = ""
        while self._number <= found.job.run_number:
            yield from self._run(found.job)
            self.close()
            self._number += 1
        if current_run(found) == self._number:
            yield from self._run(found.job)
        self.over = found.state in FINISHED

    def _run(self, job: Job) -> Iterator[tuple[str, bytes]]:
        if not self._has_looked:
            self._has_looked = True
            for stream in self._streams:
                path = log_file(self._spool, job, self._number, stream)
                self._outputs[stream] = Output(path, self._spool.config.log_max_size)
            self._pass_over()
        yield from self._drain()

    def _pass_over(self) -> None:
        if self._lines is not None:
            for stream, output in tuple(self._outputs.items()):
                with self._missing(stream):
                    output.start_at_last(self._lines)
            self._lines = None

    def _drain(self) -> Iterator[tuple[str, bytes]]:
        with contextlib.suppress(QueuectlError):  # a bad setting is ignored by the pool too
            self._spool.follow_config()
        for stream, output in tuple(self._outputs.items()):
            output.max_bytes = self._spool.config.log_max_size
            with self._missing(stream):
                for data in output.read():
                    yield stream, data
                self.lost_bytes += output.lost_bytes
                output.lost_bytes = 0

    @contextlib.contextmanager
    def _missing(self, stream: str) -> Iterator[None]:
        """Report an output that cannot be read to `missed`, and read it no more in this run.

        Raises:
            SpoolError: the output cannot be read, and `missed` is None.
        """
        try:
            yield
        except SpoolError as error:
            if self.missed is None:
                raise
            self.missed(error)
            self._outputs.pop(stream).close()

    def files(self) -> list[str]:
        """Return the paths of the output files that may still grow."""
        if self.over or self.found is None:
            return []
        paths = dict(zip(STREAMS, self._spool.log_files(self.job_id, self._number), strict=True))
        return [paths[stream] for stream in self._streams if is_there(paths[stream])]

    def close(self) -> None:
        """Close the files."""
        for output in self._outputs.values():
            output.close()
        self._outputs.clear()
        self._has_looked = False
