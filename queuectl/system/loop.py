"""The event loop of a pool: coroutines, timers, descriptors, and calls from other threads.

asyncio does this and much more; it took 50 to 80 us of CPU a job more, and its import 30 ms. Here
whoever waits is resumed in the turn that brings the news, and the kernel is asked again once all of
them have gone on.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count
from socket import socketpair
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from queuectl.kernel import starting_threads
from queuectl.kernel.events import Poller

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

T = TypeVar("T")

_CALLS_A_TURN = 1000  # then descriptors and timers are looked at, however much there is to do
_LONGEST_WAIT_S = 86400.0  # the kernel takes no more than 24 days
_FEW_TIMERS = 100  # too few to be worth clearing of those that were cancelled


class Future(Generic[T]):
    """A value that is still to come; the first that it is given counts."""

    __slots__ = ("_loop", "_value", "done", "error", "waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.done = False
        self._value: T | None = None
        self.error: BaseException | None = None
        self.waiting: list[Callable[[], None]] = []  # is called once this is done

    def set(self, value: T) -> None:
        """Give the value, unless there is one."""
        if self.done:
            return
        self.done, self._value = True, value
        for resume in self.waiting:
            self._loop.soon(resume)
        self.waiting.clear()  # who waits may hold on to this: a cycle

    def fail(self, error: BaseException) -> None:
        """Have whoever waits meet this error instead, unless there is a value."""
        if not self.done:
            self.error = error
            self.set(None)  # type: ignore[arg-type] # it is not asked for: there is an error

    def on_done(self, resume: Callable[[], None]) -> None:
        """Have `resume` called in the loop, once there is a value or an error."""
        if self.done:
            self._loop.soon(resume)
        else:
            self.waiting.append(resume)

    def result(self) -> T:
        """Return the value.

        Raises:
            BaseException: what `fail` was given.
        """
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value] # set, since this is done

    async def over(self) -> None:
        """Wait until there is a value or an error, whichever."""
        told: Future[None] = Future(self._loop)
        self.on_done(lambda: told.set(None))
        await told

    def __await__(self) -> Generator[Future[T], None, T]:
        if not self.done:
            yield self
        return self.result()


class _Running(Future[T]):
    """The result of a coroutine, which it runs from one wait to the next.

    A closure would do, but for the cycle with itself: a garbage to be collected for each job.
    """

    __slots__ = ("_send",)

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__(loop)
        self._send = coroutine.send
        self._go_on()

    def _go_on(self) -> None:
        try:
            awaited: Future[Any] = self._send(None)
        except StopIteration as stop:
            self.set(stop.value)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self.fail(error)
        else:
            awaited.waiting.append(self._go_on)  # it is not done, or would not be awaited


class Timer:
    """A call at a later time, until it is cancelled."""

    __slots__ = ("_loop", "call")

    def __init__(self, loop: Loop, call: Callable[[], object]) -> None:
        self._loop = loop
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Let the call not be made."""
        if self.call is not None:
            self.call = None
            self._loop.timer_cancelled()


