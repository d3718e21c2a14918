"""Where the spools of a run are made, and on which file system."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MKFS = {
    # The journal is that of a disk of 128 GB or more. By default an image of this size gets one of
    # 64 MiB, which is full after 4,000 jobs. There is an inode for each file of 4 KiB. The inode
    # tables and the journal are zeroed at once, not while we measure.
    "ext4": [
        *("mkfs.ext4", "-q", "-F", "-J", "size=1024", "-i", "6144"),
        *("-E", "lazy_itable_init=0,lazy_journal_init=0"),
    ],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
LOOPS = tuple(_MKFS)


def describe(path: str) -> str:
    """Return the file system that holds `path`, in words."""
    device, kind = _mount_of(path)
    if kind == "ext4" and not _has_journal(device):
        return "ext4 without a journal"
    return kind


def _mount_of(path: str) -> tuple[str, str]:
    """Return the device's number, as `major:minor`, and the kind of the mount that holds `path`."""
    number = os.stat(path).st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields = line.split()
            if fields[2] == wanted:
                return wanted, fields[fields.index("-") + 1]
    return wanted, "unknown"


def _has_journal(device: str) -> bool:
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{device}"))
    with contextlib.suppress(OSError):
        return any(entry.startswith(f"{name}-") for entry in os.listdir("/proc/fs/jbd2"))
    return False


@contextlib.contextmanager
def directory(base: str | None, loop: str | None, size_gb: int) -> Iterator[str]:
    """Yield a directory to measure in, and remove it afterwards.

    With `loop`, it is a file system of that kind in an image file below `base`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base) as temporary:
        if loop is None:
            yield temporary
            return
        image, mount = f"{temporary}/image", f"{temporary}/mount"
        with open(image, "wb") as file:
            file.truncate(size_gb << 30)
        os.mkdir(mount)
        _command([*_MKFS[loop], image])
        _command(["mount", "-o", "loop", image, mount])
        try:
            yield mount
        finally:
            # lazily: a process that still uses it keeps it until it ends, and nothing stays mounted
            _command(["umount", "--lazy", mount])


def _command(words: list[str]) -> None:
    subprocess.run(words, check=True)


def default_loop(base: str | None) -> str | None:
    """Return the kind of image that is fairer than `base` itself, or None if `base` is fair.

    ext4 without a journal avoids inodes that were deleted in the last minutes, so creating a file
    there takes up to 0.8 ms after many were deleted. No disk that people use is made like that.
    """
    where = base or tempfile.gettempdir()
    can = os.geteuid() == 0 and shutil.which("mkfs.ext4") is not None
    return "ext4" if can and describe(where) == "ext4 without a journal" else None
