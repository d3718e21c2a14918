"""Records of jobs that have a past, as pools would have left them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from queuectl.units import utc_text

if TYPE_CHECKING:
    from tests.support import SpoolDir

EXIT_0 = {"ended": "exit", "exit_code": 0}
EXIT_1 = {"ended": "exit", "exit_code": 1}


def run_entry(number: int, started_s: float, took_s: float, **ended: Any) -> dict[str, Any]:
    """Return an entry of `history`."""
    return {
        "number": number,
        "started_at": utc_text(started_s),
        "finished_at": utc_text(started_s + took_s),
        **(ended or EXIT_0),
        "worker": "box-1-a",
    }


def past(job_id: str, state: str, created_s: float, *history: Any, **fields: Any) -> dict[str, Any]:
    """Return the record of a job that has been through these runs."""
    last = history[-1] if history else {}
    return {
        "id": job_id,
        "command": "true",
        "state": state,
        "attempts": len(history),
        "created_at": utc_text(created_s),
        "updated_at": last.get("finished_at", utc_text(created_s)),
        "started_at": last.get("started_at"),
        "finished_at": last.get("finished_at"),
        "history": list(history),
        **fields,
    }


def put(spool: SpoolDir, record: dict[str, Any], written_s: float | None = None) -> None:
    """Put a record where its `state` says, as if it had been written at `written_s`."""
    spool.drop_bytes(record["id"], json.dumps(record).encode(), record["state"])
    if written_s is not None:
        os.utime(spool.file(record["state"], record["id"]), (written_s, written_s))
