"""A program that queues jobs without end, one at a time, and prints each id once it is accepted.

enqueuer.py SPOOL
"""

from __future__ import annotations

import os
import sys

from queuectl import Spool
from queuectl.errors import QueuectlError
from tests.crash import mutations


def main(path: str) -> None:
    """Queue jobs until the file system is gone."""
    mutations.apply_named()
    spool = Spool(path)
    while True:
        try:
            job = spool.submit(["/bin/true"])
        except (QueuectlError, OSError):
            return
        os.write(1, f"{job.id}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
