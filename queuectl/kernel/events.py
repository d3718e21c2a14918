"""Wait in the kernel for what a pool waits for: readable descriptors, and fsyncs."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import sys
from struct import Struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Poller:
    """Tells which descriptors can be read, by epoll, or by poll where there is no epoll."""

    def __init__(self) -> None:
        self._is_epoll = hasattr(select, "epoll")
        self._poll: Any = select.epoll() if self._is_epoll else select.poll()
        # epoll drops a descriptor by itself when it is closed
        self.unregister: Callable[[int], object] = (
            _nothing if self._is_epoll else self._poll.unregister
        )

    def register(self, descriptor: int) -> None:
        """Include a descriptor in every later `poll`."""
        self._poll.register(descriptor, select.POLLIN)

    def poll(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for descriptors that can be read, and return them; None waits for ever."""
        timeout = timeout_s
        if timeout is not None and not self._is_epoll:
            timeout = math.ceil(timeout * 1000)  # poll() counts milliseconds
        found: list[tuple[int, int]] = self._poll.poll(timeout)
        return found

    def close(self) -> None:
        """Release what the kernel keeps for this poller."""
        if self._is_epoll:
            self._poll.close()


def _nothing(_descriptor: int) -> None:
    pass


class Syncs:
    """A queue of fsyncs that the kernel runs side by side, without threads of ours (Linux AIO).

    Threads that wait for fsyncs would take the interpreter away from the loop at every fsync, which
    cost 500 us of CPU a job. The descriptor `ready` can be read once some fsyncs are over.
    """

    def __init__(self) -> None:
        """Set up the queue.

        Raises:
            OSError: this kernel has no such queues, or none left to give.
        """
        numbers = _CALLS.get(os.uname().machine) if sys.platform == "linux" else None
        if numbers is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        try:
            import ctypes
        except ImportError as error:  # a Python that was built without libffi
            raise OSError(errno.ENOSYS, str(error)) from error
        setup, self._destroy, self._getevents, self._submit = map(ctypes.c_long, numbers)
        # PyDLL keeps the interpreter's lock, since none of these calls waits
        self._syscall: Any = ctypes.PyDLL(None, use_errno=True).syscall
        self._long, self._error_number = ctypes.c_long, ctypes.get_errno
        self._none, self._most = ctypes.c_long(0), ctypes.c_long(_MOST)
        self._context = ctypes.c_ulong(0)
        self.ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if self._syscall(setup, ctypes.c_long(_MOST), ctypes.byref(self._context)) < 0:
            code = self._error_number()
            os.close(self.ready)
            raise OSError(code, os.strerror(code))
        self._events = ctypes.create_string_buffer(_EVENT.size * _MOST)
        self._blocks = ctypes.create_string_buffer(_BLOCK.size * _MOST)
        first = ctypes.addressof(self._blocks)
        places = range(first, first + _BLOCK.size * _MOST, _BLOCK.size)
        self._pointers = (ctypes.c_void_p * _MOST)(*places)
        self._at_once = (ctypes.c_long * 2)(0, 0)

    def begin(self, asked: Sequence[tuple[int, bool]]) -> int:
        """Begin an fsync of each descriptor, or an fdatasync if it is paired with True.

        Returns how many were begun, counted from the first. The others must be synced in another
        way. Each descriptor must stay open until `over` has returned it.
        """
        for number, (fd, data_only) in enumerate(asked[:_MOST]):
            code = 3 if data_only else 2
            place = _BLOCK.size * number
            _BLOCK.pack_into(self._blocks, place, fd, 0, 0, code, 0, fd, 0, 0, 0, 0, 1, self.ready)
        many = self._long(min(len(asked), _MOST))
        begun: int = self._syscall(self._submit, self._context, many, self._pointers)
        return max(begun, 0)

    def over(self) -> list[tuple[int, int]]:
        """Return the descriptors whose fsyncs are over by now, each with its error number or 0."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.ready, 8)
        told: list[tuple[int, int]] = []
        found = _MOST
        while found == _MOST:  # if fewer, these were all: the next to end makes `ready` readable
            found = self._take()
            for number in range(found):
                descriptor, _, result, _ = _EVENT.unpack_from(self._events, _EVENT.size * number)
                told.append((descriptor, -result))
        return told

    def _take(self) -> int:
        found: int = self._syscall(
            self._getevents, self._context, self._none, self._most, self._events, self._at_once
        )
        if found < 0:
            code = self._error_number()
            if code == errno.EINTR:  # none was over, and a signal is pending
                return 0
            raise OSError(code, os.strerror(code))
        return found

    def close(self) -> None:
        """Release the queue, once the fsyncs that were begun are over."""
        self._syscall(self._destroy, self._context)
        os.close(self.ready)


_MOST = 128  # fsyncs under way at a time
_CALLS = {  # numbers of io_setup, io_destroy, io_getevents, io_submit, which libc does not wrap
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
    "riscv64": (0, 1, 4, 2),
}
# struct iocb: data, key, flags, opcode, priority, descriptor, buffer, bytes, offset, reserved,
# flags, and descriptor of the eventfd. struct io_event: data, iocb, result, second result.
_BLOCK, _EVENT = Struct("<QIIHhIQQqQII"), Struct("<QQqq")
