"""The event loop: nothing is lost between threads, timers, signals and coroutines."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from queuectl.kernel import processes
from queuectl.kernel.exits import on_exit
from queuectl.system.loop import Event, Future, Loop
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer


@pytest.fixture(params=["epoll", "poll"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    if request.param == "poll":
        monkeypatch.delattr(select, "epoll", raising=False)
    elif not hasattr(select, "epoll"):
        pytest.skip("this kernel has no epoll")
    loop = Loop()
    yield loop
    loop.close()


def test_timers_ring_in_their_order_and_not_once_cancelled(loop: Loop) -> None:
    rung: list[str] = []
    loop.later(0.03, lambda: rung.append("late"))
    loop.later(0.01, lambda: rung.append("early"))
    loop.later(0.02, lambda: rung.append("cancelled")).cancel()
    loop.run(loop.sleep(0.04))
    assert rung == ["early", "late"]


def test_a_timer_among_a_thousand_cancelled_ones_still_rings(loop: Loop) -> None:
    rung: list[int] = []
    for number in range(1000):
        timer = loop.later(0.001 + number / 1e6, lambda number=number: rung.append(number))  # type: ignore[misc]
        if number % 100:
            timer.cancel()
    loop.run(loop.sleep(0.02))
    assert rung == list(range(0, 1000, 100))


def test_cancelled_timers_are_not_kept_until_they_would_ring(loop: Loop) -> None:
    for _ in range(1000):
        loop.later(3600, loop.close).cancel()
    assert len(loop._timers) < 500


def test_a_timer_may_cancel_another_that_is_due_as_well(loop: Loop) -> None:
    rung: list[str] = []
    second = loop.later(0.01, lambda: rung.append("second"))

    def ring_first() -> None:
        time.sleep(0.01)
        second.cancel()

    loop.later(0.005, ring_first)
    loop.run(loop.sleep(0.03))
    assert rung == []


def test_the_first_value_of_a_future_counts(loop: Loop) -> None:
    future: Future[int] = Future(loop)
    future.set(1)
    future.set(2)
    future.fail(ValueError("late"))
    assert future.result() == 1


def test_an_error_meets_whoever_waits(loop: Loop) -> None:
    future: Future[int] = Future(loop)
    loop.soon(lambda: future.fail(ValueError("this")))

    async def wait() -> None:
        await future

    with pytest.raises(ValueError, match="this"):
        loop.run(wait())


def test_an_event_wakes_all_who_wait_and_is_passed_by_who_comes_later(loop: Loop) -> None:
    event = Event(loop)
    told: list[bool] = []

    async def wait() -> None:
        told.append(await event.wait(5))

    async def main() -> None:
        over = [loop.start(wait()) for _ in range(3)]
        event.set()
        for waiter in over:
            await waiter
        await wait()

    loop.run(main())
    assert told == [True] * 4


def test_an_event_that_comes_with_the_end_of_the_wait_harms_nobody(loop: Loop) -> None:
    event = Event(loop)

    async def main() -> bool:
        # the timer rings first, and the event is set before the coroutine goes on
        waiting = loop.start(event.wait(0.2))
        loop.later(0.2, event.set)
        loop.later(0.05, lambda: time.sleep(0.4))
        happened = await waiting
        event.clear()
        return happened or await event.wait(0.001)

    assert loop.run(main()) is False


def test_calls_from_many_threads_all_come_in_though_the_loop_sleeps(loop: Loop) -> None:
    came = 0

    def come() -> None:
        nonlocal came
        came += 1

    def call() -> None:
        for number in range(500):
            loop.soon_from_thread(come)
            if number % 50 == 0:
                time.sleep(0.001)  # let the loop fall asleep in between

    async def main() -> None:
        threads = [loop.in_thread(call) for _ in range(8)]
        for thread in threads:
            await thread
        await loop.rest()

    loop.run(main())
    assert came == 4000


def test_a_call_from_a_thread_wakes_a_loop_that_waits_for_nothing_else(loop: Loop) -> None:
    future: Future[str] = Future(loop)

    async def main() -> str:
        return await future

    threading.Timer(0.02, lambda: loop.soon_from_thread(lambda: future.set("woken"))).start()
    assert loop.run(main()) == "woken"


def test_what_a_thread_raises_is_raised_where_it_is_waited_for(loop: Loop) -> None:
    def work() -> None:
        raise KeyError("there")

    async def main() -> None:
        await loop.in_thread(work)

    with pytest.raises(KeyError, match="there"):
        loop.run(main())


def test_threads_that_are_over_are_not_kept(loop: Loop) -> None:
    async def main() -> None:
        for _ in range(100):
            await loop.in_thread(lambda: None)

    loop.run(main())
    assert len(loop._threads) < 50


class SlowToWake(socket.socket):
    """One end of a socket pair; a thread that writes is held up just before it wakes the reader."""

    def send(self, data: Buffer, flags: int = 0) -> int:
        time.sleep(0.05)
        return super().send(data, flags)


def test_a_thread_that_has_told_its_result_is_over_before_the_loop_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop waits for the thread, which may wake it only after the result is there."""
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    ends = [SlowToWake(fileno=end.detach()) for end in socket.socketpair()]
    monkeypatch.setattr("queuectl.system.loop.socketpair", lambda: ends)
    before = threading.active_count()
    loop = Loop()

    async def main() -> None:
        done = loop.in_thread(lambda: None)
        while not done.done:
            await loop.rest()

    loop.run(main())
    loop.close()
    wait_until(lambda: threading.active_count() <= before)
    assert failures == []


