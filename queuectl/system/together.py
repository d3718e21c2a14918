"""Several works that wait for the disk together, each a generator of steps.

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


def carry_out_all(works: Sequence[Steps[None]]) -> list[Exception | None]:
    """Go through the steps of several works side by side; return what each raised, None if nothing.

    They wait for the disk together: once each has come to its next step, what they have written is
    synced side by side, then each directory once for all that changed it. The file system commits
    that together; one work after the other would wait for as many commits as they have steps. They
    go on in their order, whatever becomes of the others. At an interrupt all are closed.
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
                except Exception as fault:  # noqa: BLE001 - who asked for it shall judge
                    raised[number] = fault
            waited = _wait_for_all(asked)
    except BaseException:
        for work in works:
            with contextlib.suppress(Exception):  # of one: the others are to be closed too
                work.close()
        raise
    return raised


def _wait_for_all(asked: Mapping[int, Step]) -> dict[int, OSError | None]:
    """Wait for steps side by side; return how each went."""
    written = [step.descriptor for step in asked.values() if step.descriptor is not None]
    paths = dict.fromkeys(path for step in asked.values() for path in step.directories)
    of_file = _sync_all(written)
    of_directory = {path: _error_of(files.sync_directory, path) for path in paths}

    def error_of(step: Step) -> OSError | None:
        directories = (of_directory[path] for path in step.directories)
        return next(filter(None, (of_file.get(step.descriptor), *directories)), None)

    return {number: error_of(step) for number, step in asked.items()}


def _sync_all(descriptors: Sequence[int]) -> dict[int | None, OSError | None]:
    """Put on disk what was written to files; return how that went for each."""
    went: dict[int | None, OSError | None] = {}

    def sync(some: Sequence[int]) -> None:
        for descriptor in some:
            went[descriptor] = _error_of(kernel.sync_data, descriptor)

    if len(descriptors) >= files.MANY:
        # no thread is left, or no descriptor to import them with: it takes longer, then
        with contextlib.suppress(RuntimeError, ImportError, OSError):
            files.side_by_side(sync, descriptors)
    sync([descriptor for descriptor in descriptors if descriptor not in went])
    return went


def _error_of(sync: Callable[[T], None], what: T) -> OSError | None:
    try:
        sync(what)
    except OSError as error:
        return error
    return None
