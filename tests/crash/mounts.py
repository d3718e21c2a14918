"""File systems of our own: to be cut off, to be full, to be read-only. They need root."""

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
_NO_LOG_FLUSH = 2  # what is not in the journal by now is lost, as when the power goes
_IMAGE_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _do(*words: object) -> None:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


@contextmanager
def mounted(point: Path, *options: object) -> Iterator[Path]:
    """Mount something for a while; skip the test where that is not allowed."""
    point.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", *map(str, options), str(point)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield point
    finally:
        unmount(point)


def unmount(point: Path) -> None:
    """Unmount, once those that use it have let go."""
    for _ in range(200):
        if subprocess.run(["umount", str(point)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)
    _do("umount", "--lazy", point)


class Disk:
    """A file system in an image file, whose power can be cut."""

    def __init__(self, directory: Path, kind: str) -> None:
        if shutil.which(f"mkfs.{kind}") is None:
            pytest.skip(f"needs mkfs.{kind}")
        self.point = directory / f"{kind}.mount"
        self.point.mkdir()
        self._image = directory / f"{kind}.image"
        with self._image.open("wb") as file:
            file.truncate(_IMAGE_BYTES[kind])
        _do(f"mkfs.{kind}", "-q", self._image)

    def __enter__(self) -> Disk:
        words = ["mount", "-o", "loop", str(self._image), str(self.point)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"cannot mount: {done.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        unmount(self.point)

    def cut(self) -> None:
        """Take the power away: nothing more reaches the disk, not even the journal in memory."""
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def power_on(self) -> None:
        """Mount it again, its journal replayed."""
        unmount(self.point)
        _do("mount", "-o", "loop", self._image, self.point)
