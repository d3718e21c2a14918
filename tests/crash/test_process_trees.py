"""Commands that do not want to end, and what they leave behind."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuectl.kernel.processes import Tree, is_suspended, processes_of
from queuectl.run.stragglers import Ending
from tests.crash.support import command_line
from tests.support import (
    DEADLINE_S,
    Child,
    alive,
    environment,
    wait_until,
    waiting_for,
    with_code_at_start,
)

if TYPE_CHECKING:
    from tests.crash.support import Spoolside

STUBBORN = {
    "ignores SIGTERM": "trap '' TERM; sleep 600 & wait; sleep 600",
    "forks twice": "(sleep 600 & ) & sleep 600",
    "leaves by setsid": "setsid sleep 600 & sleep 600",
    "has a child that holds its output": "sleep 600 >&1 2>&2 & sleep 600",
    "stops itself": "kill -STOP $$; sleep 600",
}


def marked(spool: Path) -> list[int]:
    """Return the living processes that a job of this spool started."""
    mark = f"QUEUECTL_SPOOL={spool}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\0") and not zombie(int(name)):
                    found.append(int(name))
        except OSError:
            continue  # gone, or not ours
    return found


LOOK = """
import os
wanted = {b"QUEUECTL_ATTEMPT=1", os.fsencode("QUEUECTL_SPOOL=" + os.environ["QUEUECTL_SPOOL"])}
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{name}/environ", "rb") as file:
            if wanted <= set(file.read().split(b"\\0")):
                print(name)
    except OSError:
        pass