class Event:
    """Something that coroutines wait for to have happened."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: set[Future[bool]] = set()
        self.happened = False

    def set(self) -> None:
        """Let all who wait go on, and all who come."""
        self.happened = True
        for future in self._waiting:
            future.set(True)
        self._waiting.clear()

    def clear(self) -> None:
        """Let who comes from here on wait again."""
        self.happened = False

    async def wait(self, timeout_s: float) -> bool:
        """Wait for it, so many seconds at most; tell whether it has happened."""
        if self.happened:
            return True
        future: Future[bool] = Future(self._loop)
        self._waiting.add(future)
        happened = await self._loop.wait_for(future, timeout_s, otherwise=False)
        self._waiting.discard(future)
        return happened


class Loop:
    """Runs coroutines in the thread that made it, which must be the main thread for signals."""

    def __init__(self) -> None:
        self._ready: deque[Callable[[], None]] = deque()
        # has something called once whatever was asked for before has been
        self.soon: Callable[[Callable[[], None]], None] = self._ready.append
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._cancelled = 0
        self._poller = Poller()
        self._watched: dict[int, Callable[[], None]] = {}
        self.signalled_s: dict[int, float] = {}  # when each signal that is heeded came last
        self._woken = False
        self._wake_reader, self._wake_writer = socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.settimeout(0)
        self.watch(self._wake_reader.fileno(), self._on_wake)
        self._handlers: dict[int, Any] = {}
        self._threads: list[Thread] = []

    # --- what is to be done -----------------------------------------------------------------

    def soon_from_thread(self, call: Callable[[], None]) -> None:
        """Do what `soon` does, in any thread."""
        self._ready.append(call)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(BlockingIOError):  # full, of signals: so it is woken
                self._wake_writer.send(b"\0")

    def later(self, delay_s: float, call: Callable[[], object]) -> Timer:
        """Have something called after some time."""
        timer = Timer(self, call)
        heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), timer))
        return timer

    def timer_cancelled(self) -> None:
        """Clear the timers of cancelled ones once these are the most: jobs cancel all of theirs."""
        self._cancelled += 1
        if self._cancelled > _FEW_TIMERS and 2 * self._cancelled > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].call is not None]
            heapify(self._timers)
            self._cancelled = 0

    def watch(self, descriptor: int, readable: Callable[[], None]) -> None:
        """Have `readable` called whenever there is something to read from a descriptor."""
        self._watched[descriptor] = readable
        self._poller.register(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Watch a descriptor no more; it is to be closed after this."""
        self._poller.unregister(descriptor)
        del self._watched[descriptor]

    def on_signal(self, number: int, call: Callable[[], None]) -> None:
        """Have something called when a signal comes, until `close`."""
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)

        def came(*_: object) -> None:
            self.signalled_s[number] = time.monotonic()
            self.soon(call)

        self._handlers[number] = signal.signal(number, came)

    def in_thread(self, work: Callable[[], T]) -> Future[T]:
        """Do something in a thread of its own; return what will hold its result.

        Raises:
            OSError: no thread could be started.
        """
        future: Future[T] = Future(self)

        def run() -> None:
            try:
                value = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                failure = error
                self.soon_from_thread(lambda: future.fail(failure))
            else:
                self.soon_from_thread(lambda: future.set(value))

        thread = Thread(target=run, daemon=True)
        with starting_threads():
            thread.start()
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        return future

    # --- coroutines -------------------------------------------------------------------------

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine up to its first wait, and on from there; return what holds its result."""
        return _Running(self, coroutine)

    async def wait_for(self, future: Future[T], timeout_s: float, *, otherwise: T) -> T:
        """Return the value of a future, which is set to `otherwise` after so many seconds.

        Raises:
            BaseException: what it failed with.
        """
        if not future.done:
            timer = self.later(timeout_s, lambda: future.set(otherwise))
            try:
                await future
            finally:
                timer.cancel()
        return future.result()

    async def sleep(self, seconds: float) -> None:
        """Return after some time."""
        future: Future[None] = Future(self)
        self.later(seconds, lambda: future.set(None))
        await future

    async def rest(self) -> None:
        """Let all go first who can go on now."""
        future: Future[None] = Future(self)
        self.soon(lambda: future.set(None))
        await future

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, and others as far as they come meanwhile; return its result.

        Threads are waited for; of what else has not ended by then nothing is resumed any more.

        Raises:
            BaseException: what the coroutine raised.
        """
        over = self.start(coroutine)
        while not over.done:
            self._turn()
        for thread in self._threads:  # one whose result is known may be about to wake the loop
            thread.join()
        return over.result()

    def _turn(self) -> None:
        ready = self._ready
        self._poll(0.0 if ready else self._wait_s())
        for _ in range(_CALLS_A_TURN):
            if not ready:
                break
            ready.popleft()()

    def _poll(self, timeout_s: float | None) -> None:
        for descriptor, _ in self._poller.poll(timeout_s):
            readable = self._watched.get(descriptor)
            if readable is not None:  # one before it may have ended the watch
                readable()
        timers = self._timers
        if timers and timers[0][0] <= time.monotonic():
            self._ring()

    def _ring(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heappop(self._timers)[2]
            if timer.call is None:
                self._cancelled -= 1
            else:
                call, timer.call = timer.call, None
                call()

    def _wait_s(self) -> float | None:
        if not self._timers:
            return None
        return min(max(0.0, self._timers[0][0] - time.monotonic()), _LONGEST_WAIT_S)

    def _on_wake(self) -> None:
        self._wake_reader.recv(4096)
        # after the read, which else could take the byte of the next to come, and before the calls:
        # whoever has added one and seen the loop woken is served in this turn
        self._woken = False

    def close(self) -> None:
        """Give back the signals and the descriptors."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._poller.close()
        self._wake_reader.close()
        self._wake_writer.close()
