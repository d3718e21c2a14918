"""The line that tells a waiting person how far a command is."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import subprocess
import termios
import time
from typing import TYPE_CHECKING

from tests.looking.terminal import Terminal, terminal
from tests.support import (
    DEADLINE_S,
    environment,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir

CLEAR = "\r\x1b[K"


def on_the_screen(written: str) -> list[str]:
    """Return the lines of a terminal after this was written to it; cleared lines are empty."""
    return [line.rpartition(CLEAR)[2].rstrip() for line in re.split("\r?\n", written)]


def test_who_waits_for_many_sees_how_many_have_ended_and_how_long_it_takes(
    spool: SpoolDir, tmp_path: Path
) -> None:
    for job_id in ("a", "b", "c", "d"):
        status = "; false" if job_id == "b" else ""
        spool.drop(job_id, waiting_for(f"{tmp_path}/{job_id}") + status)
    spool.configure(max_retries=1)
    (tmp_path / "a").touch()
    with terminal(spool, "wait", "--all") as screen:
        wait_until(lambda: "0 of 4 ended" in screen.raw)  # it has selected the jobs
        with spool.pool():
            wait_until(lambda: "1 of 4 ended" in screen.raw)
            (tmp_path / "b").touch()
            wait_until(lambda: "2 of 4 ended, 1 not completed" in screen.raw)
            (tmp_path / "c").touch()
            left = r"3 of 4 ended, 1 not completed, about \d+s left"
            wait_until(lambda: re.search(left, screen.raw))
            (tmp_path / "d").touch()
            assert screen.wait() == 1
        seen = on_the_screen(screen.raw.removesuffix("after-the-end"))
        remark = "queuectl: no worker is running; `queuectl worker start` starts one"
        assert [line for line in seen if line != remark] == [
            *("a", "b", "queuectl: b is dead: exit status 1", "c", "d", "")
        ]


def test_the_line_comes_back_after_two_ends_one_after_the_other(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(poll_interval=3600)
    for job_id in ("a", "b", "c"):
        spool.drop(job_id, waiting_for(f"{tmp_path}/{job_id}"))
    with spool.pool(3), terminal(spool, "wait", "--all") as screen:
        wait_until(lambda: "0 of 3 ended" in screen.raw)
        (tmp_path / "a").touch()
        wait_until(lambda: "1 of 3 ended" in screen.raw)
        (tmp_path / "b").touch()
        wait_until(lambda: "2 of 3 ended" in screen.raw, deadline_s=10)
        (tmp_path / "c").touch()
        assert screen.wait() == 0


def test_who_selects_among_many_sees_how_far_it_is(spool: SpoolDir, tmp_path: Path) -> None:
    for number in range(30):
        spool.drop(f"job-{number:02}", tags=["x"] if number == 17 else [])
    spool.drop_bytes("job-02", b"{")
    at_once = "from queuectl.cli import progress\nprogress._PATIENCE_S = progress._EVERY_S = 0\n"
    path = with_code_at_start(tmp_path, at_once)["PYTHONPATH"]
    for words in (["list", "--tag", "x"], ["cancel", "--tag", "x"]):
        with terminal(spool, *words, PYTHONPATH=path) as screen:
            assert screen.wait() == 0
        assert "16 looked at ..." in screen.raw
        assert ("29 looked at ..." in screen.raw) == (words[0] == "cancel")
        seen = on_the_screen(screen.raw)
        assert not any("looked" in line for line in seen)
        assert any("job-17" in line for line in seen)
        assert any(line.startswith(f"queuectl: {spool.path}/pending/job-02") for line in seen)


def test_who_waits_sees_that_a_job_is_gone(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.1)
    for job_id in ("a", "b"):
        spool.drop(job_id)
    with terminal(spool, "wait", "--all") as screen:
        wait_until(lambda: "0 of 2 ended" in screen.raw)
        os.unlink(spool.file("pending", "a"))
        wait_until(lambda: "1 of 2 ended, 1 not completed" in screen.raw, lambda: screen.raw)
        screen.type("\x03")
        assert screen.wait() == 130


def test_who_queues_many_sees_how_many_are_queued_and_each_id_on_its_own_line(
    spool: SpoolDir, tmp_path: Path
) -> None:
    (tmp_path / "commands").write_text("true\n" * 2500)
    spool.create()
    with terminal(spool, "enqueue", "--commands", f"{tmp_path}/commands") as screen:
        screen.type("\x13")  # Ctrl-S: its output has to wait
        wait_until(lambda: spool.ids("pending"))
        time.sleep(1.2)  # the line comes after a second
        screen.type("\x11")
        assert screen.wait() == 0
        assert "of 2,500 queued" in screen.raw
        seen = on_the_screen(screen.raw.removesuffix("after-the-end"))
    told = "no worker is running; `queuectl worker start` starts one"
    assert sorted(seen) == sorted([*spool.ids("pending"), told, ""])


def test_how_many_are_queued_is_told_beside_a_standard_output_that_has_the_ids_alone(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.configure(durability="relaxed")
    (tmp_path / "commands").write_text("true\n" * 5000)  # their ids are more than a pipe holds
    line = f'"$@" | {{ {waiting_for(f"{tmp_path}/go")}; cat > {tmp_path}/ids; }}'
    words = spool.command("enqueue", "--commands", f"{tmp_path}/commands")
    with Terminal(["sh", "-c", line, "", *words], environment(spool.path), 80, 24) as screen:
        wait_until(lambda: spool.ids("pending"))
        time.sleep(1.2)  # the line comes after a second
        (tmp_path / "go").touch()
        assert screen.wait() == 0
        assert "of 5,000 queued" in screen.raw
    assert (tmp_path / "ids").read_text().split() == sorted(spool.ids("pending"))


def test_the_line_is_cut_to_the_terminal_and_gone_after_an_interrupt(
    spool: SpoolDir, tmp_path: Path
) -> None:
    for job_id in ("a", "b"):
        spool.drop(job_id, waiting_for(f"{tmp_path}/end"))
    with spool.pool(), terminal(spool, "wait", "--all", width=10) as screen:
        wait_until(lambda: "0 of 2..." in screen.raw)
        screen.type("\x03")
        assert screen.wait() == 130
        assert not any("of 2" in line for line in on_the_screen(screen.raw))
        (tmp_path / "end").touch()


def test_who_waits_for_one_or_for_any_sees_none(spool: SpoolDir) -> None:
    for job_id in ("a", "b"):
        spool.drop(job_id, "sleep 2.5")
    with (
        spool.pool(),
        terminal(spool, "wait", "a") as one,
        terminal(spool, "wait", "--any", "a", "b") as any_one,
    ):
        assert (one.wait(), any_one.wait()) == (0, 0)
        assert CLEAR not in one.raw + any_one.raw


def test_whoever_keeps_standard_error_in_a_file_finds_no_such_line(spool: SpoolDir) -> None:
    spool.drop("a", "sleep 1.5")
    spool.drop("b", "sleep 1.5")
    with spool.pool():
        waiting = subprocess.run(
            spool.command("wait", "a", "b"),  # one of them may be over by then
            env=environment(spool.path),
            capture_output=True,
            text=True,
            check=True,
        )
    assert (waiting.stdout.split(), waiting.stderr) == (["a", "b"], "")


def check_no_line(spool: SpoolDir, *before: str) -> None:
    """Check that `wait`, run with these words before it, shows no line however long it takes."""
    spool.drop("a")
    spool.drop("b", waiting_for(f"{spool.path}.go"))
    words = [*before, *spool.command("wait", "a", "b")]
    with spool.pool(), Terminal(words, environment(spool.path), 80, 24) as screen:
        wait_until(lambda: "a" in screen.raw, "it waits")
        time.sleep(1.5)  # the line comes after a second
        open(f"{spool.path}.go", "x").close()
        assert screen.wait() == 0
        # look for the text: without colours, the sequence that clears a line is left out
        assert "of 2 ended" not in screen.raw


def test_a_terminal_that_can_clear_nothing_is_told_nothing(spool: SpoolDir) -> None:
    check_no_line(spool, "env", "TERM=dumb")


def test_who_waits_goes_on_when_the_terminal_is_gone(spool: SpoolDir, tmp_path: Path) -> None:
    """A `wait` outlives its terminal if nobody sends it a SIGHUP, as when it was disowned."""
    for job_id in ("a", "b"):
        spool.drop(job_id, waiting_for(f"{tmp_path}/end"))
    words = ["sh", "-c", 'trap "" HUP; exec "$@"', "-", *spool.command("wait", "--all")]
    master, slave = pty.openpty()
    with spool.pool(), open(tmp_path / "ids", "wb") as ids:
        waiting = subprocess.Popen(
            words,
            env=environment(spool.path, TERM="xterm"),
            stdin=slave,
            stdout=ids,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(slave)
        assert b"0 of 2" in os.read(master, 100)
        os.close(master)
        (tmp_path / "end").touch()
        assert waiting.wait(DEADLINE_S) == 0
    assert sorted((tmp_path / "ids").read_text().split()) == ["a", "b"]


def test_who_waits_in_the_background_leaves_the_terminal_to_others(spool: SpoolDir) -> None:
    check_no_line(spool, "bash", "-c", 'set -m; "$@" & wait', "-")
