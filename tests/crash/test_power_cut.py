"""Every id that was printed before a power cut in mid-run is there afterwards, and whole.

The file system is real, on a loop device. FS_IOC_SHUTDOWN drops what its journal has not written.
A copy of the image of a btrfs, made at one instant, lacks what the btrfs had not written.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuectl.record.job import parse
from tests.crash.mounts import Btrfs, Disk, disk_of, needs_root
from tests.crash.support import MUTATION, Spoolside, make_spool, places
from tests.support import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = needs_root
ENQUEUER = Path(__file__).with_name("enqueuer.py")
FILE_SYSTEMS = ("ext4", "xfs", "btrfs")
DRAIN_EVERY = 10
MANY = 40  # jobs that are retried or deleted together


class Outage:
    """Repeated power cuts of one disk, while jobs are queued and run."""

    def __init__(self, disk: Disk, mutation: str = "") -> None:
        self._disk = disk
        self._environment = environment(**{MUTATION: mutation})
        self._path = make_spool(disk.point / "q")
        subprocess.run(["sync", "-f", str(self._path)], check=True)
        self.accepted: list[str] = []
        self._came_back = 0

    def once(self, told: int, *, pool: bool) -> None:
        """Cut the power once `told` more ids are printed, and check all that were printed."""
        with Spoolside(self._path) as side:
            if pool:
                side.pool("--count", "2").up()
            words = [sys.executable, str(ENQUEUER), str(self._path)]
            enqueuer = subprocess.Popen(words, env=self._environment, stdout=subprocess.PIPE)
            assert enqueuer.stdout is not None
            ids = [enqueuer.stdout.readline().decode().strip() for _ in range(told)]
            self._disk.cut()
            # What is printed from here on comes from a machine without power. On xfs, the very last
            # id was not there afterwards in 1 of 1,000 cuts.
            enqueuer.communicate()
        self._disk.power_on()
        self.accepted += ids
        if isinstance(self._disk, Btrfs):
            self._put_aside_what_came_back()
        self._check()

    def _put_aside_what_came_back(self) -> None:
        """Delete a file that is still in pending/ although the job was taken and is elsewhere.

        In 1 of 1,000 cuts under load, the log of btrfs (Linux 6.18) lacked the removal of the name.
        With the other file systems, this was never seen.
        """
        for first, *others in places(self._path).values():
            if len(others) == 1 and first.parent.name == "pending":
                first.unlink()
                self._came_back += 1
        assert self._came_back <= 1

    def _check(self) -> None:
        found = places(self._path)
        lost = [job_id for job_id in self.accepted if len(found.get(job_id, [])) != 1]
        where = {job_id: found.get(job_id) for job_id in lost[:3]}
        assert not lost, f"{len(lost)} of {len(self.accepted)} not in one place: {where}"
        for job_id, (file,) in found.items():
            raw = file.read_bytes()
            assert b'"rejected": ' not in raw, f"set aside: {raw!r}"
            parse(raw, job_id)

    def drain(self) -> None:
        """Run all that is there to its end, delete it, and start over."""
        with Spoolside(self._path) as side:
            side.accepted = self.accepted
            side.drain()
            side.check_promise()
        for file in (self._path / "completed").iterdir():
            file.unlink()
        self.accepted = []


def cut_often(directory: Path, kind: str, times: int) -> None:
    chance = random.Random(times)
    with disk_of(directory, kind) as disk:
        outage = Outage(disk)
        for number in range(times):
            outage.once(chance.randint(1, 30), pool=number % 2 == 1)
            if number % DRAIN_EVERY == DRAIN_EVERY - 1:
                outage.drain()
        outage.drain()


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_no_told_id_is_lost_or_damaged_in_four_power_cuts(
    kind: str, tmp_path: Path, tell_faults: Callable[[int], None]
) -> None:
    cut_often(tmp_path, kind, 4)
    tell_faults(4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_no_told_id_is_lost_or_damaged_in_many_power_cuts(
    kind: str, tmp_path: Path, tell_faults: Callable[[int], None]
) -> None:
    times = 20 if kind == "btrfs" else 50  # a cut takes 2.5 times as long there
    cut_often(tmp_path, kind, times)
    tell_faults(times)


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
@pytest.mark.parametrize("mutation", ["no fsync of a directory", "no fsync of a file"])
def test_without_an_fsync_a_power_cut_is_seen(kind: str, mutation: str, tmp_path: Path) -> None:
    with disk_of(tmp_path, kind) as disk:
        outage = Outage(disk, mutation)

        def several() -> None:
            for _ in range(10):
                # right behind the last printed id: the next job's fsync would sync this job too
                outage.once(1, pool=False)

        with pytest.raises(Exception, match=r"not in one place|JSON"):
            several()


def cut_behind(
    disk: Disk, command: str, told: str, mutation: str = "", *, dropped: bool = False
) -> list[Path]:
    """Cut the power once a pool has logged `told` of a job; return where the job is afterwards.

    The job was queued and is on disk, or was `dropped` by somebody who does not sync.
    """
    path = make_spool(disk.point / "q")
    with Spoolside(path) as side:
        side.mutation = mutation
        if dropped:
            subprocess.run(["sync", "-f", str(path)], check=True)
            pool = side.pool("--count", "1").up()
            (path / "tmp" / "draft").write_text(json.dumps({"command": command}))
            (path / "tmp" / "draft").rename(path / "pending" / "one.json")
            pool.says(told)
        else:
            side.spool.submit(command, id="one")
            subprocess.run(["sync", "-f", str(path)], check=True)
            side.pool("--count", "1").says(told)
        disk.cut()
    disk.power_on()
    return places(path)["one"]


TOLD = {" started ": "processing", " completed ": "completed"}


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("told", TOLD)
def test_what_a_pool_has_told_of_a_job_is_so_after_a_power_cut(
    told: str, kind: str, tmp_path: Path, *, dropped: bool
) -> None:
    with disk_of(tmp_path, kind) as disk:
        command = "sleep 1" if "started" in told else "true"
        (file,) = cut_behind(disk, command, told, dropped=dropped)
        assert file.parent.name == TOLD[told]
        if "started" in told:
            assert lost_runs(file.parents[1]) == 1
        else:
            assert parse(file.read_bytes(), "one").attempts == 1


def tell_and_cut(
    disk: Disk, state: str, job_ids: Sequence[str], mutation: str, *commands: Sequence[str]
) -> tuple[Path, list[str]]:
    """Cut the power after these commands on jobs that were on disk.

    Returns the spool, and what each command has printed.
    """
    path = make_spool(disk.point / "q")
    for job_id in job_ids:
        body = json.dumps({"command": "true", "state": state})
        (path / state / f"{job_id}.json").write_text(body)
    subprocess.run(["sync", "-f", str(path)], check=True)
    told = []
    with Spoolside(path) as side:
        side.mutation = mutation
        for words in commands:
            done = side.run(*words)
            assert done.returncode == 0, done.stderr
            told.append(done.stdout)
    disk.cut()
    disk.power_on()
    return path, told


def retry_and_cut(disk: Disk, mutation: str = "") -> list[str]:
    """Cut the power once many jobs are retried, and return the ids that are not in pending/."""
    job_ids = [f"job{number}" for number in range(MANY)]
    path, told = tell_and_cut(disk, "dead", job_ids, mutation, ["retry", *job_ids])
    assert told[0].split() == job_ids
    found = places(path)
    return [job_id for job_id in job_ids if found[job_id] != [path / "pending" / f"{job_id}.json"]]


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_what_was_told_to_be_retried_is_queued_after_a_power_cut(kind: str, tmp_path: Path) -> None:
    with disk_of(tmp_path, kind) as disk:
        assert retry_and_cut(disk) == []


def test_without_an_fsync_of_the_directories_a_retry_is_undone(tmp_path: Path) -> None:
    with disk_of(tmp_path, "ext4") as disk:
        assert retry_and_cut(disk, "no fsync of a directory") != []


def prune_and_cut(disk: Disk, mutation: str = "") -> list[str]:
    """Cut the power once jobs are deleted and one id is queued again; return the wrong ids."""
    job_ids = [f"job{number}" for number in range(MANY)]
    prune, anew = ["prune", "--yes", *job_ids], ["enqueue", "--id", job_ids[0], "--", "true"]
    path, told = tell_and_cut(disk, "completed", job_ids, mutation, prune, anew)
    assert told[0].split() == job_ids
    found = places(path)
    again = path / "pending" / f"{job_ids[0]}.json"
    return [
        job_id
        for job_id in job_ids
        if found.get(job_id, []) != ([again] if job_id == job_ids[0] else [])
    ]


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_what_was_told_to_be_deleted_is_gone_after_a_power_cut(kind: str, tmp_path: Path) -> None:
    with disk_of(tmp_path, kind) as disk:
        assert prune_and_cut(disk) == []


def test_without_an_fsync_of_the_directories_what_was_deleted_returns(tmp_path: Path) -> None:
    with disk_of(tmp_path, "btrfs") as disk:
        assert "job0" in prune_and_cut(disk, "no fsync of a directory")


CHANGES = {
    "cancel": ("cancel", "one"),
    "edit": ("edit", "two", "--priority", "7"),
    "config": ("config", "set", "lease", "77"),
    "pause": ("pause",),
}


def change_and_cut(disk: Disk, changes: Sequence[str], mutation: str = "") -> set[str]:
    """Cut the power once some changes are made, and return those that are lost."""
    commands = [CHANGES[change] for change in changes]
    path, _ = tell_and_cut(disk, "pending", ["one", "two"], mutation, *commands)
    return {change for change in changes if not is_so(path, change)}


def is_so(path: Path, change: str) -> bool:
    found = places(path)
    match change:
        case "cancel":
            return found["one"] == [path / "dead" / "one.json"]
        case "edit":
            return parse(found["two"][0].read_bytes(), "two").priority == 7
        case "config":
            return '"lease": 77' in (path / "config.json").read_text()
    return (path / "paused").exists()


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_what_was_told_to_be_changed_is_so_after_a_power_cut(kind: str, tmp_path: Path) -> None:
    with disk_of(tmp_path, kind) as disk:
        assert change_and_cut(disk, list(CHANGES)) == set()


def test_without_an_fsync_of_the_directories_a_cancel_is_undone(tmp_path: Path) -> None:
    with disk_of(tmp_path, "btrfs") as disk:
        assert change_and_cut(disk, ["cancel"], "no fsync of a directory") == {"cancel"}


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
@pytest.mark.parametrize("change", ["config", "pause", "edit"])
def test_one_change_alone_is_so_after_a_power_cut(change: str, kind: str, tmp_path: Path) -> None:
    """A change survives a power cut though no later one syncs its directory.

    The edited job is dead, and is edited in place.
    """
    with disk_of(tmp_path, kind) as disk:
        path, _ = tell_and_cut(disk, "dead", ["two"], "", CHANGES[change])
        assert places(path)["two"] == [path / "dead" / "two.json"]
        assert is_so(path, change)


def lost_runs(path: Path, mutation: str = "") -> int:
    """Run the next pool, and return how many lost runs of the job it has recorded."""
    for record in (path / "workers").glob("*.json"):
        record.write_bytes(b"")  # never synced; where it is there, it names this very boot
    with Spoolside(path) as side:
        side.mutation = mutation
        side.drain()
        history = side.spool.find("one").job.history
    return sum(entry["ended"] == "worker lost" for entry in history)


def test_a_pool_that_looks_at_no_spare_forgets_what_had_started(tmp_path: Path) -> None:
    with disk_of(tmp_path, "ext4") as disk:
        (file,) = cut_behind(disk, "sleep 1", " started ")
        assert lost_runs(file.parents[1], "look at no spare") == 0


@pytest.mark.parametrize("told", TOLD)
def test_with_a_queue_that_lies_what_a_pool_has_told_is_gone(told: str, tmp_path: Path) -> None:
    with disk_of(tmp_path, "ext4") as disk:
        lie = "believe that a queued fsync is over at once"
        command = "sleep 1" if "started" in told else "true"
        (file,) = cut_behind(disk, command, told, mutation=lie)
        assert file.parent.name == "pending"
