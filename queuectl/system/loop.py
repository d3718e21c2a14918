"""The event loop of a pool: coroutines, timers, descriptors, and calls from other threads.

asyncio could do this too, but took 50 to 80 us more of CPU a job, and 30 ms to import. In this loop
a coroutine is resumed in the same turn that brings its result, and the kernel is asked again only
once all who were resumed have gone on.
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

_CALLS_A_TURN = 1000  # then descriptors and timers are looked at, however many calls are left
_LONGEST_WAIT_S = 86400.0  # the kernel accepts no more than 24 days
_FEW_TIMERS = 100  # fewer cancelled ones are not worth clearing


class Future(Generic[T]):
    """A result that is still to come; only the first value or error given to it counts."""

    __slots__ = ("_loop", "_value", "done", "error", "waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.done = False
        self._value: T | None = None
        self.error: BaseException | None = None
        self.waiting: list[Callable[[], None]] = []  # called once this is done

    def set(self, value: T) -> None:
        """Set the value, unless there is a result already."""
        if self.done:
            return
        self.done, self._value = True, value
        for resume in self.waiting:
            self._loop.soon(resume)
        self.waiting.clear()  # a waiter may refer to this: a cycle

    def fail(self, error: BaseException) -> None:
        """Set an error, which is raised in whoever waits, unless there is a result already."""
        if not self.done:
            self.error = error
            self.set(None)  # type: ignore[arg-type] # never returned, since there is an error

    def on_done(self, resume: Callable[[], None]) -> None:
        """Call `resume` in the loop once there is a value or an error."""
        if self.done:
            self._loop.soon(resume)
        else:
            self.waiting.append(resume)

    def result(self) -> T:
        """Return the value.

        Raises:
            BaseException: the error that `fail` was given.
        """
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value] # set, because this is done

    async def over(self) -> None:
        """Wait until there is a value or an error, without raising it."""
        told: Future[None] = Future(self._loop)
        self.on_done(lambda: told.set(None))
        await told

    def __await__(self) -> Generator[Future[T], None, T]:
        if not self.done:
            yield self
        return self.result()


class _Running(Future[T]):
    """The result of a coroutine, which it runs from one wait to the next.

    A closure would do too, but would refer to itself: with each job a cycle to be collected.
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
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self.fail(error)
        else:
            awaited.waiting.append(self._go_on)  # not done, or it would not have been yielded


class Timer:
    """A call that is made at a later time, unless it is cancelled."""

    __slots__ = ("_loop", "call")

    def __init__(self, loop: Loop, call: Callable[[], object]) -> None:
        self._loop = loop
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Cancel the call, unless it was made already."""
        if self.call is not None:
            self.call = None
            self._loop.timer_cancelled()


class Event:
    """Something that may happen, and that coroutines can wait for."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: set[Future[bool]] = set()
        self.happened = False

    def set(self) -> None:
        """Resume all who wait, and let later waits return at once."""
        self.happened = True
        for future in self._waiting:
            future.set(True)
        self._waiting.clear()

    def clear(self) -> None:
        """Let later waits block again."""
        self.happened = False

    async def wait(self, timeout_s: float) -> bool:
        """Wait `timeout_s` seconds at most, and tell whether it has happened."""
        if self.happened:
            return True
        future: Future[bool] = Future(self._loop)
        self._waiting.add(future)
        happened = await self._loop.wait_for(future, timeout_s, otherwise=False)
        self._waiting.discard(future)
        return happened


class Loop:
    """Runs coroutines in the thread that made it: the main thread, if it has to handle signals."""

    def __init__(self) -> None:
        self._ready: deque[Callable[[], None]] = deque()
        # schedules a call, after all that were scheduled before
        self.soon: Callable[[Callable[[], None]], None] = self._ready.append
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._cancelled = 0
        self._poller = Poller()
        self._watched: dict[int, Callable[[], None]] = {}
        self.signalled_s: dict[int, float] = {}  # when each handled signal last came
        self._woken = False
        self._wake_reader, self._wake_writer = socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.settimeout(0)
        self.watch(self._wake_reader.fileno(), self._on_wake)
        self._handlers: dict[int, Any] = {}
        self._threads: list[Thread] = []

    # --- calls ------------------------------------------------------------------------------

    def soon_from_thread(self, call: Callable[[], None]) -> None:
        """Do what `soon` does; may be called in any thread."""
        self._ready.append(call)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(BlockingIOError):  # full of signals, so it wakes anyway
                self._wake_writer.send(b"\0")

    def later(self, delay_s: float, call: Callable[[], object]) -> Timer:
        """Make a call after `delay_s` seconds, and return its timer."""
        timer = Timer(self, call)
        heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), timer))
        return timer

    def timer_cancelled(self) -> None:
        """Count a cancelled timer, and clear all of these once they are the majority.

        Jobs cancel all of their timers.
        """
        self._cancelled += 1
        if self._cancelled > _FEW_TIMERS and 2 * self._cancelled > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].call is not None]
            heapify(self._timers)
            self._cancelled = 0

    def watch(self, descriptor: int, readable: Callable[[], None]) -> None:
        """Call `readable` whenever there is something to read from a descriptor."""
        self._watched[descriptor] = readable
        self._poller.register(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor, which must be closed after this."""
        self._poller.unregister(descriptor)
        del self._watched[descriptor]

    def on_signal(self, number: int, call: Callable[[], None]) -> None:
        """Make a call in the loop whenever a signal comes, until `close`."""
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)

        def came(*_: object) -> None:
            self.signalled_s[number] = time.monotonic()
            self.soon(call)

        self._handlers[number] = signal.signal(number, came)

    def in_thread(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` in a thread of its own, and return the future of its result.

        Raises:
            OSError: no thread could be started.
        """
        future: Future[T] = Future(self)

        def run() -> None:
            try:
                value = work()
            except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
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
        """Start a coroutine and return the future of its result.

        It runs up to its first wait before this returns.
        """
        return _Running(self, coroutine)

    async def wait_for(self, future: Future[T], timeout_s: float, *, otherwise: T) -> T:
        """Return the value of a future, and set it to `otherwise` if it has none by the timeout.

        Raises:
            BaseException: the future failed with it.
        """
        if not future.done:
            timer = self.later(timeout_s, lambda: future.set(otherwise))
            try:
                await future
            finally:
                timer.cancel()
        return future.result()

    async def sleep(self, seconds: float) -> None:
        """Wait for some time."""
        future: Future[None] = Future(self)
        self.later(seconds, lambda: future.set(None))
        await future

    async def rest(self) -> None:
        """Wait until all calls that are scheduled now have been made."""
        future: Future[None] = Future(self)
        self.soon(lambda: future.set(None))
        await future

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return its result; others make progress meanwhile.

        All threads are waited for. Other coroutines that have not ended are never resumed.

        Raises:
            BaseException: what the coroutine raised.
        """
        over = self.start(coroutine)
        while not over.done:
            self._turn()
        for thread in self._threads:  # one that gave its result may still wake the loop
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
            if readable is not None:  # an earlier call may have ended this watch
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
        # Cleared after the read, which could else take the byte of the next wake-up. And cleared
        # before the calls, so that whoever added one while this was set is served in this turn.
        self._woken = False

    def close(self) -> None:
        """Restore the signal handlers, and close the descriptors."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._poller.close()
        self._wake_reader.close()
        self._wake_writer.close()
