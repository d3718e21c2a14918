"""Waiting for the disk beside other work: by the kernel's queue, or by threads without it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from queuectl import kernel
from queuectl.kernel.events import Syncs
from queuectl.pool import disk as disk_module
from queuectl.pool.disk import Disk
from queuectl.system.files import Step
from queuectl.system.loop import Future, Loop
from tests.crash import mounts
from tests.support import read_text, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queuectl.system.files import Steps


def no_queue() -> None:
    """Fail as with a kernel that has no queue for fsyncs."""
    raise OSError(errno.ENOSYS, "no such call")


@pytest.fixture(params=["kernel", "threads"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    if request.param == "threads":
        monkeypatch.setattr(disk_module, "Syncs", no_queue)
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def disk(loop: Loop) -> Iterator[Disk]:
    disk = Disk(loop)
    yield disk
    disk.close()


def written(path: Path, directory: Path) -> Steps[str]:
    """Write a file, and wait until the file and its name are on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, b"x")
        yield Step((str(directory), str(directory.parent)), descriptor)
    finally:
        os.close(descriptor)
    return path.name


def test_many_go_through_their_steps_side_by_side(loop: Loop, disk: Disk, tmp_path: Path) -> None:
    async def main() -> list[str]:
        names = [f"file-{number}" for number in range(300)]  # more than the kernel's queue holds
        over = [loop.start(disk.carry_out(written(tmp_path / name, tmp_path))) for name in names]
        return [await one for one in over]

    assert loop.run(main()) == [f"file-{number}" for number in range(300)]


@pytest.mark.usefixtures("syncs")
def test_where_the_kernel_has_a_queue_nobody_waits_for_an_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(kernel, "sync", waited.append)
    monkeypatch.setattr(kernel, "sync_data", waited.append)
    loop = Loop()
    disk = Disk(loop)
    threads = threading.active_count()
    assert loop.run(disk.carry_out(written(tmp_path / "file", tmp_path))) == "file"
    assert (waited, threading.active_count()) == ([], threads)
    disk.close()
    loop.close()


@pytest.fixture
def syncs() -> Iterator[Syncs]:
    try:
        syncs = Syncs()
    except OSError as error:
        pytest.skip(f"this kernel has no queue: {error.strerror}")
    yield syncs
    syncs.close()


def test_all_that_is_over_is_told_of_however_much_it_is(syncs: Syncs, tmp_path: Path) -> None:
    """All finished fsyncs are reported: one left out now would wait until another one is over."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    begun = sum(syncs.begin([(descriptor, False)] * 100) for _ in range(3))

    def over() -> bool:
        told = read_text(f"/proc/self/fdinfo/{syncs.ready}").partition("eventfd-count:")[2]
        return int(told.split()[0], 16) == begun

    wait_until(over)
    assert syncs.over() == [(descriptor, 0)] * begun
    os.close(descriptor)


def test_a_signal_while_the_kernel_is_asked_disturbs_nobody(syncs: Syncs) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        end = time.monotonic() + 20
        while len(came) < 2000 and time.monotonic() < end:
            assert syncs.over() == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came


def test_a_step_that_fails_is_answered_for_by_the_steps(loop: Loop, disk: Disk) -> None:
    def steps() -> Steps[str]:
        reader, writer = os.pipe()  # a pipe cannot be synced
        try:
            yield Step(descriptor=writer)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        finally:
            os.close(reader)
            os.close(writer)
        return "no error"

    assert loop.run(disk.carry_out(steps())) == "EINVAL"


def test_all_who_ask_for_a_directory_that_is_gone_hear_of_it(
    loop: Loop, disk: Disk, tmp_path: Path
) -> None:
    def steps() -> Steps[None]:
        yield Step((str(tmp_path), str(tmp_path / "gone")))

    async def main() -> list[BaseException | None]:
        over = [loop.start(disk.carry_out(steps())) for _ in range(3)]
        for one in over:
            await one.over()
        return [one.error for one in over]

    assert [type(error) for error in loop.run(main())] == [FileNotFoundError] * 3


class HeldUp:
    """Fsyncs of directories, by threads, each of which waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[threading.Event] = []
        self._fsync = os.fsync
        monkeypatch.setattr(disk_module, "Syncs", no_queue)
        monkeypatch.setattr(os, "fsync", self._wait)
        self.loop = Loop()
        self.disk = Disk(self.loop)

    def _wait(self, descriptor: int) -> None:
        let_go = threading.Event()
        self.begun.append(let_go)
        assert let_go.wait(20)
        self._fsync(descriptor)

    def ask(self, *directories: Path, urgent: bool = False) -> Future[None]:
        """Ask for the fsyncs of some directories."""

        def steps() -> Steps[None]:
            yield Step(tuple(map(str, directories)))

        return self.loop.start(self.disk.carry_out(steps(), urgent=urgent))

    async def until_begun(self, count: int) -> None:
        """Wait until `count` fsyncs have begun."""
        await self.loop.in_thread(partial(wait_until, lambda: len(self.begun) == count))


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldUp]:
    held_up = HeldUp(monkeypatch)
    yield held_up
    held_up.disk.close()
    held_up.loop.close()


