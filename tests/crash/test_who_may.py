"""Whoever can write to a spool can run commands as its owner, so nobody else may write to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from queuectl.states import STATES
from tests.crash.mounts import needs_root
from tests.crash.support import Spoolside, command_line, make_spool
from tests.looking.terminal import Terminal
from tests.support import environment, wait_until

NOBODY = 65534
AS_NOBODY = Path(__file__).with_name("as_nobody.py")


def with_umask(umask: int) -> list[str]:
    """Return the words to put before a command line that is to have this umask."""
    return ["sh", "-c", f'umask {umask:03o}; exec "$@"', "-"]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
@pytest.mark.parametrize(
    "name", [".", "pending", "processing", "failed", "completed", "dead", "tmp", "workers", "logs"]
)
def test_a_pool_refuses_a_directory_that_others_can_write_to(
    name: str, mode: int, side: Spoolside
) -> None:
    job_id = side.submit()
    (side.path / name).chmod(mode)
    done = side.run("worker", "start", "--stop-when-empty")
    assert done.returncode == 1
    assert "chmod go-w" in done.stderr
    assert done.stderr.count("\n") == 1
    assert side.state_of(job_id) == "pending"


def test_a_pool_that_runs_tells_once_that_others_can_write_to_a_directory(side: Spoolside) -> None:
    """A running pool logs once that a directory is open to others, as after `rsync -a`.

    Otherwise nobody would know until the next worker refuses to start, as after a reboot.
    """
    side.run("config", "set", "poll-interval", "0.1")
    pool = side.pool().up()
    told = f"{side.path}/pending can be written to by others (mode 775), who could run commands"
    for times in (1, 2):
        (side.path / "pending").chmod(0o775)
        wait_until(lambda times=times: pool.log().count(told) == times, pool.log)  # type: ignore[misc]
        side.wait_for(side.submit("sleep 0.5"), "completed")  # for some looks
        (side.path / "pending").chmod(0o700)
        side.wait_for(side.submit("sleep 0.5"), "completed")
    assert pool.log().count(told) == 2
    assert "chmod go-w" in pool.log()
    pool.stop()


def test_a_pool_refuses_settings_that_others_can_write_to(side: Spoolside) -> None:
    (side.path / "config.json").chmod(0o666)
    done = side.run("worker", "start", "--stop-when-empty")
    assert done.returncode == 1
    assert "config.json" in done.stderr


def test_a_shared_spool_is_served_on_purpose(side: Spoolside) -> None:
    job_id = side.submit()
    assert side.run("config", "set", "shared", "true").returncode == 0
    (side.path / "pending").chmod(0o770)
    private = with_umask(0o077)
    assert side.run("enqueue", "--id", "mine", "true", before=private).returncode == 0
    assert (side.path / "pending" / "mine.json").stat().st_mode & 0o777 == 0o660
    before = with_umask(0o007)
    done = side.run("worker", "start", "--stop-when-empty", "--detach", before=before)
    assert done.returncode == 0
    side.wait_for(job_id, "completed")
    for name in (f"completed/{job_id}.json", f"logs/{job_id}.1.out", "worker.log"):
        assert (side.path / name).stat().st_mode & 0o777 == 0o660, name
    assert (side.path / "config.json").stat().st_mode & 0o777 == 0o640
    side.path.chmod(0o2770)
    (side.path / "failed").rmdir()
    side.run("enqueue", "true", before=private)
    assert (side.path / "failed").stat().st_mode & 0o7777 == 0o2770


@needs_root
@pytest.mark.parametrize(
    "name", ["pending", "processing", "failed", "completed", "dead", "tmp", "workers", "logs"]
)
def test_doctor_tells_what_it_found_though_a_directory_cannot_be_read(
    name: str, open_path: Path
) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        side.submit()
        subprocess.run(["chown", "-R", str(NOBODY), str(side.path)], check=True)
        (side.path / name).chmod(0)
        done = as_nobody(side.path, "doctor")
        lines = done.stdout.splitlines()
        assert done.returncode == 1, done.stderr
        assert any(line.startswith("problem") and name in line for line in lines)
        assert "only its owner can put jobs in" in lines[0]
        assert [state for state in STATES if f"{state} ?" in lines[-1]] == [name] * (name in STATES)
        assert len(lines) == len(set(lines))


@needs_root
def test_others_change_the_settings_of_a_shared_spool(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        share_with_nobody(side)
        (side.path / "config.lock").unlink()
        (side.path / "config.json").chmod(0o660)
        assert side.run("config", "set", "max-retries", "5").returncode == 0
        os.chown(side.path / "config.lock", -1, NOBODY)  # as g+s on the directory would do
        os.chown(side.path / "config.json", -1, NOBODY)
        done = as_nobody(side.path, "config", "set", "max-retries", "4")
        assert done.returncode == 0, done.stderr


@needs_root
def test_settings_are_changed_in_a_container_that_does_not_know_the_group(
    open_path: Path,
) -> None:
    words = ["unshare", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("no user namespaces")
    with Spoolside(make_spool(open_path / "q")) as side:
        assert side.run("config", "set", "shared", "true").returncode == 0
        os.chown(side.path, -1, NOBODY)
        done = side.run("config", "set", "lease", "40", before=words)
        assert done.returncode == 0, done.stderr
        assert "40" in side.run("config", "get", "lease").stdout


@needs_root
def test_files_that_cannot_be_looked_at_are_told(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        side.run("enqueue", "--id", "job", "--", "true")
        side.path.chmod(0o755)
        (side.path / "pending").chmod(0o744)
        done = as_nobody(side.path, "list", "--newest-first")
        assert done.returncode == 1
        assert f"cannot look at {side.path}/pending/job.json: Permission denied" in done.stderr


@needs_root
def test_who_runs_the_jobs_of_a_shared_spool_is_told(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        assert "USER" not in side.run("worker", "list").stdout
        share_with_nobody(side)
        pool = side.pool().up()
        assert " as root  0 of" in side.run("status").stdout
        assert side.run("worker", "list").stdout.split()[:3] == ["WORKER", "USER", "PID"]
        (told,) = json.loads(side.run("worker", "list", "--json").stdout)
        assert told["user"] == "root"
        pool.stop()
        words = command_line("--spool", str(side.path), "systemd-unit")
        with Terminal(words, environment(), 200, 24) as person:
            told = f"whoever may write to {side.path}/pending can run commands as root"
            wait_until(lambda: told in person.raw, lambda: person.raw)
        assert side.run("systemd-unit").stderr == ""


@needs_root
def test_others_put_jobs_into_a_shared_spool(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        share_with_nobody(side)
        done = as_nobody(side.path, "enqueue", "--id", "theirs", "--", "/bin/true")
        assert done.returncode == 0, done.stderr
        assert side.run("worker", "start", "--stop-when-empty").returncode == 0
        assert side.state_of("theirs") == "completed"


@needs_root
@pytest.mark.parametrize("words", [("list",), ("enqueue", "true"), ("doctor",)])
def test_who_may_not_enter_a_spool_learns_whose_it_is(
    open_path: Path, words: tuple[str, ...]
) -> None:
    path = make_spool(open_path / "q")
    done = as_nobody(path, *words)
    assert done.returncode == 1
    assert f"config.json: Permission denied; {path} belongs to user root" in done.stderr
    assert "--spool DIR names another" in done.stderr


@needs_root
def test_who_may_not_read_the_output_of_a_job_learns_how_it_ended(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        share_with_nobody(side)
        private = with_umask(0o077)
        pool = side.pool(before=private).up()
        words = ("--max-retries", "2", "--command", "echo hidden; exit 3")
        done = as_nobody(side.path, "run", "--id", "theirs", *words)
        assert (done.returncode, done.stdout) == (3, "")
        said = done.stderr.splitlines()
        for suffix in ("1.out", "1.err", "2.out", "2.err"):
            path = side.path / "logs" / f"theirs.{suffix}"
            assert said.count(f"queuectl: cannot read {path}: Permission denied") == 1, said
        assert "queuectl: theirs is dead: exit status 3" in said
        as_nobody(side.path, "run", "--id", "mine", "--", "/bin/true")
        (side.path / "logs" / "mine.1.out").chmod(0o644)
        done = as_nobody(side.path, "logs", "theirs", "mine")
        assert done.returncode == 1
        assert "==> mine <==" in done.stdout
        pool.stop()


@needs_root
def test_a_job_whose_body_may_not_be_read_is_cancelled_and_hides_no_other(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        share_with_nobody(side)
        job_id = side.submit("sleep 15")
        pool = side.pool(before=with_umask(0o007)).up()
        side.wait_for_run(job_id)
        as_nobody(side.path, "enqueue", "--id", "theirs", "--delay", "1h", "--", "/bin/true")
        (held,) = (side.path / "processing").iterdir()
        held.chmod(0o600)  # as where directories do not pass their group on
        listed = as_nobody(side.path, "list", "--newest-first", "--ids")
        assert (listed.returncode, listed.stdout) == (0, "theirs\n")
        assert listed.stderr.count("cannot be read") == 1
        done = as_nobody(side.path, "cancel", job_id)
        assert (done.returncode, done.stdout) == (0, f"{job_id}\n"), done.stderr
        pool.stop()


@pytest.mark.slow
@needs_root
def test_what_a_dead_pool_of_somebody_else_left_running_does_not_run_again(open_path: Path) -> None:
    """A job that a dead pool of root ran waits for root: others cannot see or end its processes."""
    with Spoolside(make_spool(open_path / "q")) as side:
        share_with_nobody(side)
        job_id = side.submit("sleep 1000")
        pool = side.pool(before=with_umask(0o007))
        side.wait_for_run(job_id)
        pool.kill()

        done = as_nobody(side.path, "doctor", "--fix")
        assert "doctor --fix` of root takes it back" in done.stdout
        assert "mended" not in done.stdout
        assert done.returncode == 1
        assert "of root" in as_nobody(side.path, "doctor", job_id).stdout
        assert "of root" in as_nobody(side.path, "status").stdout
        done = as_nobody(side.path, "wait", "--timeout", "2", job_id)
        assert "only root can recover it" in done.stderr
        done = as_nobody(side.path, "cancel", job_id)
        assert (done.returncode, done.stdout) == (1, "")
        assert "not ours to end" in done.stderr
        # it looks several times, then leaves: the rest is not for it to do
        as_nobody(side.path, "enqueue", "--id", "theirs", "--", "/bin/sleep", "0.5")
        done = as_nobody(side.path, "worker", "start", "--stop-when-empty")
        assert done.returncode == 0
        assert done.stderr.count("only root can end") == 1, done.stderr
        assert side.state_of("theirs") == "completed"
        assert side.state_of(job_id) == "processing"

        assert side.run("doctor", "--fix").returncode == 0
        assert side.state_of(job_id) == "failed"


@needs_root
def test_files_that_a_pool_may_not_write_to_do_not_hold_it_up(open_path: Path) -> None:
    """Jobs whose files the pool may rename and read, but not write to, run like others.

    Their old bodies become spares, which a pool otherwise writes new bodies over.
    """
    with Spoolside(make_spool(open_path / "q")) as side:
        ids = [side.drop(f"job{number:02}", command="true", cwd="/").stem for number in range(40)]
        for path in (side.path, *side.path.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
            path.chmod(0o700 if path.is_dir() else 0o400)
        ran = as_nobody(side.path, "worker", "start", "--stop-when-empty")
        assert ran.returncode == 0
        assert "stalled" not in ran.stderr
        assert {side.state_of(job_id) for job_id in ids} == {"completed"}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_spool_is_private_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    with Spoolside(tmp_path / "q") as side:
        before = with_umask(umask)
        done = side.run("enqueue", "--id", "one", "--command", side.command(), before=before)
        assert done.returncode == 0, done.stderr
        done = side.run("config", "set", "poll-interval", "0.1", before=before)
        pool = side.pool("--stop-when-empty", before=before)
        assert pool.wait() == 0, pool.log()
        side.accepted = ["one"]
        side.check_promise()
        for path in (side.path, *side.path.rglob("*")):
            wanted = 0o700 if path.is_dir() else 0o600
            assert path.stat().st_mode & 0o777 == wanted, path


@pytest.mark.slow
@needs_root
def test_reading_commands_work_for_a_reader_and_change_nothing(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        done_id = side.submit("echo seen")
        side.drain()
        side.submit(run_at="2099-01-01T00:00:00Z")
        running = side.submit("sleep 600")
        pool = side.pool().up()
        pool.says("started")
        for path in (side.path, *side.path.rglob("*")):
            if path.name != "recovery.lock":  # some versions of filelock set its mode at each use
                path.chmod(0o755 if path.is_dir() else 0o644)
        before = state_of_everything(side.path)
        for words in (["status"], ["status", "--json"], ["list"], ["show", done_id],
                      ["show", running], ["dlq", "list"], ["worker", "list"],
                      ["config", "show"]):  # fmt: skip
            shown = as_nobody(side.path, *words)
            assert shown.returncode == 0, (words, shown.stderr)
        assert pool.process.poll() is None
        assert state_of_everything(side.path) == before
        for lock in (side.path / "workers").glob("*.lock"):
            lock.chmod(0o600)  # the reader may not open it and learns nothing
        shown = as_nobody(side.path, "worker", "list", "--json")
        assert [worker["pid"] for worker in json.loads(shown.stdout)] == [pool.pid]
        refused = as_nobody(side.path, "enqueue", "--", "true")
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1, refused.stderr


def state_of_everything(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return what shows a change of any file, but not times, which the pool's heartbeat changes."""
    return {
        str(file): (status.st_ino, status.st_size, status.st_mode)
        for file in path.rglob("*")
        for status in [file.stat()]
    }


