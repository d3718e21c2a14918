from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from queuectl.errors import BadSettingError
from queuectl.settings import config
from queuectl.settings.config import SETTINGS, Config

if TYPE_CHECKING:
    from pathlib import Path


def test_every_setting_has_a_default_that_it_accepts_and_a_word_about_it() -> None:
    default = Config()
    for key, item in SETTINGS.items():
        value = getattr(default, item.name)
        value = list(value) if isinstance(value, tuple) else value
        assert item.kind.accepts(value), key
        assert item.about, key


def test_the_defaults_are_those_that_are_promised() -> None:
    default = Config()
    assert (default.max_retries, default.backoff_base, default.job_timeout) == (3, 2, 300)
    assert (default.durability, default.shared) == ("full", False)


@pytest.mark.parametrize("key", ["max-retries", "max_retries", "MAX-RETRIES"])
def test_a_key_has_two_spellings(key: str) -> None:
    assert config.canonical_key(key) == "max-retries"


def test_an_unknown_key_is_told_with_the_nearest() -> None:
    with pytest.raises(BadSettingError, match='no setting "max-retry"; did you mean "max-retries"'):
        config.canonical_key("max-retry")


def test_a_key_like_none_is_told_with_all() -> None:
    with pytest.raises(BadSettingError, match="`queuectl config show` lists them"):
        config.canonical_key("zzz")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("max-retries", "0", 0),
        ("backoff-base", "1.5", 1.5),
        ("backoff-base", "3", 3),
        ("backoff-max", "2h", 7200),
        ("backoff-jitter", "0.25", 0.25),
        ("job-timeout", "15m", 900),
        ("job-timeout", "none", None),
        ("kill-grace", "500ms", 0.5),
        ("poll-interval", "0.05", 0.05),
        ("lease", "1", 1),
        ("durability", "relaxed", "relaxed"),
        ("shell", "/bin/sh", "/bin/sh"),
        ("worker-count", "16", 16),
        ("shared", "yes", True),
        ("shared", "off", False),
        ("success-codes", "3,0, 3", [0, 3]),
        ("fatal-codes", "1, 64-66", [1, 64, 65, 66]),
        ("later-codes", "", []),
        ("later-codes", '""', []),  # as `config get` prints it
    ],
)
def test_a_value_is_read_as_people_write_it(key: str, text: str, value: Any) -> None:
    assert config.read_value(key, text) == value


@pytest.mark.parametrize(
    ("key", "text", "range_"),
    [
        ("max-retries", "-1", "an integer from 0 to 1000"),
        ("max-retries", "many", "an integer from 0"),
        ("max-retries", "1.5", "an integer from 0"),
        ("backoff-base", "nan", "a number from 0"),
        ("backoff-base", "inf", "a number from 0"),
        ("backoff-jitter", "2", "a number from 0 to 1"),
        ("job-timeout", "0", "a duration from 1ms"),
        ("poll-interval", "0.01", "a duration from 50ms"),
        ("lease", "1y", "a duration from 1"),
        ("durability", "maybe", "one of full, relaxed"),
        ("shell", "sh", "the absolute path of a program"),
        ("shell", "/nowhere/sh", "the absolute path of a program"),
        ("worker-count", "0", "an integer from 1"),
        ("shared", "maybe", "true or false"),
        ("success-codes", "0,256", "exit codes from 0 to 255"),
        ("later-codes", "x", "exit codes from 0 to 255"),
        ("later-codes", "5-3", "exit codes from 0 to 255"),
        ("later-codes", "0-999", "exit codes from 0 to 255"),
        ("success-codes", "", "exit codes from 0 to 255, such as 0,3 or 64-78, at least one"),
        ("job-timeout", "9" * 400, "a duration from"),
        ("worker-count", "9" * 5000, "an integer from"),
        ("log-max-size", "9" * 400, "a size"),
    ],
)
def test_a_bad_value_is_told_with_what_is_allowed(key: str, text: str, range_: str) -> None:
    with pytest.raises(BadSettingError, match=f'"{key}" must be {range_}'):
        config.read_value(key, text)