def test_an_fsync_that_is_under_way_does_not_count_for_who_comes_later(
    held_up: HeldUp, tmp_path: Path
) -> None:
    async def main() -> None:
        first = held_up.ask(tmp_path)
        await held_up.until_begun(1)
        later = held_up.ask(tmp_path)
        held_up.begun[0].set()
        await first
        await held_up.until_begun(2)
        await held_up.loop.sleep(0.05)
        assert not later.done
        held_up.begun[1].set()
        await later

    held_up.loop.run(main())
    assert len(held_up.begun) == 2


def test_an_error_is_told_once_nothing_of_its_step_is_under_way_any_more(
    held_up: HeldUp, tmp_path: Path
) -> None:
    async def main() -> None:
        asked = held_up.ask(tmp_path, tmp_path / "gone")
        await held_up.until_begun(1)
        await held_up.loop.sleep(0.05)
        assert not asked.done
        held_up.begun[0].set()
        await asked.over()
        assert isinstance(asked.error, FileNotFoundError)

    held_up.loop.run(main())


def test_who_comes_while_one_waits_for_the_disk_is_served_in_rounds(
    held_up: HeldUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_ROUND_S", 0.5)  # however slow this machine is just now

    async def main() -> list[Future[None]]:
        asked = [held_up.ask(tmp_path)]
        await held_up.until_begun(1)
        for _ in range(20):
            asked.append(held_up.ask(tmp_path))
            await held_up.loop.rest()
        while not all(one.done for one in asked):
            for begun in held_up.begun:
                begun.set()
            await held_up.loop.sleep(0.001)
        return asked

    asked = held_up.loop.run(main())
    assert [one.error for one in asked] == [None] * 21
    assert len(held_up.begun) < 10  # 2, unless the machine stood still


def test_an_urgent_one_waits_for_no_round_and_takes_the_others_along(
    held_up: HeldUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_ROUND_S", 3600)

    async def main() -> None:
        asked = [held_up.ask(tmp_path)]
        await held_up.until_begun(1)
        asked.append(held_up.ask(tmp_path))
        await held_up.loop.sleep(0.05)
        assert len(held_up.begun) == 1
        asked.append(held_up.ask(tmp_path, urgent=True))
        await held_up.until_begun(2)
        for begun in held_up.begun:
            begun.set()
        for one in asked:
            await one

    held_up.loop.run(main())


def test_who_is_alone_waits_for_no_round_and_leaves_nothing_open(
    loop: Loop, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_ROUND_S", 3600)

    async def sync(name: str) -> str:
        asked = loop.start(disk.carry_out(written(tmp_path / name, tmp_path)))
        return await loop.wait_for(asked, 20, otherwise="late")

    assert loop.run(sync("first")) == "first"
    before = os.listdir("/proc/self/fd")
    for number in range(9):
        assert loop.run(sync(f"file-{number}")) == f"file-{number}"
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.root
@mounts.needs_root
def test_a_disk_that_is_gone_is_heard_of(tmp_path: Path) -> None:
    loop = Loop()
    disk = Disk(loop)
    with mounts.disk_of(tmp_path, "ext4") as drive:
        loop.run(disk.carry_out(written(drive.point / "before", drive.point)))
        descriptor = os.open(drive.point / "after", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"x")
        drive.cut()

        def steps() -> Steps[None]:
            yield Step(descriptor=descriptor)

        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            loop.run(disk.carry_out(steps()))
        os.close(descriptor)
    disk.close()
    loop.close()


_WITHOUT_DESCRIPTORS = """
import os, resource, sys
from queuectl.pool.disk import Disk
from queuectl.system.files import Step
from queuectl.system.loop import Loop

def syncing():
    yield Step(descriptor=descriptor)
    return "synced"

async def main():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor + 1, limits[1]))
    try:
        await disk.carry_out(syncing())
    except OSError as error:
        print(error.strerror)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    print(await disk.carry_out(syncing()))

loop = Loop()
disk = Disk(loop)
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
loop.run(main())
disk.close()
loop.close()
"""


def test_who_waits_is_told_when_there_are_no_descriptors_to_wait_with(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _WITHOUT_DESCRIPTORS, str(tmp_path / "file")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("Too many open files\nsynced\n", "")
