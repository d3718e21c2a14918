"""The table on the terminal, and the JSON file of figures."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .harness import Bench, Row

_WORDS = {True: "met", False: "NOT MET", None: ""}


def table(rows: Sequence[Row]) -> str:
    """Return the rows as an aligned table."""
    cells = [("WHAT", "MEASURED", "TARGET", "")]
    cells += [(row.what, row.measured, row.target, _WORDS[row.met]) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return "\n".join(
        f"{what:<{widths[0]}}  {measured:>{widths[1]}}  {target:>{widths[2]}}  {met}".rstrip()
        for what, measured, target, met in cells
    )


def machine() -> dict[str, Any]:
    """Return a description of the machine on which the figures were measured."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "architecture": platform.machine(),
    }


def write(path: str, bench: Bench, file_system: str, rows: dict[str, list[Row]]) -> None:
    """Write everything that was measured as JSON."""
    document = {
        "machine": {**machine(), "file_system": file_system},
        "scale": bench.scale,
        "rows": {name: [row.as_json() for row in found] for name, found in rows.items()},
        "raw": bench.raw,
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
