"""One line for each thing that happens to a job (spool-layout.md, section "The log")."""

from __future__ import annotations

import json
import os
import time

from queuectl.units import second_text, utc_text


class WorkLog:
    """Writes lines to a descriptor, each in one write so that several pools may share a file.

    A log that cannot be written never stops a job: its error is the one that is not raised.
    """

    def __init__(self, descriptor: int, *, as_json: bool = False) -> None:
        self._descriptor = descriptor
        self._as_json = as_json

    def event(self, word: str, job_id: str | None = None, **details: object) -> None:
        """Write one line: when, what, which job, and what else there is to say."""
        now = time.time()
        form = _json if self._as_json else _text
        line = form(now, word, job_id, details)
        try:
            os.write(self._descriptor, line.encode(errors="backslashreplace"))
        except OSError:
            return  # see the class


def _json(now: float, word: str, job_id: str | None, details: dict[str, object]) -> str:
    fields = {"at": utc_text(now), "event": word, "id": job_id, **details}
    return json.dumps({key: value for key, value in fields.items() if value is not None}) + "\n"


def _text(now: float, word: str, job_id: str | None, details: dict[str, object]) -> str:
    line = f"{second_text(int(now))}Z  {word:<9}  {job_id or '-'}"
    for key, value in details.items():
        if value is not None:
            line += f"  {value}" if key in _SPEAK_FOR_THEMSELVES else f"  {key}={value}"
    return line.replace("\n", "\\n") + "\n"


_SPEAK_FOR_THEMSELVES = ("detail", "command")
