from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support import SpoolDir, environment

if TYPE_CHECKING:
    from pathlib import Path

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


def settings_of(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        name, equals, text = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(text)
    return found


def verify(unit: str, place: Path) -> str:
    path = place / "queuectl-test.service"
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stderr + done.stdout


@needs_systemd
@pytest.mark.parametrize("options", [(), ("--user",), ("--count", "8")])
def test_systemd_finds_nothing_wrong_with_the_unit(
    spool: SpoolDir, tmp_path: Path, options: tuple[str, ...]
) -> None:
    unit = spool.run("systemd-unit", *options).out
    assert "queuectl-test" not in verify(unit, tmp_path)
    # and a mistake would have been reported
    assert "queuectl-test" in verify(unit.replace("Type=notify", "Type=notfy"), tmp_path)


def test_the_unit_does_what_a_queue_needs(spool: SpoolDir) -> None:
    unit = spool.run("systemd-unit", "--count", "3").out
    settings = settings_of(unit)
    assert settings["Type"] == ["notify"]
    assert settings["KillMode"] == ["mixed"]
    assert settings["Restart"] == ["on-failure"]
    assert settings["UMask"] == ["0077"]
    assert settings["OOMPolicy"] == ["continue"]
    assert int(settings["WatchdogSec"][0]) > 0
    assert settings["ExecStart"][0].startswith("/")
    assert settings["ExecStart"][0].endswith("worker start --count 3")
    assert settings["WantedBy"] == ["multi-user.target"]
    assert settings["User"]


def test_the_unit_of_a_shared_spool_has_others_read_the_output(spool: SpoolDir) -> None:
    spool.configure(shared=True)
    unit = spool.run("systemd-unit").out
    assert "# jobs and their output are for all who share the spool\nUMask=0007\n" in unit


def test_a_users_unit_names_no_user_and_starts_with_their_session(spool: SpoolDir) -> None:
    settings = settings_of(spool.run("systemd-unit", "--user").out)
    assert "User" not in settings
    assert settings["WantedBy"] == ["default.target"]


def test_a_stop_may_take_as_long_as_the_longest_job(spool: SpoolDir) -> None:
    spool.configure(job_timeout=2592000, kill_grace=10)
    unit = spool.run("systemd-unit").out
    assert settings_of(unit)["TimeoutStopSec"] == ["2592040"]
    assert "job-timeout 2592000 + kill-grace 10" in unit


def test_where_jobs_have_no_limit_a_stop_may_take_an_hour(spool: SpoolDir) -> None:
    spool.configure(job_timeout=None)
    unit = spool.run("systemd-unit").out
    assert settings_of(unit)["TimeoutStopSec"] == ["1h"]
    assert "job-timeout is none here" in unit


def test_the_unit_says_how_this_one_is_installed_beside_others(spool: SpoolDir) -> None:
    words = ("--spool", spool.path, "systemd-unit", "--user", "--count", "2")
    unit = spool.run(*words).out
    name = re.findall(r"systemd/user/(queuectl-spool-[0-9a-f]{8}).service", unit)[0]
    line = f"#   queuectl {shlex.join(words)} > ~/.config/systemd/user/{name}.service"
    assert line in unit.splitlines()
    assert f"enable --now {name}" in unit
    others = [f"{spool.path}/{other}" for other in ("a/spool", "a-spool", "b.socket", "é" * 80)]
    units = [spool.run("--spool", path, "systemd-unit").out.splitlines()[2] for path in others]
    assert len(set(units)) == len(others)
    assert not [line for line in units if ".socket" in line.rpartition("/")[2]]
    usual = spool.run("--spool", "~/.queuectl", "systemd-unit", "--user", HOME=spool.path).out
    assert "--spool" in usual.splitlines()[2]  # because $QUEUECTL_SPOOL is set
    assert "systemd/user/queuectl.service" in usual


def test_printing_a_unit_makes_no_spool(spool: SpoolDir) -> None:
    spool.run("systemd-unit")
    assert not os.path.lexists(spool.path)


@needs_systemd
def test_a_spool_with_spaces_quotes_and_specifiers_reaches_the_worker_unchanged(
    tmp_path: Path,
) -> None:
    spool = SpoolDir(os.path.realpath(tmp_path) + "/a b \"c\" 50% $HOME 'd'")
    unit = spool.run("systemd-unit").out
    assert "queuectl-test" not in verify(unit, tmp_path)
    assert r"\"c\" 50%% $$HOME 'd'" in settings_of(unit)["ExecStart"][0]


def test_a_spool_that_no_line_can_hold_is_refused(tmp_path: Path) -> None:
    spool = SpoolDir(f"{tmp_path}/two\nlines")
    assert "control character" in spool.refuse("systemd-unit")


def stop_lines(spool: SpoolDir) -> list[list[str]]:
    """Return the words of the unit's ExecStop lines as systemd would split them."""
    lines = settings_of(spool.run("systemd-unit").out)["ExecStop"]
    return [[a or b for a, b in re.findall(r"'([^']*)'|(\S+)", line)] for line in lines]


def carry_out(lines: list[list[str]], pid: str) -> list[int]:
    env = {**environment(""), "MAINPID": pid}
    status = []
    for line in lines:
        # systemd replaces a word that is a variable and nothing else, and drops it if that is empty
        words = [word for word in line if word != "$MAINPID" or pid]
        program, *rest = [pid if word == "$MAINPID" else word for word in words]
        done = subprocess.run(
            [program.removeprefix("-"), *rest], env=env, capture_output=True, timeout=60
        )
        status.append(done.returncode)
    return status


def test_a_stop_waits_for_the_job_that_runs(spool: SpoolDir) -> None:
    lines = stop_lines(spool)
    mark = os.path.realpath(os.path.dirname(spool.path)) + "/go"
    spool.drop("job", f"until [ -e {shlex.quote(mark)} ]; do sleep 0.05; done", priority=-1)
    spool.drop("next", "true")
    with spool.pool(1) as pool, ThreadPoolExecutor() as thread:
        pool.wait_for("started", "job")
        stop = thread.submit(carry_out, lines, str(pool.pid))
        pool.wait_for("stopping")
        assert not stop.done()
        with open(mark, "w", encoding="utf-8"):
            pass
        assert pool.wait() == 0
        assert stop.result()[0] == 0
    assert spool.states("job") == ["completed"]
    assert spool.states("next") == ["pending"]


def test_after_a_pool_has_left_by_itself_a_stop_has_nothing_to_do(spool: SpoolDir) -> None:
    lines = stop_lines(spool)
    assert all(words[0].startswith("-") for words in lines)
    carry_out(lines, "")  # it returns, since it waits for nobody


def test_the_second_sigterm_gives_the_job_back_uncounted(spool: SpoolDir) -> None:
    """The job goes back to pending/. systemd sends the second one when TimeoutStopSec is over."""
    spool.drop("job", "sleep 600")
    with spool.pool(1) as pool:
        pool.wait_for("started", "job")
        pool.signal(signal.SIGTERM)
        pool.wait_for("stopping")
        pool.signal(signal.SIGTERM)
        assert pool.wait() == 0
    record = spool.record("pending", "job")
    assert record["attempts"] == 0


def test_a_specifier_in_the_name_of_a_spool_is_none_in_the_description(tmp_path: Path) -> None:
    spool = SpoolDir(f"{tmp_path}/100%n")
    settings = settings_of(spool.run("systemd-unit").out)
    assert settings["Description"] == [f"queuectl, jobs of {tmp_path}/100%%n"]
