"""File systems that tests mount as root, to fill them, cut them off or make them read-only."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of linux/fs.h: _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2  # what is not in the journal yet is lost, as in a power cut
_CLONE = 0x40049409  # FICLONE of linux/fs.h: _IOW(0x94, 9, int)
_IMAGE_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 256 << 20}
_STORE_BYTES = 1 << 30  # has room for a whole image and its copy

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _do(*words: object) -> None:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


@contextmanager
def mounted(point: Path, *options: object) -> Iterator[Path]:
    """Mount something for a `with` block, or skip the test where that is not allowed."""
    point.mkdir(exist_ok=True)
    _mount_if_allowed(*options, point)
    try:
        yield point
    finally:
        unmount(point)


def _mount_if_allowed(*words: object) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")


def unmount(point: Path) -> None:
    """Unmount a file system once nobody uses it, or lazily if somebody does for a minute."""
    if not _is_unmounted(point):
        _do("umount", "--lazy", point)


def _is_unmounted(point: Path) -> bool:
    """Unmount, and tell whether that worked within a minute.

    The kernel may still use the file system on behalf of a process that was killed.
    """
    for _ in range(1200):
        if subprocess.run(["umount", str(point)], capture_output=True, check=False).returncode == 0:
            return True
        time.sleep(0.05)
    return False


def disk_of(directory: Path, kind: str) -> Disk:
    """Return a file system of this kind: ext4, xfs or btrfs."""
    return (Btrfs if kind == "btrfs" else Disk)(directory, kind)


class Disk:
    """A file system in an image file that can lose its power."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.point = directory / f"{kind}.mount"
        self.point.mkdir()
        self._image = directory / f"{kind}.image"
        self._kind = kind

    def __enter__(self) -> Disk:
        _make(self._kind, self._image, _IMAGE_BYTES[self._kind])
        _mount_if_allowed("-o", "loop", self._image, self.point)
        return self

    def __exit__(self, *_: object) -> None:
        unmount(self.point)

    def cut(self) -> None:
        """Cut the power: nothing more reaches the disk, not even the journal in memory."""
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def power_on(self) -> None:
        """Mount the file system again, which replays its journal."""
        assert _is_unmounted(self.point)  # else it would be mounted as it is, still cut off
        _do("mount", "-o", "loop", self._image, self.point)


class Btrfs(Disk):
    """A btrfs, which has no such shutdown: its image is copied at one instant, then taken away.

    The image is a file on xfs, which copies it by sharing its blocks, between two writes.
    """

    def __init__(self, directory: Path, kind: str) -> None:
        super().__init__(directory, kind)
        self._store = directory / "store.mount"
        self._store.mkdir()
        self._store_image = directory / "store.image"
        self._image = self._store / "image"
        self._copy = self._store / "copy"

    def __enter__(self) -> Disk:
        _make("xfs", self._store_image, _STORE_BYTES)
        _mount_if_allowed("-o", "loop", self._store_image, self._store)
        try:
            return super().__enter__()
        except BaseException:
            unmount(self._store)
            raise

    def __exit__(self, *_: object) -> None:
        unmount(self.point)
        unmount(self._store)

    def cut(self) -> None:
        """Cut the power: copy the image, and make all that is asked of the disk afterwards fail."""
        with self._image.open("rb") as image, self._copy.open("wb") as copy:
            fcntl.ioctl(copy, _CLONE, image.fileno())
        words = ["losetup", "--noheadings", "--output", "NAME", "--associated", str(self._image)]
        device = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        os.truncate(self._image, 0)
        _do("losetup", "--set-capacity", device)

    def power_on(self) -> None:
        """Mount the copy, which replays its log."""
        assert _is_unmounted(self.point)
        self._copy.rename(self._image)
        _do("mount", "-o", "loop", self._image, self.point)


def _make(kind: str, image: Path, size: int) -> None:
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"needs mkfs.{kind}")
    with image.open("wb") as file:
        file.truncate(size)
    _do(f"mkfs.{kind}", "-q", image)
