"""Waiting for the disk beside other work: by the kernel's queue, and by threads without it."""

from __future__ import annotations

import errno
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from queuectl import disk as disk_module
from queuectl.disk import Disk
from queuectl.files import DirectorySync, FileSync
from queuectl.loop import Loop
from tests.crash import mounts
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queuectl.files import Steps


def no_queue() -> None:
    """Answer as a kernel without one."""
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
    """Write a file and make sure of it and of its name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, b"x")
        yield FileSync(descriptor)
    finally:
        os.close(descriptor)
    yield DirectorySync((str(directory), str(directory.parent)))
    return path.name


def test_many_go_through_their_steps_side_by_side(loop: Loop, disk: Disk, tmp_path: Path) -> None:
    async def main() -> list[str]:
        names = [f"file-{number}" for number in range(300)]  # more than the queue of the kernel
        over = [loop.start(disk.carry_out(written(tmp_path / name, tmp_path))) for name in names]
        return [await one for one in over]

    assert loop.run(main()) == [f"file-{number}" for number in range(300)]


def test_a_step_that_fails_is_answered_for_by_the_steps(loop: Loop, disk: Disk) -> None:
    def steps() -> Steps[str]:
        reader, writer = os.pipe()  # cannot be synced
        try:
            yield FileSync(writer)
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
        yield DirectorySync((str(tmp_path), str(tmp_path / "gone")))

    async def main() -> list[BaseException | None]:
        over = [loop.start(disk.carry_out(steps())) for _ in range(3)]
        for one in over:
            await one.over()
        return [one.error for one in over]

    assert [type(error) for error in loop.run(main())] == [FileNotFoundError] * 3


def test_an_fsync_that_is_under_way_does_not_count_for_who_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "Syncs", no_queue)
    begun: list[threading.Event] = []
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        begun.append(threading.Event())
        assert begun[-1].wait(20)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    loop = Loop()
    disk = Disk(loop)

    def steps() -> Steps[None]:
        yield DirectorySync((str(tmp_path),))

    async def begin(number: int) -> None:
        await loop.in_thread(partial(wait_until, lambda: len(begun) == number))

    async def main() -> None:
        first = loop.start(disk.carry_out(steps()))
        await begin(1)
        later = loop.start(disk.carry_out(steps()))
        begun[0].set()
        await first
        await begin(2)
        await loop.sleep(0.05)
        assert not later.done
        begun[1].set()
        await later

    loop.run(main())
    disk.close()
    loop.close()
    assert len(begun) == 2


@pytest.mark.root
@mounts.needs_root
def test_a_disk_that_is_gone_is_heard_of(tmp_path: Path) -> None:
    loop = Loop()
    disk = Disk(loop)
    with mounts.Disk(tmp_path, "ext4") as drive:
        loop.run(disk.carry_out(written(drive.point / "before", drive.point)))
        descriptor = os.open(drive.point / "after", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"x")
        drive.cut()

        def steps() -> Steps[None]:
            yield FileSync(descriptor)

        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            loop.run(disk.carry_out(steps()))
        os.close(descriptor)
    disk.close()
    loop.close()
