"""A job queue kept in a directory.

    from queuectl import STATES, Spool

    spool = Spool()  # $QUEUECTL_SPOOL, else ~/.queuectl
    job = spool.submit(["tar", "czf", "/backup/home.tgz", "/home"], tags=["backup"])
    found = spool.wait(job.id)
    print(found.state, found.job.exit_code)
    print({state: sum(1 for _ in spool.names(state)) for state in STATES})

spool-layout.md describes the directory and the records in it.

The parts of the package. Each line imports only itself, the lines above it, and `errors`:

    states, ids, units, variables, retry    terms that the rest shares, and the retry policy
    kernel/, system/                        durable files, the event loop, file system events
    settings/                               the settings, and config.json
    record/                                 a job's record, and how the end of a run changes it
    spool/                                  the directory, and the moves that jobs make in it
    workers/                                which workers are alive, requests to them, their log
    run/                                    one command: its start, its end, what it leaves behind
    recovery/                               settling the jobs of dead owners
    jobs/                                   what people do to jobs, and waiting for jobs
    pool/                                   the worker: waiting jobs, claims, each job's turn
    stats/, doctor/, report/                statistics, the health check, the HTML report
    library                                 the API for Python programs
    cli/                                    the command line
"""

TYPE_CHECKING = False  # instead of typing's own, whose import takes 5 ms
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
    # every other public name is in errors.py
    _PLACES = {
        "Found": "spool.layout",
        "Job": "record.job",
        "STATES": "states",
        "Spool": "library",
    }

    def __getattr__(name: str) -> object:
        """Import a public name on its first use, so that the command line starts fast."""
        from importlib import import_module

        if name == "errors":
            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'errors')}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
