"""What other systems, sandboxes and C libraries lack or do differently, simulated on this one."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.test_commands import blocked_and_ignored
from tests.support import read_text, wait_until, with_code_at_start

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir

NO_FACCESSAT_WITH_FLAGS = """
import os
_access = os.access
def access(path, mode, **how):
    return how.get("follow_symlinks", True) and _access(path, mode)
os.access = access
os.supports_follow_symlinks.add(access)
"""


def test_files_are_found_where_the_kernel_cannot_look_without_following_links(
    spool: SpoolDir, tmp_path: Path
) -> None:
    env = with_code_at_start(tmp_path, NO_FACCESSAT_WITH_FLAGS)
    spool.drop("job")
    spool.drain(1, env=env)
    assert spool.run("show", "job", PYTHONPATH=env["PYTHONPATH"]).lines[1].split() == [
        "state",
        "completed",
    ]


NO_EXCHANGE = """
from queuectl import kernel
kernel.exchange = lambda one, other: False
"""


def test_a_dead_job_is_edited_where_names_cannot_be_exchanged(
    spool: SpoolDir, tmp_path: Path
) -> None:
    env = with_code_at_start(tmp_path, NO_EXCHANGE)
    spool.drop_bytes("job", b'{"command": "true", "state": "dead"}', "dead")
    spool.run("edit", "job", "--priority", "3", PYTHONPATH=env["PYTHONPATH"])
    assert spool.record("dead", "job")["priority"] == 3
    assert spool.leftovers() == []


FULL_SYNC = """
import errno, fcntl, os
fcntl.F_FULLFSYNC = 51
_fcntl = fcntl.fcntl
def call(descriptor, command, *rest):
    if command != 51:
        return _fcntl(descriptor, command, *rest)
    with open(os.environ["TOLD"], "a") as told:
        print("full", file=told)
    if os.environ["REFUSED"]:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    os.fsync(descriptor)
fcntl.fcntl = call
_fsync = os.fsync
def fsync(descriptor):
    with open(os.environ["TOLD"], "a") as told:
        print("plain", file=told)
    _fsync(descriptor)
os.fsync = fsync
del os.fdatasync
"""


@pytest.mark.parametrize("refused", ["", "yes"])
def test_the_cache_of_a_disk_is_flushed_where_that_must_be_asked_for(
    spool: SpoolDir, tmp_path: Path, refused: str
) -> None:
    told, env = f"{tmp_path}/told", with_code_at_start(tmp_path, FULL_SYNC)
    words = ("enqueue", "--id", "job", "true")
    spool.run(*words, TOLD=told, REFUSED=refused, PYTHONPATH=env["PYTHONPATH"])
    # the job's body and the directories: a full flush of each is asked for first, then an fsync
    asked = read_text(told).split()
    assert asked.count("full") == asked.count("plain") >= 2
    assert asked[:2] == ["full", "plain"]


NO_LIST_OF_PROCESSES = """
import os
from queuectl.kernel import processes
def alive(group):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, _, its_group = file.read().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state not in "ZX":
            return True
    return False
def no_proc(pid):
    raise FileNotFoundError(pid)
processes._stat = no_proc
processes.can_list_processes = lambda: False
processes.group_lives = alive
"""


def test_all_of_a_group_have_their_grace_where_processes_cannot_be_listed(
    spool: SpoolDir, tmp_path: Path
) -> None:
    tidy = '(trap "sleep 0.5; echo cleaned up; exit" TERM; echo ready; sleep 50 & wait) & wait'
    spool.drop("job", tidy, timeout=2, max_retries=1)
    spool.drain(1, env=with_code_at_start(tmp_path, NO_LIST_OF_PROCESSES))
    assert read_text(f"{spool.path}/logs/job.1.out") == "ready\ncleaned up\n"


NO_LIBC = """
import signal
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
from queuectl.run import spawn
spawn._libc = lambda: None
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_command_ignores_and_blocks_nothing_where_only_python_can_start_it(
    spool: SpoolDir, tmp_path: Path
) -> None:
    assert blocked_and_ignored(spool, with_code_at_start(tmp_path, NO_LIBC)) == [0, 0]


NAMES_FOLD = """
from queuectl.spool.layout import Layout
Layout._folds_case = True
"""


def test_an_id_is_taken_by_another_case_of_it_where_names_fold(
    spool: SpoolDir, tmp_path: Path
) -> None:
    env = with_code_at_start(tmp_path, NAMES_FOLD)
    running, go = f"{spool.path}.running", f"{spool.path}.go"
    spool.drop("Build", f": > {running}; until test -e {go}; do sleep 0.02; done; rm {running}")
    with spool.pool(2, env=env) as pool:
        wait_until(lambda: os.path.exists(running))
        words = ("enqueue", "--id", "build", "true")
        assert "exists already" in spool.refuse(*words, PYTHONPATH=env["PYTHONPATH"])
        spool.drop("build", f"! test -e {running}")  # its claim would replace that of Build
        spool.drop("other")
        pool.wait_for("completed", "other")
        assert not pool.events("started", "build")
        open(go, "w").close()
        pool.wait_for("completed", "build")
        assert spool.ids("completed") == ["Build", "build", "other"]


NO_UNLINK_OF_DIRECTORIES = """
import errno, os
_unlink = os.unlink
def unlink(path, *rest, **how):
    if os.path.isdir(path) and not os.path.islink(path):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
    _unlink(path, *rest, **how)
os.unlink = unlink
"""


def test_a_directory_among_the_requests_is_no_error_where_its_unlink_is_not_permitted(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.create()
    os.mkdir(f"{spool.path}/workers/vm-2-00000000.stop")
    spool.drop("job")
    pool = spool.drain(1, env=with_code_at_start(tmp_path, NO_UNLINK_OF_DIRECTORIES))
    assert not pool.events("error")
    assert spool.states("job") == ["completed"]