def test_over_waits_and_raises_nothing(loop: Loop) -> None:
    def work() -> None:
        raise KeyError("there")

    async def main() -> BaseException | None:
        done = loop.in_thread(work)
        await done.over()
        return done.error

    assert isinstance(loop.run(main()), KeyError)


def test_a_signal_wakes_a_sleeping_loop_and_its_handler_goes_with_the_loop() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    loop = Loop()
    came: Future[str] = Future(loop)
    loop.on_signal(signal.SIGUSR1, lambda: came.set("came"))
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()

    async def main() -> str:
        return await came

    assert loop.run(main()) == "came"
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1  # the number may soon be that of another file


def test_a_descriptor_is_told_of_until_it_is_watched_no_more(loop: Loop) -> None:
    reader, writer = os.pipe()
    read: list[bytes] = []

    def readable() -> None:
        read.append(os.read(reader, 1))
        if len(read) == 2:
            loop.unwatch(reader)

    async def until_both_are_read() -> None:
        while len(read) < 2:
            await loop.rest()
        await loop.sleep(0.02)

    loop.watch(reader, readable)
    os.write(writer, b"abc")
    loop.run(until_both_are_read())
    assert read == [b"a", b"b"]
    os.close(reader)
    os.close(writer)
    assert loop._poller.poll(0) == []  # poll() would report a closed descriptor for ever


def test_who_rests_lets_the_others_go_first(loop: Loop) -> None:
    order: list[str] = []

    async def rester() -> None:
        order.append("one")
        await loop.rest()
        order.append("three")

    async def main() -> None:
        over = loop.start(rester())
        loop.soon(lambda: order.append("two"))
        await over

    loop.run(main())
    assert order == ["one", "two", "three"]


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_the_end_of_a_child_is_told_once_and_the_child_left_to_be_reaped(
    has_pidfd: bool, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_pidfd and not processes.has_pidfd():
        pytest.skip("this kernel has no pidfd")
    monkeypatch.setattr("queuectl.kernel.exits.has_pidfd", lambda: has_pidfd)
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {})
    told: list[int] = []

    async def main() -> None:
        over: Future[None] = Future(loop)

        def ended() -> None:
            told.append(child)
            over.set(None)

        on_exit(loop, child, ended)
        await over
        await loop.sleep(0.02)

    loop.run(main())
    assert told == [child]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def no_descriptor_left(loop: Loop, child: int, ended: Callable[[], None]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # open descriptors stay open
    try:
        on_exit(loop, child, ended)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def no_watch_left(loop: Loop, child: int, ended: Callable[[], None]) -> None:
    def refuse(_descriptor: int, _readable: Callable[[], None]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "watch", refuse)
        on_exit(loop, child, ended)


@pytest.mark.parametrize("ask", [no_descriptor_left, no_watch_left])
def test_the_end_of_a_child_is_told_also_where_the_kernel_has_no_more_to_give(
    ask: Callable[[Loop, int, Callable[[], None]], None], loop: Loop
) -> None:
    processes.has_pidfd()  # its answer is kept: ask while there are descriptors
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {})
    told: Future[bool] = Future(loop)
    opened = os.listdir("/dev/fd")

    async def main() -> bool:
        ask(loop, child, lambda: told.set(True))
        return await loop.wait_for(told, 10, otherwise=False)

    assert loop.run(main())
    assert os.listdir("/dev/fd") == opened
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_call_from_a_thread_is_taken_though_signals_have_filled_the_pipe(loop: Loop) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            loop._wake_writer.send(b"\0" * 4096)
    called: list[str] = []
    loop.soon_from_thread(lambda: called.append("x"))
    loop.run(loop.rest())
    assert called == ["x"]


def test_a_timer_in_a_month_is_waited_for_like_any_other(loop: Loop) -> None:
    future: Future[str] = Future(loop)

    async def main() -> str:
        return await future

    timer = loop.later(40 * 86400, lambda: None)
    threading.Timer(0.02, lambda: loop.soon_from_thread(lambda: future.set("woken"))).start()
    assert loop.run(main()) == "woken"
    timer.cancel()
