"""A job queue that is a directory.

    from queuectl import STATES, Spool

    spool = Spool()  # $QUEUECTL_SPOOL, else ~/.queuectl
    job = spool.submit(["tar", "czf", "/backup/home.tgz", "/home"], tags=["backup"])
    found = spool.wait(job.id)
    print(found.state, found.job.record.get("exit_code"))
    print({state: sum(1 for _ in spool.names(state)) for state in STATES})

spool-layout.md says what is in the directory, and in each record.

Where things are, each line loading only itself, those above it, and `errors`:

    words        states, ids, units, variables
    the system   kernel/, files, together, room, spares, loop, arrivals, notify, program, scratch
    settings     fields, kinds, retry, config
    records      job, outcome, reading
    the spool    filenames, places, layout, safety, cutting, joblogs, moves, asides, spool
    owners       requests, owners, hindrances, registration, worklog
    a command    run/
    the dead     deaths, starts, leftovers, recovery
    jobs         verbs, cancelling, looks, housekeeping, changes, waiting
    a pool       pool/
    looking      stats/, doctor/, report/
    programs     library
    commands     cli/
"""

TYPE_CHECKING = False  # as typing has it, which takes 5 ms to import
if TYPE_CHECKING:
    from queuectl.errors import (
        BadJobError,
        BadSettingError,
        JobExistsError,
        NoSuchJobError,
        QueuectlError,
        SpoolError,
        UnsafeSpoolError,
        WrongStateError,
        WrongUserError,
    )
    from queuectl.job import Job
    from queuectl.layout import Found
    from queuectl.library import Spool
    from queuectl.states import STATES

__all__ = [
    "STATES",
    "BadJobError",
    "BadSettingError",
    "Found",
    "Job",
    "JobExistsError",
    "NoSuchJobError",
    "QueuectlError",
    "Spool",
    "SpoolError",
    "UnsafeSpoolError",
    "WrongStateError",
    "WrongUserError",
    "__version__",
]
__version__ = "1.0.0"

if not TYPE_CHECKING:
    # the others are errors
    _MODULES = {"Found": "layout", "Job": "job", "STATES": "states", "Spool": "library"}

    def __getattr__(name: str) -> object:
        """Import what is asked for: the command line has to run before it takes its time."""
        from importlib import import_module

        if name in ("errors", "job", "spool"):
            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