"""


def zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] == b"Z"


@pytest.mark.parametrize("work", STUBBORN.values(), ids=STUBBORN.keys())
def test_a_timeout_leaves_nothing_of_a_stubborn_command(work: str, side: Spoolside) -> None:
    job_id = side.submit(work, timeout=0.4, max_retries=1)
    pool = side.pool().up()
    record = side.wait_for(job_id, "dead")
    assert record["history"][-1]["ended"] == "timeout"
    assert marked(side.path) == []
    pool.stop()
    side.check_promise(("dead",))


@pytest.mark.parametrize("work", STUBBORN.values(), ids=STUBBORN.keys())
def test_stop_now_leaves_nothing_and_gives_the_job_back(work: str, side: Spoolside) -> None:
    job_id = side.submit(work)
    pool = side.pool().up()
    pool.says("started")
    wait_until(lambda: len(marked(side.path)) >= 1, "it runs")
    assert side.run("worker", "stop", "--now").returncode == 0
    assert pool.wait() == 0
    assert marked(side.path) == []
    record = side.wait_for(job_id, "pending")
    assert record["attempts"] == 0


@pytest.mark.parametrize("is_moved", [False, True])
def test_who_works_on_a_copy_of_a_spool_ends_nothing_of_the_spool_itself(
    side: Spoolside, is_moved: bool
) -> None:
    go_on = side.path.parent / "go-on"
    live = side.submit(waiting_for(str(go_on)), max_retries=1)
    held_too = side.submit(waiting_for(str(go_on)), max_retries=1)
    pool = side.pool("--count", "2").up()
    side.wait_for_run(live)
    side.wait_for_run(held_too)
    copy = side.path.parent / "copy"
    shutil.copytree(side.path, copy)
    away = side.path.parent / "away"
    if is_moved:  # as if it could not be seen from here, like one in a container
        pool.send(signal.SIGSTOP)  # or it would make the directories again
        side.path.rename(away)
    words = [*command_line("--spool", str(copy)), "cancel", held_too]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert "this spool is a copy" in done.stderr, done
    for words in (["doctor", "--fix"], ["worker", "start", "--stop-when-empty"]):
        subprocess.run(
            [*command_line("--spool", str(copy)), *words], env=environment(), check=False
        )
    if is_moved:
        away.rename(side.path)
        pool.send(signal.SIGCONT)
    go_on.touch()
    for job_id in (live, held_too):
        assert side.wait_for(job_id, "completed", "dead")["state"] == "completed"


def test_who_works_on_a_copy_leaves_what_a_job_of_the_spool_has_left_behind(
    side: Spoolside,
) -> None:
    """Recovery in a copy of a spool leaves alone what an ended job of the spool has left running.

    The job's pool, which is gone by then, has left it alone too, as each pool of the spool does.
    """
    job_id = side.submit("(setsid sleep 600 >/dev/null 2>&1 &)")
    held = side.submit("sleep 600")
    pool = side.pool("--count", "2").up()
    side.wait_for(job_id, "completed")
    side.wait_for_run(held)
    copy = side.path.parent / "copy"
    shutil.copytree(side.path, copy)
    pool.send(signal.SIGTERM)
    pool.says("stopping")  # two signals that come at once count as one
    pool.send(signal.SIGTERM)
    pool.wait()
    left = marked(side.path)
    assert len(left) == 1
    subprocess.run([*command_line("--spool", str(copy)), "doctor", "--fix"], env=environment())
    assert marked(side.path) == left
    os.kill(left[0], signal.SIGKILL)


@pytest.mark.parametrize("way", ["moved", "copied elsewhere", "restored in place"])
def test_what_a_dead_worker_left_is_found_after_its_spool_was_moved(
    side: Spoolside, way: str
) -> None:
    job_id = side.submit("sleep 600")
    pool = side.pool().up()
    side.wait_for_run(job_id)
    left = marked(side.path)
    pool.kill()
    moved = side.path.parent / "moved"
    if way == "moved":
        side.path.rename(moved)
    else:  # as `mv` does to another file system
        shutil.copytree(side.path, moved)
        shutil.rmtree(side.path)
    if way == "restored in place":
        moved = moved.rename(side.path)
    subprocess.run(
        [*command_line("--spool", str(moved)), "doctor", "--fix"], env=environment(), check=False
    )
    assert left
    assert not any(map(alive, left))


@pytest.mark.parametrize("work", STUBBORN.values(), ids=STUBBORN.keys())
def test_what_a_dead_worker_left_is_gone_before_its_job_runs_again(
    work: str, side: Spoolside
) -> None:
    look = side.path.parent / "look.py"
    look.write_text(LOOK)
    # the second run notes which processes of the first it finds alive
    tell = f"{sys.executable} {look} > {side.runs}.alive"
    job_id = side.submit(f'if [ "$QUEUECTL_ATTEMPT" -gt 1 ]; then {tell}; exit; fi; {work}')
    assert side.run("config", "set", "poll-interval", "0.2").returncode == 0
    pool = side.pool().up()
    pool.says("started")
    other = side.pool().up()  # gets the job as soon as it may run again
    wait_until(lambda: len(marked(side.path)) >= 2 or "kill" in work, "its children run")
    first = marked(side.path)
    pool.kill()
    assert side.wait_for(job_id)["attempts"] == 2
    assert Path(f"{side.runs}.alive").read_text() == ""
    assert not set(first) & set(marked(side.path))
    assert marked(side.path) == []
    other.stop()
    side.check_promise()


@pytest.mark.parametrize(
    ("elsewhere", "deleted"), [("> /dev/null", "out"), ("2> /dev/null", "err"), ("", "out")]
)
def test_what_dropped_its_environment_is_gone_too_before_its_job_runs_again(
    elsewhere: str, deleted: str, side: Spoolside
) -> None:
    pid_file = side.path / "pid"
    sleep = f"exec env -i sleep 600 {elsewhere}"
    work = f'[ "$QUEUECTL_ATTEMPT" -gt 1 ] && exit; echo $$ > {pid_file}; {sleep}'
    job_id = side.spool.submit(work).id
    dead = side.pool().up()
    wait_until(lambda: pid_file.exists() and pid_file.read_text(), "it runs")
    pid = int(pid_file.read_text())
    wait_until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes(), "it is sleep now")
    dead.kill()
    (side.path / "logs" / f"{job_id}.1.{deleted}").unlink()
    pool = side.pool().up()
    side.wait_for(job_id, "completed")
    assert not Path(f"/proc/{pid}").exists() or zombie(pid)
    pool.stop()


def test_who_writes_to_what_an_output_is_a_link_to_is_not_ended(side: Spoolside) -> None:
    log = side.path / "log"
    with log.open("wb") as file:
        other = subprocess.Popen(["sleep", "600"], stdout=file)
    (side.path / "logs" / "linked.1.out").symlink_to(log)
    side.spool.submit("sleep 600", id="linked", max_retries=1)
    dead = side.pool().up()
    dead.says("its output is lost")
    dead.says("started")
    dead.kill()
    side.drain()
    side.wait_for("linked", "dead")
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_run_of_a_living_worker_is_not_that_of_a_dead_one_with_its_output(
    side: Spoolside,
) -> None:
    begun, go = side.path / "begun", side.path / "go"
    side.drop("twice", "sleep 600", max_retries=1)
    dead = side.pool().up()
    side.wait_for_run("twice")
    side.drop("twice", f"touch {begun}; {waiting_for(str(go))}; touch {begun}.end", max_retries=1)
    living = side.pool().up()
    wait_until(begun.exists, "the second of its name runs")
    dead.kill()
    living.says("of a dead worker's processes")
    go.touch()
    wait_until((side.path / "begun.end").exists, "and goes on to its end")
    living.stop()


def test_what_a_dead_worker_left_holds_up_no_other_job_and_no_stop(side: Spoolside) -> None:
    held = side.submit("trap '' TERM; sleep 600 & wait; sleep 600")
    dead = side.pool().up()
    side.wait_for_run(held)
    dead.kill()
    side.run("config", "set", "kill-grace", "600")
    pool = side.pool().up()
    side.wait_for(side.submit())
    assert side.state_of(held) == "processing"

    def alive() -> list[int]:
        found = json.loads(side.run("status", "--json").stdout)["workers"]
        return [worker["pid"] for worker in found]

    wait_until(lambda: alive() == [pool.process.pid], "the dead one is not told as alive")
    pool.stop()
    assert side.state_of(held) == "processing"


def leave_stubborn(side: Spoolside) -> str:
    """Kill a pool whose command ignores SIGTERM, set a grace of 2 s, and return the job's id."""
    held = side.submit("trap '' TERM; sleep 600 & wait; sleep 600", max_retries=1)
    dead = side.pool().up()
    side.wait_for_run(held)
    dead.kill()
    side.run("config", "set", "kill-grace", "2")
    return held