def test_without_a_file_the_defaults_are_in_force(tmp_path: Path) -> None:
    assert config.load(str(tmp_path)) == (Config(), [])


def test_a_file_may_use_either_spelling(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_retries": 5, "backoff-base": 3}')
    assert config.load(str(tmp_path)) == (Config(max_retries=5, backoff_base=3), [])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "must hold a JSON object"),
        (b'{"max-retry": 1}', 'did you mean "max-retries"'),
        (b'{"max-retries": "5"}', 'must be an integer from 0 to 1000, got "5"'),
        (b'{"shared": 1}', "must be true or false"),
        (b'{"kill-grace": 1' + b"0" * 400 + b"}", "must be a duration from 0"),
        (b'{"job-timeout": "soon"}', 'or none, got "soon"'),
        (b'{"kill-grace": "400d"}', 'got "400d"'),
        (b'{"log-max-size": "' + b"9" * 400 + b'"}', 'got "999'),
        (b'{"max-retries": 1, "max_retries": 2}', '"max-retries" is set twice'),
    ],
)
def test_a_bad_file_is_told_with_its_path_and_left_as_it_is(
    tmp_path: Path, body: bytes, why: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(body)
    (fault,) = config.load(str(tmp_path))[1]
    assert why in str(fault)
    assert str(path) in str(fault)
    assert path.read_bytes() == body


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"lease": 1, "lease": 2}'])
def test_what_holds_no_settings_is_not_edited(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(body)
    (tmp_path / "tmp").mkdir()
    with pytest.raises(BadSettingError):
        config.edit(str(tmp_path), lambda stored: stored.update({"lease": 9}))
    assert path.read_bytes() == body


def test_an_edit_must_be_right_itself_beside_whatever_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"max-retires": 5, "leese": 40}')
    (tmp_path / "tmp").mkdir()
    with pytest.raises(BadSettingError, match="lease"):
        config.edit(str(tmp_path), lambda stored: stored.update({"lease": "long"}))
    config.edit(str(tmp_path), lambda stored: stored.pop("leese"))
    assert json.loads(path.read_text()) == {"max-retires": 5}


def test_an_edit_keeps_the_other_keys_and_leaves_nothing_in_tmp(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    config.edit(str(tmp_path), lambda stored: stored.update({"lease": 9}))
    config.edit(str(tmp_path), lambda stored: stored.update({"max-retries": 1}))
    assert json.loads((tmp_path / "config.json").read_text()) == {"lease": 9, "max-retries": 1}
    assert list((tmp_path / "tmp").iterdir()) == []
    config.edit(str(tmp_path), lambda stored: stored.pop("lease"))
    assert config.load(str(tmp_path)) == (Config(max_retries=1), [])


def test_a_stored_list_of_no_success_codes_is_borne(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"success-codes": []}')
    assert config.load(str(tmp_path))[0].success_codes == []


@pytest.mark.parametrize("key", ["lease", "poll-interval", "backoff-base", "max-retries"])
def test_true_is_no_number(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"{key}": true}}')
    (fault,) = config.load(str(tmp_path))[1]
    assert f'"{key}" must be' in str(fault)


@pytest.mark.parametrize("kind", ["a link to a device", "a FIFO", "a sparse file"])
def test_what_cannot_be_settings_is_not_read(tmp_path: Path, kind: str) -> None:
    """The defaults hold, and nothing is read that may have no end or may never come."""
    path = tmp_path / "config.json"
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a sparse file":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.symlink_to("/dev/zero")
    settings, (fault,) = config.load(str(tmp_path))
    assert settings == Config()
    assert str(path) in str(fault)
    assert "remove it to use the defaults" in str(fault)
