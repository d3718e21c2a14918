from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl import ids

NOW = 1_900_000_000.0


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True))
def test_letters_digits_and_dot_underscore_dash_make_an_id(text: str) -> None:
    assert ids.is_id(text)


@given(st.text())
def test_nothing_else_does(text: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text) is None:
        assert not ids.is_id(text)


@pytest.mark.parametrize(
    "text", ["../x", "-rf", ".", "..", "a/b", "a\n", "x" * 129, "é", "a b", ""]
)
def test_an_id_can_never_be_a_path_or_an_option(text: str) -> None:
    assert not ids.is_id(text)


def test_a_clock_that_was_ahead_for_a_moment_is_not_kept_to() -> None:
    ahead = ids.new_id(NOW + 86_400)
    assert ids.new_id(NOW) < ids.new_id(NOW) < ahead


def test_new_ids_are_unique_and_sort_as_they_were_made() -> None:
    fresh = [ids.new_id(NOW + number / 1000) for number in range(500)] + [
        ids.new_id(NOW) for _ in range(500)
    ]
    assert fresh == sorted(fresh)
    assert len(set(fresh)) == len(fresh)
    assert all(ids.is_id(made) and len(made) == 15 for made in fresh)
