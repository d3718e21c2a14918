"""Records put into a spool by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support import SpoolDir


def put(spool: SpoolDir, state: str, job_id: str, **fields: object) -> None:
    """Put a record into a state by hand."""
    record = {"id": job_id, "command": "true", "state": state, "attempts": 1, **fields}
    spool.drop_bytes(job_id, json.dumps(record).encode(), state)
