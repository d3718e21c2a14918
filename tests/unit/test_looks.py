"""Whether a directory is worth a look: each change is found, and no other look is made."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from queuectl.pool import looks as module
from queuectl.pool.looks import Looks
from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path

SETTLED_S = 0.4


@pytest.fixture
def looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Return the `Looks` of a directory that has not changed for long, with none made yet."""
    monkeypatch.setattr(module, "_SETTLED_S", SETTLED_S)
    monkeypatch.setattr(module, "_REST", 0)
    looks = Looks(str(tmp_path))
    assert looks.due
    time.sleep(SETTLED_S)
    return looks


def look(looks: Looks) -> None:
    assert looks.due
    with looks:
        pass


def test_what_was_looked_at_is_looked_at_again_once_it_has_changed(
    looks: Looks, tmp_path: Path
) -> None:
    look(looks)
    assert not looks.due
    (tmp_path / "new").touch()
    assert looks.due


def test_a_change_is_found_though_the_time_of_the_directory_is_set_back(
    looks: Looks, tmp_path: Path
) -> None:
    """tar and rsync give a directory the time that it had elsewhere; changes are found anyway."""
    os.utime(tmp_path, (1e9, 1e9))
    look(looks)
    time.sleep(SETTLED_S)
    look(looks)
    assert not looks.due
    (tmp_path / "new").touch()
    os.utime(tmp_path, (1e9, 1e9))
    assert looks.due


def test_a_look_right_after_a_change_is_made_once_more(looks: Looks, tmp_path: Path) -> None:
    """The second look finds what came after the first one within the same tick of the clock."""
    (tmp_path / "new").touch()
    look(looks)
    look(looks)
    time.sleep(SETTLED_S)
    look(looks)
    assert not looks.due


def test_what_comes_during_a_look_is_not_covered_by_it(looks: Looks, tmp_path: Path) -> None:
    with looks:
        (tmp_path / "new").touch()
    assert looks.due


def test_a_look_that_is_asked_for_is_made_whatever_the_time_stamp_says(looks: Looks) -> None:
    look(looks)
    looks.look_again()
    look(looks)
    assert not looks.due
    looks.look_again()
    with looks:
        looks.look_again()
    look(looks)
    assert not looks.due


def test_a_look_that_was_refused_does_not_count(looks: Looks) -> None:
    with pytest.raises(PermissionError), looks:
        raise PermissionError
    assert looks.due


def test_a_look_that_is_asked_for_waits_for_a_short_rest_and_others_for_a_long_one(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REST", 1e6)
    assert looks.due
    with looks:
        time.sleep(0.1)
    assert looks.asked_in_s is None
    looks.look_again()
    assert not looks.due
    looks.look_again(soon=True)
    assert not looks.due
    assert looks.asked_in_s is not None
    assert looks.asked_in_s > 0.1
    wait_until(lambda: looks.due)
    with looks:
        pass
    assert looks.asked_in_s is None


def test_what_is_missing_is_looked_at_once_it_is_there(looks: Looks, tmp_path: Path) -> None:
    look(looks)
    tmp_path.rename(f"{tmp_path}.away")
    assert not looks.due
    os.mkdir(tmp_path)
    assert looks.due