def test_what_a_dead_worker_left_is_killed_after_the_grace_by_a_pool_that_is_busy(
    side: Spoolside,
) -> None:
    held = leave_stubborn(side)
    pool = side.pool().up()
    side.wait_for(side.submit("sleep 1"))
    side.wait_for(held, "dead")
    assert marked(side.path) == []
    pool.says("of a dead worker's processes")
    pool.stop()


NO_END_OF_FILES = """
from itertools import cycle
from queuectl.spool.layout import Layout
by_place = Layout.file_names_by_place
def without_end(self, state):
    return cycle(by_place(self, state))
Layout.file_names_by_place = without_end
"""


def test_what_a_dead_worker_left_is_killed_while_a_pool_looks_at_many_files(
    side: Spoolside, tmp_path: Path
) -> None:
    held = leave_stubborn(side)
    side.submit(run_at="2100-01-01T00:00:00Z")
    pool = side.pool(env={**environment(), **with_code_at_start(tmp_path, NO_END_OF_FILES)}).up()
    side.wait_for(held, "dead")
    assert marked(side.path) == []
    pool.stop()


def test_a_background_child_does_not_hold_up_its_job(side: Spoolside) -> None:
    job_id = side.submit("sleep 600 & true")
    pool = side.pool().up()
    side.wait_for(job_id)
    pool.stop()
    for pid in marked(side.path):  # a job may leave a daemon, which is not ours to end
        os.kill(pid, signal.SIGKILL)


def test_an_exit_code_is_seen_where_sigchld_was_inherited_as_ignored(side: Spoolside) -> None:
    job_id = side.submit("exit 7", max_retries=1)
    ignoring = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    before = [sys.executable, "-c", f"{ignoring}; os.execvp(sys.argv[1], sys.argv[1:])"]
    pool = side.pool("--stop-when-empty", before=before)
    assert pool.wait() == 0, pool.log()
    assert side.wait_for(job_id, "dead")["exit_code"] == 7


# --- records that lie -------------------------------------------------------------------------


def test_a_record_of_a_dead_worker_whose_pid_lives_again_misleads_nobody(side: Spoolside) -> None:
    job_id = side.submit("test $QUEUECTL_ATTEMPT -gt 1 || sleep 600")
    pool = side.pool().up()
    pool.says("started")
    pool.kill()
    (file,) = (side.path / "workers").glob("*-*.json")
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "pid": os.getpid()}))  # of a living process
    side.drain()
    assert side.wait_for(job_id)["attempts"] == 2
    os.kill(os.getpid(), 0)  # and nobody has harmed it
    side.check_promise()


