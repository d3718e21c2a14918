"""Carry out several works, each a generator of steps, so that they wait for the disk together.

spool-layout.md, section "Retry by hand".
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from queuectl import kernel
from queuectl.system import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from queuectl.system.files import Step, Steps, T


_MANY = 16  # files: fewer are synced faster than threads are started
_THREADS = 16  # more gained nothing on ext4


def carry_out_all(works: Sequence[Steps[None]]) -> list[Exception | None]:
    """Go through the steps of several works side by side; return the error of each, or None.

    Once each work has come to its next step, the files that they have written are synced side by
    side, then each directory once for all works that changed it. The file system commits all this
    together. If the works ran one after the other, each step would wait for a commit of its own.
    The works go on in their order, whatever becomes of the others. An interrupt closes all of them.
    """
    raised: list[Exception | None] = [None] * len(works)
    waited: dict[int, OSError | None] = dict.fromkeys(range(len(works)))
    try:
        while waited:
            asked: dict[int, Step] = {}
            for number, error in waited.items():
                work = works[number]
                try:
                    asked[number] = next(work) if error is None else work.throw(error)
                except StopIteration:
                    continue
                except Exception as fault:  # noqa: BLE001 - the caller decides what it means
                    raised[number] = fault
            waited = _wait_for_all(asked)
    except BaseException:
        for work in works:
            with contextlib.suppress(Exception):  # the others must be closed too
                work.close()
        raise
    return raised


def _wait_for_all(asked: Mapping[int, Step]) -> dict[int, OSError | None]:
    """Wait for steps side by side, and return the error of each, or None."""
    written = [step.descriptor for step in asked.values() if step.descriptor is not None]
    paths = dict.fromkeys(path for step in asked.values() for path in step.directories)
    of_file = _sync_all(written)
    of_directory = {path: _error_of(files.sync_directory, path) for path in paths}

    def error_of(step: Step) -> OSError | None:
        directories = (of_directory[path] for path in step.directories)
        return next(filter(None, (of_file.get(step.descriptor), *directories)), None)

    return {number: error_of(step) for number, step in asked.items()}


def _sync_all(descriptors: Sequence[int]) -> dict[int | None, OSError | None]:
    """Put the data of files on disk, and return the error of each, or None."""
    went: dict[int | None, OSError | None] = {}

    def sync(some: Sequence[int]) -> None:
        for descriptor in some:
            went[descriptor] = _error_of(kernel.sync_data, descriptor)

    if len(descriptors) >= _MANY:
        # without a thread, or a descriptor for the import, the rest is synced below, more slowly
        with contextlib.suppress(RuntimeError, ImportError, OSError):
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(sync, [descriptors[n::_THREADS] for n in range(_THREADS)]))
    sync([descriptor for descriptor in descriptors if descriptor not in went])
    return went


def _error_of(sync: Callable[[T], None], what: T) -> OSError | None:
    try:
        sync(what)
    except OSError as error:
        return error
    return None
