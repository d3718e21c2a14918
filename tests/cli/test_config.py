from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from queuectl.settings.config import SETTINGS

if TYPE_CHECKING:
    from tests.support import SpoolDir


def test_set_get_unset(spool: SpoolDir) -> None:
    assert spool.run("config", "set", "max-retries", "5").out == "max-retries=5\n"
    assert spool.run("config", "get", "max_retries").out == "5\n"
    assert spool.run("config", "unset", "max_retries").out == "max-retries=3\n"
    assert spool.run("config", "get", "max-retries", "--json").json == 3


def test_get_without_a_key_has_all_of_them(spool: SpoolDir) -> None:
    spool.create()
    assert [line.partition("=")[0] for line in spool.run("config", "get").lines] == list(SETTINGS)
    assert list(spool.run("config", "get", "--json").json) == list(SETTINGS)


def test_what_get_prints_set_takes(spool: SpoolDir) -> None:
    spool.create()
    before = spool.run("config", "get").out
    for line in before.splitlines():
        key, _, value = line.partition("=")
        spool.run("config", "set", key, "" if value == '""' else value)
    assert spool.run("config", "get").out == before


def test_show_says_what_each_is_for_and_which_are_set(spool: SpoolDir) -> None:
    spool.run("config", "set", "lease", "2m")
    lines = {line.split()[0]: line for line in spool.run("config", "show").lines}
    for key, item in SETTINGS.items():
        assert item.about in lines[key]
    assert lines["lease"].split()[1:3] == ["120", "set"]
    assert spool.run("config", "show", "--json").json["lease"] == {
        "value": 120,
        "set": True,
        "about": SETTINGS["lease"].about,
    }
    assert spool.run("config", "get", "--json").json["lease"] == 120


def test_show_shows_them_beside_what_is_no_setting(spool: SpoolDir) -> None:
    spool.configure(max_retries=2)
    path = f"{spool.path}/config.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"max-retries": 2, "lease": "x", "odd": 1, "newer": True}, file)
    shown = spool.run("config", "show", status=1)
    assert re.search("^max-retries +2 +set", shown.out, re.MULTILINE)
    assert not re.search(r"^lease +\S+ +set", shown.out, re.MULTILINE)  # that value does not hold
    assert [f'no setting "{key}"' in shown.err for key in ("odd", "newer")] == [True, True]
    assert spool.run("config", "show", "--json", status=1).json["max-retries"]["value"] == 2


def test_a_negative_number_is_a_value_and_no_option(spool: SpoolDir) -> None:
    told = spool.refuse("config", "set", "max-retries", "-1", status=2)
    assert '"max-retries" must be an integer from 0 to 1000, got "-1"' in told


REFUSED = [
    (["get", "max-retry"], 'no setting "max-retry"; did you mean "max-retries"?'),
    (["set", "backof-base", "2"], 'did you mean "backoff-base"?'),
    (["unset", "xyzzy"], "`queuectl config show` lists them"),
    (["set", "max-retries", "1_0"], '"max-retries" must be an integer from 0 to 1000, got "1_0"'),
    (["set", "backoff-base", "1_0"], '"backoff-base" must be a number from'),
    (["set", "max-retries", "lots"], '"max-retries" must be an integer from 0 to 1000, got "lots"'),
    (["set", "job_timeout", "soon"], '"job-timeout" must be a duration from'),
    (["set", "durability", "some"], '"durability" must be one of full, relaxed'),
    (["set", "shared", "perhaps"], '"shared" must be true or false'),
]


