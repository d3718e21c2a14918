"""`python -m tests.benchmarks`: measure, print a table, write JSON, draw the README's plots."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from . import backlog, drain, latency, peers, place, plots, report, rest, submit
from .harness import Bench, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MEASUREMENTS: dict[str, tuple[str, Callable[[Bench], Iterator[Row]]]] = {
    module.__name__.rpartition(".")[2]: (module.ABOUT, module.measure)
    for module in (drain, latency, submit, backlog, rest, peers)
}
_UNASKED = [name for name in MEASUREMENTS if name != "peers"]


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line."""
    names = "; ".join(f"{name}: {about}" for name, (about, _) in MEASUREMENTS.items())
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=names)
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="only this one")
    parser.add_argument("--quick", action="store_true", help="minutes instead of half an hour")
    parser.add_argument(
        "--peers", action="store_true", help="measure others that are installed too"
    )
    parser.add_argument("--dir", help="where the spools are made; else the temporary directory")
    parser.add_argument("--loop", choices=place.LOOPS, help="in a file system of its own (root)")
    parser.add_argument("--json", default="benchmarks.json", help="where the figures are written")
    parser.add_argument("--plots", metavar="DIR", help="draw the plots as SVG into DIR")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark, and return 0 whatever the figures are."""
    options = arguments(words)
    names = options.only or [*_UNASKED, *(["peers"] if options.peers else [])]
    loop = options.loop or (None if options.dir else place.default_loop(options.dir))
    size_gb = 4 if options.quick else 16
    with place.directory(options.dir, loop, size_gb) as directory:
        bench = Bench(directory, "quick" if options.quick else "full")
        file_system = place.describe(directory) + (" in a loop image" if loop else "")
        bench.say(f"on {file_system}, {report.machine()}")
        rows = measure(bench, names)
    report.write(options.json, bench, file_system, rows)
    if options.plots:
        os.makedirs(options.plots, exist_ok=True)
        plots.draw(options.plots, bench.raw)
    print(f"\nfigures in {options.json}; file system: {file_system}")
    return 0


def measure(bench: Bench, names: Sequence[str]) -> dict[str, list[Row]]:
    """Run the measurements of these names, and print the table of each as soon as it is there."""
    rows: dict[str, list[Row]] = {}
    for name in names:
        about, measurement = MEASUREMENTS[name]
        bench.say(f"{name}: {about}")
        rows[name] = []
        for row in measurement(bench):
            bench.say(f"{row.what}: {row.measured}")
            rows[name].append(row)
        print(f"\n{about}\n{report.table(rows[name])}\n", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
