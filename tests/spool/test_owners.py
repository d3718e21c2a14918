"""Locks and heartbeats tell who is alive, never an age or a pid."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import sys
import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from queuectl import kernel
from queuectl.errors import SpoolError
from queuectl.kernel import processes
from queuectl.recovery.deaths import Deaths
from queuectl.system import files, moving
from queuectl.system.arrivals import Arrivals
from queuectl.system.scratch import new_owner, try_lock
from queuectl.system.users import user_name
from queuectl.workers import owners, requests
from queuectl.workers.owners import Heartbeats, Life
from queuectl.workers.registration import Registration
from tests.support import Child, environment, wait_until

if TYPE_CHECKING:
    from queuectl import Spool
    from tests.support import SpoolDir

REGISTER = """
import sys
from queuectl import Spool
from queuectl.workers.registration import Registration
with Registration(Spool(sys.argv[1]), 1) as me:
    print(me.name, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("host", ["build_host_1", "x" * 63, "mill"])
def test_an_owner_without_a_record_is_known_by_the_host_in_its_name(
    api: Spool, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(kernel, "host", lambda: host)
    assert owners.life(api, new_owner(), None) is Life.DEAD


def test_a_host_whose_name_begins_like_ours_is_another(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "host", lambda: "mill-2")
    there = new_owner()
    monkeypatch.setattr(kernel, "host", lambda: "mill")
    assert owners.life(api, there, None) is Life.AWAY


def forge(api: Spool, name: str, **changes: object) -> owners.Worker:
    """Write a worker's record as this process would, with some fields changed."""
    record = replace(Registration(api, 1).record, worker=name, **changes)  # type: ignore[arg-type]
    with open(f"{api.path}/workers/{name}.json", "w") as file:
        json.dump(asdict(record), file)
    return record


def life(api: Spool, name: str) -> Life:
    return owners.life(api, name, owners.read_worker(api, name))


def test_an_owner_is_alive_from_entering_to_leaving(api: Spool, spool: SpoolDir) -> None:
    with Registration(api, 3) as me:
        assert life(api, me.name) is Life.ALIVE
        (worker,) = owners.workers(api)
        assert (worker.worker, worker.slots, worker.pid) == (me.name, 3, os.getpid())
    assert life(api, me.name) is Life.DEAD
    assert owners.workers(api) == []
    assert spool.leftovers() == []


def test_two_owners_of_one_process_have_two_names(api: Spool) -> None:
    with Registration(api) as one, Registration(api) as other:
        assert one.name != other.name
        assert life(api, one.name) is life(api, other.name) is Life.ALIVE


def test_an_owner_that_was_killed_is_dead_at_once(api: Spool, spool: SpoolDir) -> None:
    words = [sys.executable, "-c", REGISTER, spool.path]
    with Child(words, stdin=-1, stdout=-1, env=environment(spool.path)) as process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        assert life(api, name) is Life.ALIVE
        os.kill(process.pid, signal.SIGSTOP)
        assert life(api, name) is Life.ALIVE, "asleep is not dead"
        process.kill()
        process.wait()
        assert life(api, name) is Life.DEAD


def test_a_record_without_a_held_lock_is_dead_whatever_its_pid(api: Spool) -> None:
    forge(api, "forged", pid=os.getpid())
    assert life(api, "forged") is Life.DEAD
    open(f"{api.path}/workers/forged.lock", "x").close()
    assert life(api, "forged") is Life.DEAD
    assert owners.workers(api) == []


def test_an_owner_of_this_machine_from_before_a_boot_is_dead(api: Spool) -> None:
    forge(api, "before", boot_id="another")
    assert life(api, "before") is Life.DEAD


def test_a_file_in_workers_whose_name_no_owner_has_is_left_alone(api: Spool) -> None:
    forge(api, "mine", boot_id="another", host="far", machine_id="other")
    assert owners.known(api) == {}
    assert owners.workers(api) == []


def test_an_owner_of_another_machine_is_away(api: Spool) -> None:
    forge(api, "far-1-0123abcd", boot_id="another", host="far", machine_id="other")
    assert life(api, "far-1-0123abcd") is Life.AWAY
    assert [worker.worker for worker in owners.workers(api)] == ["far-1-0123abcd"]


def test_machines_without_an_id_are_not_the_same_for_their_name(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "machine_id", lambda: "")
    worker = forge(api, "vm-1-0123abcd", boot_id="another")
    open(f"{api.path}/workers/vm-1-0123abcd.lock", "x").close()
    assert life(api, "vm-1-0123abcd") is Life.DEAD
    assert owners.is_judged_by_silence(api, "vm-1-0123abcd", worker)
    assert not replace(worker, machine_id="y").may_be_elsewhere


def test_who_holds_its_lock_lives_whatever_boot_its_record_names(api: Spool) -> None:
    with Registration(api, 1) as me:
        forge(api, me.name, boot_id="another")
        assert life(api, me.name) is Life.ALIVE


def test_a_machine_of_the_same_name_is_another_one(api: Spool) -> None:
    forge(api, "far-1-0123abcd", boot_id="another", machine_id="other")
    assert life(api, "far-1-0123abcd") is Life.AWAY


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"worker": 1}', "\x00"])
def test_a_damaged_record_is_none(api: Spool, body: str) -> None:
    with open(f"{api.path}/workers/odd.json", "w") as file:
        file.write(body)
    assert owners.read_worker(api, "odd") is None
    assert owners.workers(api) == []


def test_an_owner_can_register_though_workers_is_removed_at_that_instant(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = type(api).create
    removed: list[Spool] = []

    def removed_at_once(spool: Spool) -> None:
        create(spool)
        if not removed:
            removed.append(spool)
            os.rmdir(f"{api.path}/workers")

    monkeypatch.setattr(type(api), "create", removed_at_once)
    with Registration(api, 1) as me:
        assert life(api, me.name) is Life.ALIVE


def test_a_lock_that_cannot_be_asked_tells_nothing(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(api, "locked")
    open(f"{api.path}/workers/locked.lock", "x").close()

    def no_locks(_descriptor: int, _operation: int) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="cannot be locked"):
        life(api, "locked")


def test_what_is_no_owners_in_workers_makes_no_owner_known(api: Spool) -> None:
    with Registration(api, 1) as me:
        for job_id in ("a", "b.json", "c.lock"):
            requests.ask_to_cancel(api, me.name, job_id, "cancelled: x")
        open(f"{api.path}/workers/recovery.lock", "x").close()
        requests.ask_to_stop(api, me.name, now=False)
        assert list(owners.known(api)) == [me.name]


def test_a_record_under_another_name_is_none(api: Spool) -> None:
    with Registration(api, 1) as me:
        shutil.copy(f"{api.path}/workers/{me.name}.json", f"{api.path}/workers/copy.json")
        assert owners.read_worker(api, "copy") is None
        assert [worker.worker for worker in owners.workers(api)] == [me.name]


def test_who_finds_no_room_for_its_record_is_no_owner(
    api: Spool, spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "replace", no_room)
    with pytest.raises(SpoolError, match="No space left"), Registration(api, 1):
        pass
    assert spool.leftovers() == []


def test_a_heartbeat_is_silent_once_it_has_not_changed_for_the_lease(api: Spool) -> None:
    forge(api, "far", boot_id="another", host="far")
    beats, path = Heartbeats(), f"{api.path}/workers/far.json"
    assert not beats.silent(api, "far", now_s=1000)
    assert not beats.silent(api, "far", now_s=1029)
    os.utime(path, (1, 1))  # a wrong clock: only the change counts
    assert not beats.silent(api, "far", now_s=1031)
    assert not beats.silent(api, "far", now_s=1060)
    assert beats.silent(api, "far", now_s=1061)
    beats.forget("far")
    assert not beats.silent(api, "far", now_s=2000)


def test_who_has_left_is_not_remembered(api: Spool) -> None:
    beats = Heartbeats()
    deaths = Deaths(api, "us-1-0123abcd", beats)
    for number in range(3):
        forge(api, f"far-{number}-0123abcd", boot_id="another", host="far")
    assert list(deaths.found({})) == []
    assert len(beats._seen) == 3
    os.unlink(f"{api.path}/workers/far-1-0123abcd.json")
    assert list(deaths.found({})) == []
    assert len(beats._seen) == 2


def test_a_beat_registers_anew_what_was_taken_away(api: Spool) -> None:
    with Registration(api, 1) as me:
        os.unlink(f"{api.path}/workers/{me.name}.json")
        me.beat()
        assert life(api, me.name) is Life.ALIVE
        assert owners.read_worker(api, me.name) == me.record


def test_a_pool_beats_though_nothing_happens_and_it_seldom_looks(spool: SpoolDir) -> None:
    spool.configure(lease=1, poll_interval=600)
    with spool.pool() as pool:
        path = f"{spool.path}/workers/{pool.name}.json"
        for _ in range(2):
            os.utime(path, (1, 1))
            wait_until(lambda: os.stat(path).st_mtime != 1, "its heartbeat")


def test_who_looks_whether_an_owner_lives_holds_up_its_return_and_no_more(api: Spool) -> None:
    with Registration(api, 1) as me:
        os.unlink(f"{api.path}/workers/{me.name}.lock")
        looked_at = try_lock(f"{api.path}/tmp/{me.name}.lock", create=True)
        assert looked_at is not None
        release = threading.Timer(0.2, os.close, [looked_at])
        release.start()
        me.beat()
        release.join()
        assert life(api, me.name) is Life.ALIVE


def test_who_cannot_tell_what_it_holds_leaves_all_the_same(api: Spool) -> None:
    with Registration(api, 1) as me:
        processing = api.directory("processing")
        os.rename(processing, f"{api.path}/away")
        open(processing, "x").close()
    assert life(api, me.name) is Life.DEAD


def test_an_owner_can_register_though_its_lock_is_cleared_away_at_that_instant(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = moving.move
    cleared: list[str] = []

    def cleared_before(source: str, target: str) -> None:
        assert len(cleared) < 3
        if not cleared:
            cleared.append(source)
            os.unlink(source)
        elif target.endswith(".lock"):
            cleared.append(source)
        move(source, target)

    monkeypatch.setattr(moving, "move", cleared_before)
    with Registration(api, 1) as me:
        assert life(api, me.name) is Life.ALIVE


@pytest.mark.parametrize("gives_in", [True, False])
def test_a_file_system_that_keeps_open_files_under_their_names_does_not_hang_an_owner(
    api: Spool, monkeypatch: pytest.MonkeyPatch, *, gives_in: bool
) -> None:
    """FUSE refuses a rename to the name of a removed file that is still open; the owner goes on."""
    move = moving.move

    def refused(source: str, target: str) -> None:
        if not gives_in or _keeps_a_removed_file_open(inode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        move(source, target)

    with Registration(api, 1) as me:
        lock = f"{api.path}/workers/{me.name}.lock"
        inode = os.stat(lock).st_ino
        os.unlink(lock)
        monkeypatch.setattr(moving, "move", refused)
        if gives_in:
            me.beat()
            assert life(api, me.name) is Life.ALIVE
        else:
            with pytest.raises(FileNotFoundError):
                me.beat()
        monkeypatch.undo()


def _keeps_a_removed_file_open(inode: int) -> bool:
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the descriptor of this listing
            status = os.fstat(int(name))
            if (status.st_ino, status.st_nlink) == (inode, 0):
                return True
    return False


def replaced(path: str) -> None:
    """Replace a file by a copy of it, as `tar x` does."""
    shutil.copy(path, f"{path}.copy")
    os.unlink(path)
    os.rename(f"{path}.copy", path)


@pytest.mark.parametrize("which", [".lock", ".json"])
def test_an_owner_keeps_its_files_though_a_backup_takes_their_place(api: Spool, which: str) -> None:
    with Registration(api, 1) as me:
        replaced(f"{api.path}/workers/{me.name}{which}")
        me.keep()
        assert life(api, me.name) is Life.ALIVE
        assert owners.read_worker(api, me.name) == me.record
        before = sorted(os.scandir(f"{api.path}/workers"), key=lambda entry: entry.name)
        me.keep()
        after = sorted(os.scandir(f"{api.path}/workers"), key=lambda entry: entry.name)
        assert [entry.inode() for entry in before] == [entry.inode() for entry in after]


def test_an_owner_is_known_in_a_copy_that_takes_the_place_of_its_spool(api: Spool) -> None:
    with Registration(api, 1) as me:
        os.rename(api.path, f"{api.path}.old")
        shutil.copytree(f"{api.path}.old", api.path)
        assert life(api, me.name) is Life.DEAD
        me.keep()
        worker, alive, _ = owners.look_up(api, me.name)
        assert (worker, alive) == (me.record, Life.ALIVE)
        assert worker is not None
        assert not worker.lives_elsewhere(api)


def test_who_puts_its_lock_back_while_it_is_looked_at_is_not_known_to_be_dead(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registration(api, 1) as me:

        def put_back_now(path: str, **how: bool) -> int | None:
            try:
                return try_lock(path, **how)
            finally:
                me.keep()

        os.unlink(owners.path(api, me.name, ".lock"))
        monkeypatch.setattr(owners, "try_lock", put_back_now)
        assert not owners.look_up(api, me.name).known_dead


def test_a_pool_reads_what_it_is_asked(api: Spool, spool: SpoolDir) -> None:
    with Registration(api, 1) as me:
        assert requests.read_stop(api, me.name) is None
        requests.ask_to_stop(api, me.name, now=False)
        assert requests.read_stop(api, me.name) == ""
        requests.ask_to_stop(api, me.name, now=True)
        assert requests.read_stop(api, me.name) == "now"
    assert spool.leftovers() == []


def test_whose_pool_it_is_counts_only_where_files_tell_it(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system shows one owner for all files, no pool is taken for another user's."""
    name = user_name(os.getuid())
    who = name if name == "root" else f"{name} or root"
    with Registration(api, 1) as pool:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        record = owners.read_worker(api, pool.name)
        assert record is not None
        assert owners.only_for(api, pool.name, record) == who
        assert owners.only_for(api, pool.name, record, us=os.getuid()) is None
        earlier = replace(record, boot_id="of before")
        assert owners.only_for(api, pool.name, earlier) is None  # nothing that it ran is left
        os.unlink(owners.path(api, pool.name, ".json"))
        assert owners.only_for(api, pool.name, None) == who
        monkeypatch.setattr(kernel, "booted_at", lambda: time.time() + 60)
        assert owners.only_for(api, pool.name, None) is None
    with Registration(api) as command:
        record = owners.read_worker(api, command.name)
        assert owners.only_for(api, command.name, record) is None


def test_a_request_that_cannot_be_told_is_none(api: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(path: str) -> NoReturn:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    requests.ask_to_cancel(api, "vm-1-00000000", "job", "cancelled: x")
    monkeypatch.setattr(requests, "read_regular", stale)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        requests.read_stop(api, "vm-1-00000000")
    # the name of this request is there, and that counts
    assert requests.read_cancels(api, "vm-1-00000000") == [("job", "")]


@pytest.mark.skipif(not processes.can_list_processes(), reason="reads /proc")
def test_a_process_is_known_by_its_pid_and_its_start_together() -> None:
    pid, started = os.getpid(), processes.started()
    assert processes.lives(pid, started, "")
    assert processes.lives(pid, started, processes.pid_namespace())
    assert not processes.lives(pid, started, "pid:[1]")  # in another container
    assert not processes.lives(pid, started + 1, "")  # another process had this pid
    assert not processes.lives(2**22, started, "")  # larger than any pid
    assert not processes.lives(pid, 0, "")  # recorded where the system does not tell


@pytest.mark.skipif(not processes.can_list_processes(), reason="reads /proc")
def test_a_pool_whose_process_cannot_be_seen_from_here_is_not_suspended(api: Spool) -> None:
    """A pool in another container of this kernel has its own pids, and does not seem suspended."""
    with Registration(api, 1) as there:
        assert not replace(there.record, pid=2**22).suspended


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="reads /proc")
def test_it_is_known_when_the_machine_was_started() -> None:
    with open("/proc/stat", encoding="ascii") as file:
        (told,) = (int(line.split()[1]) for line in file if line.startswith("btime "))
    assert abs(kernel.booted_at() - told) < 5


def test_what_cannot_be_a_request_is_not_removed_as_one(api: Spool) -> None:
    api.create()
    path = f"{api.path}/workers/w.cancel.job"
    os.makedirs(f"{path}/and-not-empty")
    requests.withdraw_cancel(api, "w", "job")
    assert os.path.isdir(path)


def test_of_who_asks_no_more_than_a_few_words_are_taken(api: Spool) -> None:
    requests.ask_to_cancel(api, "vm-1-00000000", "job", "x" * 100_000)
    ((job_id, by),) = requests.read_cancels(api, "vm-1-00000000")
    assert (job_id, len(by)) == ("job", 500)


def test_to_be_asked_to_stop_takes_back_no_stop_at_once(api: Spool) -> None:
    with Registration(api, 1) as me:
        requests.ask_to_stop(api, me.name, now=True)
        requests.ask_to_stop(api, me.name, now=False)
        assert requests.read_stop(api, me.name) == "now"


def test_who_looks_does_not_take_another_who_looks_for_the_owner(api: Spool) -> None:
    forge(api, "vm-1-0123abcd")
    path = f"{api.path}/workers/vm-1-0123abcd.lock"
    open(path, "x").close()
    looking = try_lock(path, shared=True)
    assert looking is not None
    assert life(api, "vm-1-0123abcd") is Life.DEAD
    os.close(looking)


def test_who_looks_wakes_nobody_who_watches(api: Spool) -> None:
    came: list[str] = []
    with Registration(api, 1) as me:
        arrivals = Arrivals({api.directory("workers"): came.append})
        arrivals.start()
        try:
            assert life(api, me.name) is Life.ALIVE
            open(f"{api.path}/workers/afterwards", "x").close()
            wait_until(lambda: "afterwards" in came)
        finally:
            arrivals.stop()
        assert f"{me.name}.lock" not in came


def test_what_an_owner_makes_anew_is_for_it_alone(api: Spool) -> None:
    with Registration(api) as me:
        shutil.rmtree(f"{api.path}/tmp")
        os.unlink(f"{api.path}/workers/{me.name}.lock")
        before = os.umask(0o002)
        try:
            me.keep()
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(f"{api.path}/tmp").st_mode) == 0o700


@pytest.mark.parametrize(
    "change", [{"slots": "auto"}, {"since": 1}, {"started": "x"}, {"directory": {"inode": 1}}]
)
def test_a_pool_of_another_version_is_seen(api: Spool, change: dict[str, Any]) -> None:
    with Registration(api, 1) as me:
        path = f"{api.path}/workers/{me.name}.json"
        with open(path) as file:
            record = json.load(file)
        with open(path, "w") as file:
            json.dump({**record, **change}, file)
        assert [worker.worker for worker in owners.workers(api)] == [me.name]
        assert life(api, me.name) is Life.ALIVE


def test_to_look_whether_owners_live_takes_no_descriptor_each_time(api: Spool) -> None:
    with Registration(api, 1) as me:
        before = os.listdir("/dev/fd")
        for _ in range(5):
            assert life(api, me.name) is Life.ALIVE
        assert os.listdir("/dev/fd") == before
    for _ in range(5):
        assert life(api, me.name) is Life.DEAD
    assert len(os.listdir("/dev/fd")) <= len(before)