@pytest.mark.parametrize(("words", "why"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_wrong_key_or_value_is_told_with_the_right_ones(
    spool: SpoolDir, words: list[str], why: str
) -> None:
    spool.create()
    assert why in spool.refuse("config", *words, status=2)
    assert not os.path.exists(f"{spool.path}/config.json")


def test_a_damaged_file_is_told_and_not_replaced(spool: SpoolDir) -> None:
    spool.create()
    with open(f"{spool.path}/config.json", "w") as file:
        file.write('{"lease": ')
    for words in (
        ["config", "get"],
        ["config", "set", "lease", "9"],
        ["enqueue", "--", "true"],
        ["worker", "start"],
    ):
        text = spool.refuse(*words)
        assert f"{spool.path}/config.json is not JSON" in text
        assert "remove it to use the defaults" in text
    with open(f"{spool.path}/config.json") as file:
        assert file.read() == '{"lease": '


@pytest.mark.parametrize(
    ("body", "key"), [('{"max-retries": "x"}', "max-retries"), ('{"foo": 1}', "foo"), ('{"l', "")]
)
def test_what_is_wrong_in_the_file_hinders_nobody_who_does_not_go_by_it(
    spool: SpoolDir, body: str, key: str
) -> None:
    spool.drop("job")
    path = f"{spool.path}/config.json"
    with open(path, "w") as file:
        file.write(body)
    for words in (["status"], ["list"], ["show", "job"], ["pause"], ["resume"], ["cancel", "job"],
                  ["retry", "job"], ["worker", "list"], ["worker", "stop"]):  # fmt: skip
        said = spool.run(*words).err
        assert said.startswith(f"queuectl: {path}")
        assert "; going on without it\n" in said
    assert f"problem  {path}" in spool.run("doctor", status=1).out
    if key:
        assert f"`queuectl config unset {key}` removes it" in spool.refuse("config", "get")
        spool.run("config", "unset", key)
        assert spool.run("status").err == ""


def test_a_wrong_value_is_mended_by_another(spool: SpoolDir) -> None:
    spool.configure(max_retries=4)
    with open(f"{spool.path}/config.json", "w") as file:
        file.write('{"max_retries": "x", "lease": 99}')
    spool.run("config", "set", "max-retries", "7")
    assert spool.run("config", "get", "max-retries").lines == ["7"]
    assert spool.run("config", "get", "lease").lines == ["99"]


def test_of_several_faults_in_the_file_each_can_be_taken_out(spool: SpoolDir) -> None:
    spool.create()
    with open(f"{spool.path}/config.json", "w") as file:
        file.write('{"max-retires": 5, "leese": 40}')
    done = spool.run("config", "unset", "max-retires")
    assert done.out == "max-retires was removed\n"
    assert 'no setting "leese"' in done.err
    assert spool.run("config", "unset", "leese").err == ""
    assert spool.run("config", "get", "max-retries").out == "3\n"


def test_a_directory_is_no_shell(spool: SpoolDir) -> None:
    text = spool.refuse("config", "set", "shell", "/tmp", status=2)
    assert "must be the absolute path of a program" in text


def test_a_setting_is_taken_as_it_is_printed(spool: SpoolDir) -> None:
    line = spool.run("config", "set", "max-retries=7").out
    assert line == "max-retries=7\n"
    assert "the value is missing" in spool.refuse("config", "set", "max-retries", status=2)


def test_a_duration_in_the_file_may_be_written_as_on_the_command_line(spool: SpoolDir) -> None:
    spool.create()
    with open(f"{spool.path}/config.json", "w") as file:
        file.write('{"job-timeout": "2h", "log-max-size": "10M", "kill-grace": "none of these"}')
    assert "kill-grace" in spool.refuse("config", "get", "job-timeout")
    spool.run("config", "unset", "kill-grace")
    assert spool.run("config", "get", "job-timeout").out == "7200\n"
    assert spool.run("config", "get", "log-max-size").out == f"{10 << 20}\n"


def test_codes_and_none_in_the_file_may_be_written_so_too(spool: SpoolDir) -> None:
    spool.create()
    with open(f"{spool.path}/config.json", "w") as file:
        file.write('{"fatal-codes": "3-5", "success-codes": "0,9", "retain-dead": "none"}')
    assert spool.run("config", "get", "fatal-codes").out == "3-5\n"
    assert spool.run("config", "get", "success-codes").out == "0,9\n"
    assert spool.run("config", "get", "retain-dead").out == "none\n"


def test_who_ends_the_sharing_of_a_spool_is_told_what_that_means(spool: SpoolDir) -> None:
    spool.create()
    assert spool.run("config", "set", "shared", "true").err == ""
    assert "is yours alone now" in spool.run("config", "set", "shared", "false").err
    assert spool.run("config", "set", "shared", "false").err == ""


def test_one_value_as_json_is_json_too(spool: SpoolDir) -> None:
    spool.create()
    assert spool.run("config", "get", "success-codes", "--json").json == [0]
    assert spool.run("config", "get", "log-max-size", "--json").json is None
    assert spool.run("config", "get", "durability", "--json").json == "full"


@pytest.mark.parametrize(("text", "value"), [("True", True), ("YES", True), ("Off", False)])
def test_a_switch_is_set_by_any_word_for_it(spool: SpoolDir, text: str, value: bool) -> None:
    spool.run("config", "set", "shared", text)
    assert spool.run("config", "get", "shared", "--json").json is value