def as_nobody(spool: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as the user nobody, in an interpreter that has imported all it needs."""
    return subprocess.run(
        [sys.executable, str(AS_NOBODY), str(NOBODY), "--spool", str(spool), *words],
        env=environment(HOME="/nonexistent"),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def share_with_nobody(side: Spoolside) -> None:
    """Make a spool shared, so that its owner and the user nobody may write to it."""
    assert side.run("config", "set", "shared", "true").returncode == 0
    for path in (side.path, *side.path.iterdir()):
        os.chown(path, -1, NOBODY)
        if path.is_dir():
            path.chmod(0o2770)


@needs_root
def test_a_spool_of_somebody_else_is_refused(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        os.chown(side.path / "pending", NOBODY, NOBODY)
        done = side.run("worker", "start", "--stop-when-empty")
        assert done.returncode == 1
        assert f"{side.path}/pending belongs to user nobody" in done.stderr
        assert f"chown 0 {side.path}/pending, or `queuectl config set shared" in done.stderr


@needs_root
def test_who_cannot_close_a_directory_is_told_to_use_one_in_it(open_path: Path) -> None:
    """Whoever cannot close a directory, as a volume mounted for all, is told to use one in it."""
    volume = open_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    assert as_nobody(volume, "enqueue", "--id", "one", "true").returncode == 0
    done = as_nobody(volume, "worker", "start")
    assert f"use a directory in it, such as {volume}/queue, or" in done.stderr


@needs_root
def test_root_is_told_once_to_look_as_the_user_whose_spool_it_is(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        job_id = side.submit()
        for path in (side.path, *side.path.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        told = side.run("doctor").stdout
        assert told.count("belongs to user nobody") == 1
        assert "`sudo -u nobody queuectl ...`" in told
        assert "shared" not in told
        assert "can never run" not in side.run("doctor", job_id).stdout


@needs_root
def test_doctor_of_root_writes_nothing_through_links_of_somebody_else(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        other = open_path / "others"
        other.mkdir()
        (side.path / "tmp").rmdir()
        (side.path / "tmp").symlink_to(other)
        os.chown(side.path, NOBODY, NOBODY)
        untouched = other.stat().st_mtime_ns
        told = side.run("doctor").stdout
        assert other.stat().st_mtime_ns == untouched
        assert "root writes nothing into another user's spool" in told


@needs_root
def test_root_deletes_and_mends_nothing_through_links_of_somebody_else(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        other = open_path / "others"
        other.mkdir()
        other.chmod(0o1777)
        precious = other / "package.json"
        precious.write_text("{}")
        os.utime(precious, (0, 0))
        body = '{"command": "true", "state": "dead"}'
        (other / "moved.json").write_text(body)
        for name in ("completed", "logs"):
            (side.path / name).rmdir()
            (side.path / name).symlink_to(other)
        os.chown(side.path, NOBODY, NOBODY)
        for name in os.listdir(side.path):
            os.chown(side.path / name, NOBODY, NOBODY, follow_symlinks=False)
        done = side.run("prune", "--older-than", "7d")
        assert done.returncode == 1
        assert "belongs to user nobody" in done.stderr
        assert side.run("prune", "--dry-run").returncode == 0
        side.run("doctor", "--fix")
        assert (other / "moved.json").read_text() == body
        assert precious.exists()
        assert other.stat().st_mode & 0o7777 == 0o1777


@needs_root
@pytest.mark.parametrize("maker", [0, NOBODY])  # root trusts no link of the spool's maker either
@pytest.mark.parametrize("name", ["pending", "tmp", "logs"])
def test_who_shares_a_spool_leads_nobody_elsewhere_by_a_link(
    name: str, maker: int, open_path: Path
) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        share_with_nobody(side)
        os.chown(side.path, maker, NOBODY)
        (side.path / "dead" / "planted.json").write_text('{"command": "true", "state": "dead"}')
        mine = open_path / "mine"
        mine.mkdir(mode=0o700)
        (side.path / name).rmdir()
        (side.path / name).symlink_to(mine)
        os.chown(side.path / name, NOBODY, NOBODY, follow_symlinks=False)
        untouched = mine.stat().st_mtime_ns
        told = f"{side.path}/{name} is a link of user nobody"
        for words in (["retry", "planted"], ["enqueue", "true"], ["prune", "planted"]):
            done = side.run(*words)
            assert done.returncode == 1, done
            assert told in done.stderr
        assert told in side.run("worker", "start", "--stop-when-empty").stderr
        assert told in side.run("doctor").stdout
        assert mine.stat().st_mtime_ns == untouched
        assert not any(mine.iterdir())
        os.chown(side.path / name, 0, 0, follow_symlinks=False)
        assert side.run("enqueue", "true").returncode == 0


@needs_root
def test_the_log_of_a_shared_spool_is_no_link_of_somebody_else(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        share_with_nobody(side)
        precious = open_path / "precious"
        precious.touch(0o600)
        log = side.path / "worker.log"
        log.symlink_to(precious)
        done = side.run("worker", "start", "--detach")
        assert done.returncode == 1
        assert f"{log} is a link, which it must not be in a shared spool" in done.stderr
        assert (precious.stat().st_mode & 0o777, precious.stat().st_size) == (0o600, 0)
        log.unlink()
        os.mkfifo(log)
        done = side.run("worker", "start", "--detach")
        assert done.returncode == 1
        assert f"cannot write to {log}" in done.stderr
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        done = side.run("worker", "start", "--detach")
        os.close(reader)
        assert done.returncode == 1
        assert f"{log} is not a file" in done.stderr


@needs_root
def test_settings_that_root_changes_stay_those_of_the_group(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        share_with_nobody(side)
        for path in (side.path, side.path / "tmp"):
            path.chmod(0o770)  # no g+s
        assert side.run("config", "set", "max-retries", "5").returncode == 0
        done = as_nobody(side.path, "config", "get", "max-retries")
        assert (done.returncode, done.stdout) == (0, "5\n")


@needs_root
def test_doctor_tells_what_keeps_out_those_who_share_a_spool(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        assert side.run("config", "set", "shared", "true").returncode == 0
        told = side.run("doctor").stdout
        assert f"shared, but not set up for a group: {side.path}, {side.path}/pending" in told
        assert f"chgrp -R GROUP {side.path} && chmod -R g+rwX" in told
        share_with_nobody(side)
        assert "shared on purpose" in side.run("doctor").stdout
        (side.path / "pending").chmod(0o770)
        told = side.run("doctor").stdout
        assert f"not set up for a group: {side.path}/pending  (chgrp -R nogroup" in told
        (side.path / "pending").chmod(0o3770)
        told = side.run("doctor").stdout
        assert f"move a file out of {side.path}/pending" in told
        assert f"chmod -t {side.path}/pending" in told
        for path in (side.path, *side.path.iterdir()):
            if path.is_dir():
                path.chmod(0o777)
        assert "shared on purpose" in side.run("doctor").stdout
        (side.path / "dead").chmod(0o770)
        told = side.run("doctor").stdout
        assert f"closed to some: {side.path}/dead  (chmod o+rwx {side.path}/dead)" in told
        (side.path / "dead").chmod(0o777)
        elsewhere = open_path / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        (side.path / "logs").rmdir()
        (side.path / "logs").symlink_to(elsewhere)
        assert "shared on purpose" in side.run("doctor").stdout
        (side.path / "logs").unlink()
        assert "logs/ missing" in side.run("doctor").stdout


@needs_root
def test_who_queues_from_a_directory_that_is_closed_to_them_is_told(open_path: Path) -> None:
    """`enqueue` warns where its user cannot enter the current directory, as after plain `su`."""
    closed = open_path / "closed"
    closed.mkdir(mode=0o700)
    theirs = open_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    command = f"cd {closed} && exec {sys.executable} {AS_NOBODY} {NOBODY}"
    words = ["sh", "-c", f"{command} --spool {theirs}/q enqueue --id job true"]
    with Terminal(words, environment(HOME="/nonexistent"), 200, 24) as person:
        told = f"you cannot enter {closed}, nor can a worker of yours; see --cwd"
        wait_until(lambda: told in person.raw, lambda: person.raw)
        wait_until((theirs / "q/pending/job.json").exists, lambda: person.raw)


@needs_root
def test_doctor_tells_of_a_recovery_lock_that_is_anothers(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        side.submit()
        side.drain()
        for path in (side.path, *side.path.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        lock = side.path / "workers" / "recovery.lock"
        os.chown(lock, 0, 0)
        lock.chmod(0o600)
        told = as_nobody(side.path, "doctor").stdout
        assert "recovery.lock is not ours to lock" in told
        assert f"chown {NOBODY} {lock}" in told


@needs_root
def test_a_file_that_may_be_read_only_once_it_is_whole_is_waited_for(open_path: Path) -> None:
    """A file that cannot be read is waited for until it is quiet, then set aside.

    `mv` from another file system and `cp -p` set mode and owner last.
    """
    with Spoolside(make_spool(open_path / "q")) as side:
        for path in (side.path, *side.path.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        late, hidden = (side.path / "pending" / f"{name}.json" for name in ("late", "hidden"))
        for path in (late, hidden):
            path.write_text('{"command": "true", "cwd": "/"}')
            path.chmod(0o600)
        timer = threading.Timer(1.5, os.chown, (late, NOBODY, NOBODY))
        timer.start()
        ran = as_nobody(side.path, "worker", "start", "--stop-when-empty")
        timer.join()
        assert ran.returncode == 0
        assert side.state_of("late") == "completed", ran.stderr
        assert side.state_of("hidden") == "dead"
        assert "cannot be read: Permission denied (of user root, mode 600)" in ran.stderr


@needs_root
def test_what_a_dead_pool_held_and_nobody_may_read_is_set_aside(open_path: Path) -> None:
    with Spoolside(make_spool(open_path / "q")) as side:
        for name in ("a~reject1@vm-1-00000000", "b@vm-1-00000000"):
            held = side.path / "processing" / f"{name}.json"
            held.write_text('{"command": "true"}')
            held.chmod(0)
        for path in (side.path, *side.path.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        ran = as_nobody(side.path, "worker", "start", "--stop-when-empty")
        assert ran.returncode == 0
        for job_id in ("a", "b"):
            assert side.state_of(job_id) == "dead", ran.stderr
        assert ran.stderr.count("cannot be read: Permission denied") == 2
