"""Every measurement of the benchmark runs, at a size at which its figures mean nothing."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from . import plots, report
from .__main__ import MEASUREMENTS
from .harness import Bench, at_least, at_most, percentile

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and waits on pidfds")


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_measurement_gives_rows_with_figures(tmp_path: Path, name: str) -> None:
    _, measure = MEASUREMENTS[name]
    rows = list(measure(Bench(str(tmp_path), "tiny")))
    assert rows
    assert all(row.what and row.measured for row in rows)
    assert all((row.met is None) == (row.target == "") for row in rows)


def test_figures_are_written_as_json(tmp_path: Path) -> None:
    rows = {"drain": [at_least("drain", 0.7, 0.65)]}
    report.write(str(tmp_path / "out.json"), Bench(str(tmp_path), "tiny"), "ext4", rows)
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["rows"]["drain"][0]["met"] is True
    assert document["machine"]["file_system"] == "ext4"


def test_the_table_says_which_targets_are_met() -> None:
    text = report.table([at_most("fast", 1, 2, " ms"), at_most("slow", 3, 2, " ms")])
    fast, slow = text.splitlines()[1:]
    assert fast.endswith("<= 2.00 ms  met")
    assert slow.endswith("<= 2.00 ms  NOT MET")


def test_plots_are_well_formed_drawings(tmp_path: Path) -> None:
    raw = {
        "cost against backlog": {1000: [[500.0, 900.0]], 1_000_000: [[520.0, 910.0]]},
        "latency, full": {"bare": [0.001, 0.002], "drop": [0.002, 0.003], "enqueue": [0.0, 0.01]},
    }
    plots.draw(str(tmp_path), raw)
    for name in ("backlog.svg", "latency.svg"):
        assert ET.parse(tmp_path / name).getroot().tag.endswith("svg")


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