FORGED = [
    "[" * 100_000,
    "[1]",
    '{"worker": "x"}',
    '{"worker":7,"host":7,"machine_id":7,"boot_id":7,"pid":"1","slots":"many","since":7}',
    "\0",
]


@pytest.mark.parametrize("text", FORGED, ids=range(len(FORGED)))
def test_a_forged_worker_record_holds_nothing_up(text: str, side: Spoolside) -> None:
    forged = side.path / "workers" / f"{os.uname().nodename}-1-00000000.json"
    forged.write_text(text)
    job_id = side.submit()
    pool = side.pool().up()
    side.wait_for(job_id)
    assert side.run("status").returncode == 0
    # it has no lock: until the lease is over, it might be a living worker's
    wait_until(lambda: not forged.exists(), "it is cleared")
    pool.stop()
    side.check_promise()


def test_a_living_worker_is_not_buried_for_its_forged_record(side: Spoolside) -> None:
    job_id = side.submit("sleep 1.5")
    pool = side.pool().up()
    pool.says("started")
    (file,) = (side.path / "workers").glob("*-*.json")
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "pid": 1}))
    other = side.pool().up()
    side.wait_for(job_id)
    pool.stop()
    other.stop()
    assert side.times_run() == {job_id: 1}


def test_something_that_is_no_file_in_workers_holds_nothing_up(side: Spoolside) -> None:
    host = os.uname().nodename
    os.mkfifo(side.path / "workers" / f"{host}-2-00000000.json")
    (side.path / "workers" / f"{host}-3-00000000.lock").mkdir()
    orphan = side.submit("test $QUEUECTL_ATTEMPT -gt 1 || sleep 600")
    pool = side.pool().up()
    pool.says("started")
    pool.kill()
    begun = time.monotonic()
    side.drain()
    assert time.monotonic() - begun < DEADLINE_S
    assert side.wait_for(orphan)["attempts"] == 2


def test_what_left_by_setsid_may_tidy_up_though_its_leader_is_stubborn(side: Spoolside) -> None:
    told, script = side.path / "told", side.path / "leaver"
    up = [side.path / name for name in ("leaver-up", "leader-up")]
    script.write_text(
        f"trap 'echo TERM > {told}; exit' TERM\ntouch {up[0]}\nwhile :; do sleep 0.05; done\n"
    )
    job_id = side.submit(f"setsid sh {script} & trap '' TERM; touch {up[1]}; sleep 600")
    side.run("config", "set", "kill-grace", "2")
    pool = side.pool().up()
    wait_until(lambda: all(path.exists() for path in up), "both have their traps")
    assert side.run("cancel", job_id).returncode == 0
    pool.stop()
    assert told.read_text() == "TERM\n"


def test_what_stands_still_may_tidy_up_when_it_is_ended(side: Spoolside) -> None:
    told = side.path / "told"
    work = f"trap 'echo TERM > {told}; exit' TERM; kill -STOP $$; while :; do sleep 0.05; done"
    job_id = side.submit(f"sh -c {shlex.quote(work)}")
    side.run("config", "set", "kill-grace", "60")
    pool = side.pool().up()
    wait_until(lambda: any(is_suspended(pid, 0) for pid in marked(side.path)), "it stands still")
    assert side.run("cancel", job_id).returncode == 0
    pool.stop()
    assert told.read_text() == "TERM\n"


def test_without_any_grace_a_command_is_told_before_it_is_killed(tmp_path: Path) -> None:
    told, up = tmp_path / "told", tmp_path / "up"
    work = f"trap 'echo TERM > {told}' TERM; echo > {up}; while :; do sleep 0.01; done"
    mark = f"QUEUECTL_JOB_ID={tmp_path}"
    process = subprocess.Popen(["env", mark, "sh", "-c", work], start_new_session=True)
    try:
        wait_until(up.exists, "it has its trap")
        tree = Tree(None, (mark.encode(),))
        ending = Ending(tree, 0.0)
        time.sleep(0.01)  # more than the grace
        ending.go_on([process.pid])
        wait_until(told.exists, "it was told")
        assert process.poll() is None
        wait_until(lambda: not ending.go_on(processes_of([tree])[tree]), "nothing is left of it")
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
    finally:
        process.kill()


