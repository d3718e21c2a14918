"""A job queue that is a directory: see spool-layout.md for what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuectl.errors import BadJobError, JobExistsError, QueuectlError, SpoolError
    from queuectl.job import Job
    from queuectl.spool import Spool

__all__ = [
    "BadJobError",
    "Job",
    "JobExistsError",
    "QueuectlError",
    "Spool",
    "SpoolError",
    "__version__",
]
__version__ = "1.0.0"

_MODULES = {"Job": "job", "Spool": "spool"}  # the others are errors


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line has to be running before it takes its time."""
    from importlib import import_module

    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
