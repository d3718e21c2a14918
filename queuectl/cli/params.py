"""The types of options and arguments that several commands have."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from queuectl.units import parse_duration, parse_number, parse_time_or_clock

if TYPE_CHECKING:
    _FloatType = click.ParamType[float]
else:
    _FloatType = click.ParamType  # generic only in the newest click


class Duration(_FloatType):
    """A duration: a number of seconds, or 90s, 15m, 2h, 7d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, (int, float)):
            return value
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return int(seconds) if seconds == int(seconds) else seconds


class Integer(click.types.IntParamType):
    """An integer in ASCII digits, without the `_` that Python allows."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = parse_number(value, int) if isinstance(value, str) else value
        except ValueError:  # for a range, click would complain of an "integer range"
            self.fail(f"{value!r} is not a valid integer.", param, ctx)
        return super().convert(number, param, ctx)


class Count(Integer, click.IntRange):
    """An `Integer` within a range."""


class Time(_FloatType):
    """A time in seconds since the epoch: ISO 8601 (local if it has no zone), 08:00 or `now`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if value == "now":
            return time.time()
        try:
            return parse_time_or_clock(value, time.time())
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
INTEGER = Integer()
TIME = Time()

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