def test_what_ignores_sigterm_is_killed_however_late_the_next_look_comes(tmp_path: Path) -> None:
    up, mark = tmp_path / "up", f"QUEUECTL_JOB_ID={tmp_path}"
    work = f"trap '' TERM; echo > {up}; while :; do sleep 0.01; done"
    process = subprocess.Popen(["env", mark, "sh", "-c", work], start_new_session=True)
    wait_until(up.exists, "it has its trap")
    tree = Tree(None, (mark.encode(),))
    ending = Ending(tree, 1.0)
    assert ending.go_on([process.pid])
    ending.begun_s -= 3600  # as if its pool was suspended, or read a million files
    try:
        wait_until(lambda: not ending.go_on(processes_of([tree])[tree]), "nothing is left of it")
        assert ending.survivors == ()
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
    finally:
        process.kill()


def test_what_comes_again_for_ever_is_given_up() -> None:
    ending = Ending(Tree(None, (b"X=1",)), 0.0)
    pids = iter(range(2**22 + 1, 2**22 + 1000))  # no process has these
    while ending.go_on([next(pids)]):
        ending.last_kill_s = time.monotonic() - 3600  # as if its pool had stood still
    assert 2**22 + 6 < ending.survivors[0] < 2**22 + 12


def test_nobody_is_given_up_whom_no_sigkill_has_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ending = Ending(Tree(None, (b"X=1",)), 0.0)
    assert ending.go_on([2**22 + 1])
    with monkeypatch.context() as patched:
        patched.setattr("queuectl.kernel.processes.signal_process", no_descriptor)
        for _ in range(20):
            with pytest.raises(OSError, match="open files"):
                ending.go_on([2**22 + 1])
            ending.last_kill_s = time.monotonic() - 3600
    assert ending.go_on([2**22 + 1])
    assert ending.survivors == ()


def test_to_end_what_runs_takes_no_descriptor_for_each_process(tmp_path: Path) -> None:
    mark = f"QUEUECTL_JOB_ID={tmp_path}"
    tree = Tree(None, (mark.encode(),))
    with Child(["env", mark, "sleep", "600"]) as process:
        wait_until(lambda: processes_of([tree])[tree], "it has its environment")
        before = os.listdir("/dev/fd")
        assert Ending(tree, 60.0).go_on([process.pid])
        assert process.wait(DEADLINE_S) == -signal.SIGTERM
        assert os.listdir("/dev/fd") == before


def test_what_is_not_found_out_for_long_is_waited_for_no_more() -> None:
    ending = Ending(Tree(None, (b"X=1",)), 0.1)
    assert all(ending.go_on(None) for _ in range(200))
    assert not all(ending.go_on(None) for _ in range(100))


def test_who_cannot_recover_since_another_does_says_so(side: Spoolside) -> None:
    job_id = side.submit("trap '' TERM; sleep 600 & wait; sleep 600")
    side.run("config", "set", "kill-grace", "600")
    dead = side.pool().up()
    side.wait_for_run(job_id)
    dead.kill()
    pool = side.pool().up()
    wait_until(
        lambda: "is recovering jobs here" in side.run("doctor", "--fix").stderr, "it has its lock"
    )
    text = side.run("doctor", "--fix").stdout
    assert "mended" not in text
    words = command_line("--spool", str(side.path), "cancel", job_id)
    with Child(words, env=environment(), stderr=subprocess.PIPE) as cancel:
        assert cancel.stderr is not None
        assert b"another worker or command is recovering" in cancel.stderr.readline()
        cancel.kill()
    pool.stop()


def test_what_dropped_its_environment_may_tidy_up_in_its_group(side: Spoolside) -> None:
    told, script, up = (side.path / name for name in ("told", "tidy", "up"))
    script.write_text(
        f"trap 'sleep 0.3; echo TERM > {told}; exit' TERM\n: > {up}\nsleep 600 & wait\n"
    )
    job_id = side.submit(f"env -i sh {script} > /dev/null 2>&1 & sleep 600")
    side.run("config", "set", "kill-grace", "60")
    pool = side.pool().up()
    wait_until(up.exists, "it has its trap")
    assert side.run("cancel", job_id).returncode == 0
    pool.stop()
    assert told.read_text() == "TERM\n"
