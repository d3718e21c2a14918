"""A job queue that is a directory: see spool-layout.md for what is in it."""

from queuectl.errors import QueuectlError
from queuectl.job import Job
from queuectl.spool import Spool

__all__ = ["Job", "QueuectlError", "Spool", "__version__"]
__version__ = "1.0.0"
