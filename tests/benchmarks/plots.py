"""The README's plots, as SVG text: legible on a light page and on a dark one."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from .harness import median

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 40, 50
_COLOURS = ("#3b82c4", "#d9822b", "#4a9c5d", "#a05fb4", "#888888", "#c24b4b")
_STYLE = """<style>
text { font: 13px sans-serif; fill: #57606a } .title { font-size: 15px; font-weight: 600 }
.grid { stroke: #8c959f; stroke-opacity: .3 } .line { fill: none; stroke-width: 2.5 }
@media (prefers-color-scheme: dark) { text { fill: #adb5bd } }
</style>"""

Points = "Sequence[tuple[float, float]]"


class Chart:
    """Lines over a logarithmic x axis."""

    def __init__(self, title: str, x_label: str, y_label: str) -> None:
        self._labels = (title, x_label, y_label)
        self._lines: list[tuple[str, Sequence[tuple[float, float]]]] = []

    def line(self, name: str, points: Sequence[tuple[float, float]]) -> None:
        """Add a line."""
        self._lines.append((name, points))

    def svg(self, *, y_max: float, y_step: float, y_text: Callable[[float], str]) -> str:
        """Return the drawing as SVG text."""
        xs = [x for _, points in self._lines for x, _ in points]
        low, high = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))

        def at(x: float, y: float) -> tuple[float, float]:
            across = (math.log10(x) - low) / max(high - low, 1)
            return (
                _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
                _HEIGHT - _BOTTOM - min(y / y_max, 1.0) * (_HEIGHT - _TOP - _BOTTOM),
            )

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">{_STYLE}'
        ]
        parts += self._frame(at, range(low, high + 1), _steps(y_max, y_step), y_text)
        for number, (name, points) in enumerate(self._lines):
            parts += _drawn(name, [at(*point) for point in points], number)
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _frame(
        self,
        at: Callable[[float, float], tuple[float, float]],
        powers: range,
        levels: Sequence[float],
        y_text: Callable[[float], str],
    ) -> list[str]:
        title, x_label, y_label = self._labels
        middle, end = (_WIDTH - _RIGHT + _LEFT) / 2, _WIDTH - _RIGHT
        parts = [
            _text(_LEFT, 20, title, "start", "title"),
            _text(middle, _HEIGHT - 10, x_label),
            _text(_LEFT, 36, y_label, "start"),
        ]
        for level in levels:
            y = at(10.0 ** powers[0], level)[1]
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(_text(_LEFT - 8, y + 4, y_text(level), "end"))
        for power in powers:
            x = at(10.0**power, 0)[0]
            parts.append(_text(x, _HEIGHT - _BOTTOM + 18, _power_text(power)))
        return parts


def _steps(highest: float, step: float) -> list[float]:
    return [step * number for number in range(int(highest / step) + 1)]


def _power_text(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"


def _text(x: float, y: float, text: str, anchor: str = "middle", css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{text}</text>'


def _drawn(name: str, points: Sequence[tuple[float, float]], number: int) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    y = _TOP + 20 + 20 * number
    x = _WIDTH - _RIGHT + 12
    return [
        f'<polyline class="line" stroke="{colour}" points="{path}"/>',
        f'<line stroke="{colour}" stroke-width="3" x1="{x}" x2="{x + 16}" y1="{y}" y2="{y}"/>',
        _text(x + 22, y + 4, name, "start"),
    ]


def draw(directory: str, raw: Mapping[str, Any]) -> None:
    """Write each plot whose figures were measured."""
    if "cost against backlog" in raw:
        _write(f"{directory}/backlog.svg", backlog_svg(raw["cost against backlog"]))
    if "latency, full" in raw:
        _write(f"{directory}/latency.svg", latency_svg(raw))


def backlog_svg(costs: Mapping[int, Sequence[Sequence[float]]]) -> str:
    """Draw the cost of a job against how many wait, from rounds of (wall, CPU) in us."""
    chart = Chart("Cost of one job against backlog", "jobs waiting", "microseconds a job, 2 slots")
    highest = 0.0
    for column, name in enumerate(("on the clock", "CPU, all in")):
        points = [
            (float(size), median([cost[column] for cost in rounds]))
            for size, rounds in costs.items()
        ]
        highest = max(highest, *(y for _, y in points))
        chart.line(name, points)
    step = 10 ** math.floor(math.log10(highest))
    return chart.svg(
        y_max=math.ceil(highest / step) * step, y_step=step, y_text=lambda y: f"{y:,.0f}"
    )


_LATENCIES = (
    ("bare spawn", "latency, full", "bare"),
    ("drop", "latency, full", "drop"),
    ("enqueue", "latency, full", "enqueue"),
    ("drop, pool busy", "latency, two pools claiming, full", "drop"),
)


def latency_svg(raw: Mapping[str, Any]) -> str:
    """Draw which share of the jobs had started after how long, from samples in seconds."""
    chart = Chart("From arrival to running", "milliseconds (logarithmic)", "share of jobs started")
    for name, key, kind in _LATENCIES:
        if kind in raw.get(key, {}):
            values = sorted(max(value * 1e3, 0.05) for value in raw[key][kind])
            share = 1 / len(values)
            chart.line(name, [(v, (n + 1) * share) for n, v in enumerate(values)])
    return chart.svg(y_max=1.0, y_step=0.25, y_text=lambda y: f"{y:.0%}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"drew {os.path.normpath(path)}")
