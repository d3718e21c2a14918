"""Reading what commands print: its last lines, and on from there while it grows and may be cut.

spool-layout.md, section "logs/".
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from queuectl import kernel
from queuectl.errors import BadJobError, NoSuchJobError, QueuectlError, SpoolError
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
    """Where the line stands that says how much was cut out, and how much that is."""

    head: int
    tail: int
    cut: int


class Output:
    """One file of output, read on from where the last reading ended.

    Args:
        path: of the file; it need not be there yet.
        max_bytes: the size to which its middle may be cut meanwhile, see `cap`.
    """

    def __init__(self, path: str, max_bytes: float | None = None) -> None:
        self._path = path
        self.max_bytes = max_bytes
        self.lost_bytes = 0  # were cut out before they were read
        self._known: _Mark | None = None  # what the last read has seen
        self._patience_s = PATIENCE_S
        self._descriptor = -1

    def start_at_last(self, lines: int) -> None:
        """Pass over all but the last lines of what is there now.

        Raises:
            SpoolError: it is there, and cannot be read; `read` raises it too.
        """
        with self._told():
            if self._opened():
                with self._uncut():
                    at = _start_of_last(self._descriptor, lines)
                    os.lseek(self._descriptor, at, os.SEEK_SET)
                    self._known = self._mark()

    def read(self) -> Iterator[bytes]:
        """Yield what there is, up to the end that the file has meanwhile; nothing if it is gone.

        Raises:
            SpoolError: it is there, and cannot be read.
        """
        while data := self._read_on():
            yield data

    def _read_on(self) -> bytes:
        with self._told():
            if not self._opened():
                return b""
            with self._uncut():
                data = self._go_on_behind_a_cut() or os.read(self._descriptor, CHUNK_BYTES)
                self._known = self._mark()
            return data

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Have what the file system refuses told with what it was about."""
        try:
            yield
        except OSError as error:
            raise SpoolError("read", self._path, error) from error

    @contextlib.contextmanager
    def _uncut(self) -> Iterator[None]:
        """Have nothing cut out meanwhile."""
        if not lock_to_read(self._descriptor, self.max_bytes, self._patience_s):
            self._patience_s = 0.0  # once is enough
        try:
            yield
        finally:
            kernel.unlock(self._descriptor)

    def _go_on_behind_a_cut(self) -> bytes:
        """Find what has not been read in a file whose middle was cut out since.

        Returns the line that says how much of it is missing, if that stands before what was read.
        """
        mark, position = self._mark(), self._position()
        if mark is None or mark == self._known or not self._may_be_cut():
            return b""
        if position <= mark.head:
            self.lost_bytes += mark.cut
            return b""
        # what stands behind the mark stood as much later as is missing before it
        at = position - (mark.head + mark.cut) + mark.tail
        os.lseek(self._descriptor, max(at, mark.tail), os.SEEK_SET)
        missing = max(mark.tail - at, 0)
        self.lost_bytes += missing
        return b"\n" + mark_of(missing) if missing else b""

    def _mark(self) -> _Mark | None:
        """Return the mark that stands where `cap` puts it: it may have been printed, too."""
        if self.max_bytes is None or self.max_bytes < self._size() >= self._position():
            return None  # what is larger was not cut, unless it is shorter than what was read
        half = kept(self.max_bytes) // 2
        begin = max(0, half - LINE_BYTES)
        window = os.pread(self._descriptor, LINE_BYTES + 2 * MARK_BYTES, begin)
        found = MARK.search(window)
        if found is None:
            return None
        head = begin + found.start()
        return _Mark(head, begin + found.end(), int(found[1]))

    def _may_be_cut(self) -> bool:
        """Tell whether it has the size that `cap` leaves: each half may lack most of a line."""
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
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def end_of(path: str, size_bytes: int) -> bytes:
    """Return the last bytes of a log file, at most so many; empty if it cannot be read."""
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
    """Reads the output of one job, run after run, as far as it has come.

    Args:
        first_run: the run to begin with; it is waited for if it has not begun.
        lines: of the first run only so many of the last lines, None for all.
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
        # is called with each output that cannot be read; None: it is raised
        self.missed: Callable[[SpoolError], object] | None = None
        self.lost_bytes = 0  # were cut out before they were read
        self.found: Found | None = None  # as it was at the last reading; None: no state holds it
        self.broken = ""  # why its record could not be read, if that was so at the last reading
        self._spool = spool
        self._streams = streams
        self._lines = lines
        self._number = first_run
        self._outputs: dict[str, Output] = {}
        self._has_looked = False  # for the outputs of this run

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Yield the stream and the bytes of all that came since; `over` once no more will.

        Raises:
            BadJobError: it has ended, and its file is no job's.
            SpoolError: an output cannot be read, and nobody is told of what is `missed`.
        """
        if self.over:
            return
        try:
            # before the output: of a run that has ended, all is there to be read after this
            found = self.found = self._spool.find(self.job_id)
        except NoSuchJobError:
            yield from self._drain()
            self.over, self.found = True, None
            return
        except BadJobError as error:
            # being written, perhaps; if it stays so, a worker sets it aside: that is the end
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
        with contextlib.suppress(QueuectlError):  # what is no setting is none for the pool, too
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
        """Do without an output that cannot be read, also one that came since the last reading.

        Raises:
            SpoolError: nobody is told of it.
        """
        try:
            yield
        except SpoolError as error:
            if self.missed is None:
                raise
            self.missed(error)
            self._outputs.pop(stream).close()

    def files(self) -> list[str]:
        """Return the files that may grow."""
        if self.over or self.found is None:
            return []
        paths = dict(zip(STREAMS, self._spool.log_files(self.job_id, self._number), strict=True))
        return [paths[stream] for stream in self._streams if is_there(paths[stream])]

    def close(self) -> None:
        """Give the descriptors back."""
        for output in self._outputs.values():
            output.close()
        self._outputs.clear()
        self._has_looked = False
