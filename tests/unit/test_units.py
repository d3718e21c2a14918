from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl import units
from tests.zones import in_zone


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("250ms", 0.25),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("7d", 604800),
        ("1w", 604800),
        (" 3 h ", 10800),
        ("1h30m", 5400),
        ("1d 2h 3m 4s", 93784),
    ],
)
def test_a_duration_is_seconds_or_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "1e9", "1h30", "30 1h", "2 years", "٣s", "nan", "inf"]
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 15m, 1h30m, 7d"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("4096", 4096), ("64k", 65536), ("64KiB", 65536), ("10M", 10485760), ("1.5g", 1610612736)],
)
def test_a_size_is_bytes_or_a_number_with_its_unit(text: str, size_bytes: int) -> None:
    assert units.parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "k", "-1", "10 bytes", "1kk"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="64k, 10M, 1G"):
        units.parse_size(text)


@given(st.integers(min_value=0, max_value=250_000_000_000_000_000 // 1000))
def test_a_time_comes_back_from_its_text_to_the_microsecond(micros: int) -> None:
    text = units.utc_text(micros / 1e6)
    assert abs(units.parse_time(text) - micros / 1e6) < 2e-6


@given(st.lists(st.floats(min_value=0, max_value=4e9), min_size=2))
def test_times_sort_as_their_texts_do(moments: list[float]) -> None:
    texts = [units.utc_text(moment) for moment in moments]
    assert sorted(texts) == [units.utc_text(moment) for moment in sorted(moments)]


def test_a_time_has_microseconds_and_a_z() -> None:
    assert units.utc_text(1_900_000_000.25) == "2030-03-17T17:46:40.250000Z"


@pytest.mark.parametrize(
    "text",
    ["2030-03-17T17:46:40.5Z", "2030-03-17t17:46:40.500000000z", "2030-03-17 17:46:40,50+00:00"],
)
def test_a_second_may_have_any_number_of_decimals(text: str) -> None:
    assert units.parse_time(text) == 1_900_000_000.5


@pytest.mark.parametrize(
    "text",
    [
        "2030-03-17T17:46:40Z",
        "2030-03-17T17:46:40z",
        "2030-03-17 17:46:40+00:00",
        "2030-03-17T19:46:40+02:00",
        "2030-03-17T17:46:40.000000Z",
    ],
)
def test_a_zone_may_be_written_in_any_iso_way(text: str) -> None:
    assert units.parse_time(text) == 1_900_000_000


def test_a_time_without_a_zone_is_local_only_where_that_is_meant() -> None:
    with in_zone("UTC-3"):
        assert units.parse_time("2030-03-17T20:46:40", local=True) == 1_900_000_000
        assert units.local_text(1_900_000_000) == "2030-03-17 20:46:40+0300"
        with pytest.raises(ValueError, match="no time zone"):
            units.parse_time("2030-03-17T20:46:40")


def test_a_time_of_day_is_the_next_also_where_a_day_has_it_twice() -> None:
    with in_zone("America/New_York"):
        first, second = (units.parse_time(f"2026-11-01T01:30:00-0{zone}:00") for zone in (4, 5))
        assert units.parse_time_or_clock("01:30", first - 60) == first
        assert units.parse_time_or_clock("01:30", first + 59.9) == first
        assert units.parse_time_or_clock("01:30", first + 60) == second
        assert units.parse_time_or_clock("01:30", second - 60) == second
        assert units.parse_time_or_clock("01:30", second + 60) == second + 86400
        assert units.parse_time_or_clock("01:30:00", second + 0.9) == second
        assert units.parse_time_or_clock("01:30:00", second + 1) == second + 86400
        assert units.parse_time_or_clock("2026-11-01T01:30:00-04:00", second) == first
        assert units.parse_time_or_clock("01:30:07", second) == second + 7


@pytest.mark.parametrize("text", ["", "soon", "12:00", "2030-13-01T00:00:00Z", "1900000000"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="ISO 8601"):
        units.parse_time(text)


@given(st.text())
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        units.parse_time(text, local=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0ms"),
        (0.25, "250ms"),
        (12.34, "12.3s"),
        (245, "4m05s"),
        (7980, "2h13m"),
        (273600, "3d04h"),
    ],
)
def test_a_duration_is_shown_in_at_most_two_units(seconds: float, text: str) -> None:
    assert units.duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (65536, "64.0 KiB"),
        (1048575, "1.0 MiB"),
        (1 << 50, "1024.0 TiB"),
    ],
)
def test_a_size_is_shown_in_the_largest_unit_that_fits(size_bytes: int, text: str) -> None:
    assert units.size_text(size_bytes) == text


def test_a_size_that_no_number_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="is out of range"):
        units.parse_size("9" * 400)


@given(st.sets(st.integers(0, 255)))
def test_codes_come_back_from_their_text(codes: set[int]) -> None:
    assert units.parse_codes(units.codes_text(codes)) == sorted(codes)


def test_many_codes_are_a_short_text() -> None:
    assert units.codes_text([0, 1, *range(3, 256)]) == "0,1,3-255"


@pytest.mark.parametrize("text", ["0-1000", "7-3", "-1-3", "1-", "a-b", "1_0", r"\+5", "1-٣"])
def test_what_is_no_range_of_codes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text} is no range of exit codes"):
        units.parse_codes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9994, "999ms"), (0.9995, "1.0s"), (59.94, "59.9s"), (59.95, "1m00s"), (3599.9, "59m59s")],
)
def test_a_duration_is_rounded_to_the_larger_unit_where_it_fills_that(
    seconds: float, text: str
) -> None:
    assert units.duration_text(seconds) == text
