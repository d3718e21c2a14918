"""A job queue that is a directory.

    from queuectl import STATES, Spool

    spool = Spool()  # $QUEUECTL_SPOOL, else ~/.queuectl
    job = spool.submit(["tar", "czf", "/backup/home.tgz", "/home"], tags=["backup"])
    found = spool.wait(job.id)
    print(found.state, found.job.exit_code)
    print({state: sum(1 for _ in spool.names(state)) for state in STATES})

spool-layout.md says what is in the directory, and in each record.

Where things are, each line loading only itself, those above it, and `errors`:

    states, ids, units, variables, retry    the words of all the rest, and the one policy
    kernel/, system/                        files that survive, the event loop, arrivals
    settings/                               what can be set, and config.json
    record/                                 a job's record, and what a run makes of it
    spool/                                  the directory, and the moves that jobs make in it
    workers/                                who is alive, what is asked of them, what they log
    run/                                    one command: its start, its end, what it leaves behind
    recovery/                               what becomes of what the dead held
    jobs/                                   what people do to jobs, and how they wait for them
    pool/                                   what waits, what is claimed, each job's turn
    stats/, doctor/, report/                looking back, and whether all is well
    library                                 what other programs do with a spool
    cli/                                    the command line
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
    from queuectl.library import Spool
    from queuectl.record.job import Job
    from queuectl.spool.layout import Found
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
    _PLACES = {
        "Found": "spool.layout",
        "Job": "record.job",
        "STATES": "states",
        "Spool": "library",
    }

    def __getattr__(name: str) -> object:
        """Import what is asked for: the command line has to run before it takes its time."""
        from importlib import import_module

        if name == "errors":
            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'errors')}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
