"""What can never run is set aside: its bytes and the reason are kept, and no job is held up."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from queuectl.pool.rejects import QUIET_S
from queuectl.record.job import MAX_RECORD_BYTES
from tests.support import SpoolDir, wait_until, waiting_for, with_code_at_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GOOD = b'{"command": "true"}'


def bytes_(body: bytes) -> Callable[[str], None]:
    def make(path: str) -> None:
        with open(path, "wb") as file:
            file.write(body)

    return make


def somebody_elses(path: str) -> None:
    bytes_(GOOD)(path)
    os.chown(path, 65534, 65534)


def a_socket(path: str) -> None:
    # a socket's path may have 107 bytes at most: bind it by a short one, then rename it
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{here}/s")
        finally:
            os.close(here)
    os.rename(f"{os.path.dirname(path)}/s", path)


@dataclass(frozen=True)
class Case:
    """A file that is dropped as NAME.json, and what dead/ then says about it."""

    name: str
    why: str
    make: Callable[[str], None]
    shown: str = ""
    needs_root: bool = False

    @property
    def id(self) -> str:
        return self.shown or self.name


CASES = [
    Case("not-json", "not JSON", bytes_(b"echo hello\n")),
    Case("half", "not JSON", bytes_(b'{"command": "tr')),
    Case("empty", "not JSON: it is empty", bytes_(b"")),
    Case("not-utf8", "not UTF-8", bytes_(b'{"command": "\xff"}')),
    Case("a-list", "not a JSON object", bytes_(b'["true"]')),
    Case("no-command", '"command" is missing', bytes_(b'{"priority": 1}')),
    Case(
        "wrong-type", '"priority" must be an integer', bytes_(b'{"command":"true","priority":"x"}')
    ),
    Case("other-id", '"id" is "x" but the file', bytes_(b'{"id": "x", "command": "true"}')),
    Case("number-id", '"id" must be', bytes_(b'{"id": 7, "command": "true"}')),
    Case("taken", "exists already", bytes_(GOOD), shown="taken.2"),
    Case("too-large", "larger than", bytes_(b'{"command":"true","x":"' + b"y" * (1 << 20) + b'"}')),
    Case("deep", "nested", bytes_(b'{"command":"true","x":' + b"[" * 9999 + b"]" * 9999 + b"}")),
    Case("directory", "a directory", os.mkdir),
    Case("link", "a symbolic link", lambda path: os.symlink("/etc/passwd", path)),
    Case("fifo", "a FIFO", os.mkfifo),
    Case("socket", "a socket", a_socket),
    Case("-rf", "is not a job's name", bytes_(GOOD), shown="x-rf"),
    Case("a b", "is not a job's name", bytes_(GOOD), shown="a_b"),
    Case("x" * 200, "is not a job's name", bytes_(GOOD), shown="x" * 128),
    Case("b\udcffd", "is not a job's name", bytes_(GOOD), shown="b_d"),
    Case("somebody-elses", "owned by user nobody", somebody_elses, needs_root=True),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpoolDir]:
    """Yield a spool in which a pool of one slot has met all the cases, and is still at work."""
    spool = SpoolDir(os.path.realpath(tmp_path_factory.mktemp("rejected") / "spool"))
    spool.create()
    spool.drop_bytes("taken", b'{"id": "taken", "command": "true", "mark": 1}', "completed")
    cases = [case for case in CASES if not case.needs_root or os.geteuid() == 0]
    for case in cases:
        case.make(spool.file("pending", case.name))
    for number in range(5):
        spool.drop(f"good-{number}")
    with spool.pool(1) as pool:
        wait_until(lambda: len(pool.events("rejected")) >= len(cases), pool.log)
        spool.wait_for("completed", *(f"good-{number}" for number in range(5)))
        yield spool
        spool.drop("at-the-end")
        spool.wait_for("completed", "at-the-end")
        assert len(pool.events("rejected")) == len(cases), "one line each"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id[:20])
def test_it_is_set_aside_with_a_reason_and_its_bytes_kept(
    place: SpoolDir, tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    if case.needs_root and os.geteuid() != 0:
        pytest.skip("only root can make files of somebody else's")
    assert not os.path.lexists(place.file("pending", case.name))
    record = place.record("dead", case.id)
    assert record["error_message"].startswith("rejected: ")
    assert case.why in record["error_message"]
    assert record["state"] == "dead"
    kept, original = (
        f"{place.path}/dead/{case.id}.rejected",
        str(tmp_path_factory.mktemp("o") / "o"),
    )
    case.make(original)
    was, is_ = os.lstat(original), os.lstat(kept)
    assert stat.S_IFMT(is_.st_mode) == stat.S_IFMT(was.st_mode)
    if stat.S_ISREG(was.st_mode):
        with open(original, "rb") as one, open(kept, "rb") as other:
            assert one.read() == other.read()
    elif stat.S_ISLNK(was.st_mode):
        assert os.readlink(kept) == "/etc/passwd"


def test_dlq_list_shows_every_one_of_them(place: SpoolDir) -> None:
    shown = {record["id"]: record for record in place.run("dlq", "list", "--json").json}
    for case in CASES:
        if not case.needs_root or os.geteuid() == 0:
            assert case.why in shown[case.id]["error_message"]


def test_a_file_for_an_id_that_exists_does_not_touch_the_job_that_has_it(place: SpoolDir) -> None:
    assert place.record("completed", "taken") == {"id": "taken", "command": "true", "mark": 1}


def test_nothing_of_them_was_run_and_the_good_ones_were(place: SpoolDir) -> None:
    assert set(place.ids("completed")) >= {f"good-{number}" for number in range(5)}
    bad = {case.id for case in CASES}
    assert not bad & {name.partition(".")[0] for name in os.listdir(f"{place.path}/logs")}


# --- each with a spool of its own -----------------------------------------------------------


def test_two_files_that_would_get_one_name_in_dead_are_both_kept(spool: SpoolDir) -> None:
    spool.create()
    for name in ("a b", "a+b", "a_b"):
        spool.drop_bytes(name, json.dumps({"from": name}).encode())
    spool.drain()
    kept = {}
    for name in os.listdir(f"{spool.path}/dead"):
        if name.endswith(".rejected"):
            with open(f"{spool.path}/dead/{name}") as file:
                kept[name.removesuffix(".rejected")] = json.load(file)["from"]
    assert sorted(kept) == ["a_b", "a_b.2", "a_b.3"] == spool.ids("dead")
    assert sorted(kept.values()) == ["a b", "a+b", "a_b"]
    for job_id, source in kept.items():
        assert spool.record("dead", job_id)["rejected"] == f"{source}.json"


def test_a_writer_that_pauses_half_way_is_waited_for(spool: SpoolDir) -> None:
    spool.configure(poll_interval=0.05)
    with spool.pool() as pool:
        with open(spool.file("pending", "job"), "wb", buffering=0) as file:
            file.write(b'{"command": ')
            time.sleep(QUIET_S + 1)  # a pause in which the pool looks some eighty times
            file.write(b'"true"}')
        spool.wait_for("completed", "job")
        assert pool.events("rejected") == []


def test_a_job_set_aside_can_be_mended_and_run(spool: SpoolDir) -> None:
    spool.drop_bytes("job", b'{"command": }')
    with spool.pool() as pool:
        spool.wait_for("dead", "job")
        pool.wait_for("rejected")
        rejected = f"{spool.path}/dead/job.rejected"
        with open(rejected, "w") as file:
            file.write('{"command": "true"}')
        os.rename(rejected, spool.file("pending", "job"))
        spool.wait_for("completed", "job")
    assert spool.states("job") == ["completed"]


def test_a_job_as_large_as_may_be_is_retried_like_any_other(spool: SpoolDir) -> None:
    """A job of the largest allowed size can be retried: what queuectl adds to it does not count."""
    spool.configure(backoff_base=0, max_retries=3)
    body = b'{"command":"false","x":""}'
    spool.drop_bytes("job", body.replace(b'""', b'"%s"' % (b"y" * (MAX_RECORD_BYTES - len(body)))))
    spool.drain()
    assert spool.record("dead", "job")["attempts"] == 3
    spool.run("dlq", "retry", "job")
    spool.drain()
    assert len(spool.record("dead", "job")["history"]) == 6


def test_a_rejected_file_cannot_be_retried_and_it_is_said_what_can(spool: SpoolDir) -> None:
    spool.drop_bytes("job", b'{"command": 1}')
    spool.drain()
    for words in (("dlq", "retry"), ("retry",)):
        text = spool.refuse(*words, "job")
        assert "mend dead/job.rejected and move it to pending/job.json" in text
    assert spool.states("job") == ["dead"]
    assert os.path.exists(f"{spool.path}/dead/job.rejected")


def test_a_second_file_of_a_running_id_is_set_aside_and_does_not_replace_it(
    spool: SpoolDir,
) -> None:
    go = f"{spool.path}.go"
    spool.drop("job", f"{waiting_for(go)}; echo first")
    with spool.pool(2) as pool:
        pool.wait_for("started", "job")
        spool.drop("job", "echo second")
        spool.drop("mark")
        spool.wait_for("completed", "mark")
        told = spool.run("doctor", "job").out
        assert "job waits until that has ended  (a worker then sets the waiting one aside" in told
        with open(go, "x"):
            pass
        spool.wait_for("completed", "job")
        pool.wait_for("rejected")
    assert spool.output("job") == "first\n"
    assert [name for name in os.listdir(f"{spool.path}/dead") if name.endswith(".rejected")]


def test_many_files_that_can_never_run_are_all_set_aside_at_once(spool: SpoolDir) -> None:
    spool.configure(poll_interval=1000)
    names = [f"typo-{number}" for number in range(100)]
    for name in names:
        spool.drop_bytes(name, b'{"comand": "true"}')
    with spool.pool():
        spool.wait_for("dead", *names)
    assert spool.ids("pending") == []


def test_what_can_never_run_is_set_aside_at_once(spool: SpoolDir) -> None:
    spool.configure(poll_interval=1000)
    with spool.pool() as pool:
        spool.drop("good")
        pool.wait_for("completed", "good")
        spool.drop_bytes("typo", b'{"comand": "true"}')
        pool.wait_for("rejected", "typo")


def test_a_reason_that_is_moved_to_pending_goes_back_to_its_bytes(spool: SpoolDir) -> None:
    spool.drop_bytes("z", b'{"cmd": "make"}')
    spool.drain()
    before = spool.record("dead", "z")
    assert "is missing" in before["error_message"]
    os.rename(spool.file("dead", "z"), spool.file("pending", "z"))
    spool.drain()
    assert sorted(os.listdir(f"{spool.path}/dead")) == ["z.json", "z.rejected"]
    assert spool.record("dead", "z") == before


UNREADABLE = """
import errno, os
from queuectl.spool import layout
read = layout.read_regular
def read_regular(path, **how):
    if path.endswith("/dead/x.json"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)
    return read(path, **how)
layout.read_regular = read_regular
"""


@pytest.mark.parametrize("body", [b"[", b'{"command": "true", "priority": -1}'])
def test_a_file_in_dead_that_cannot_be_read_stops_nobody(
    spool: SpoolDir, tmp_path: Path, body: bytes
) -> None:
    spool.drop_bytes("x", b'{"command": "", "rejected": "x.json"}', "dead")
    spool.drop_bytes("x", body)
    spool.drop_bytes("worse", b'{"a": 1}')
    spool.drop("y")
    spool.drain(1, env=with_code_at_start(tmp_path, UNREADABLE))
    assert spool.ids("completed") == ["y"]
    assert spool.ids("dead") == ["worse", "x", "x.2"]
    assert spool.leftovers() == []


def test_who_waits_for_a_tag_learns_of_what_was_set_aside(spool: SpoolDir) -> None:
    spool.drop_bytes("good", b'{"command": "true", "tags": ["night"]}')
    spool.drop_bytes("bad", b'{"command": "true", "tags": ["night"], "timeout": "10m"}')
    spool.drop_bytes("odd", b'{"command": "true", "tags": "night"}')
    spool.drain()
    assert spool.run("list", "--ids", "--tag", "night").lines == ["good", "bad"]
    listed = spool.run("dlq", "list", "--ids")
    assert (listed.lines, listed.err) == (["bad", "odd"], "")  # nor is a reason unreadable
    waited = spool.run("wait", "--tag", "night", status=1)
    assert sorted(waited.lines) == ["bad", "good"]


def test_a_file_that_is_dropped_anew_once_it_is_right_runs(spool: SpoolDir) -> None:
    wrong = b'{"command": "echo right",}'
    spool.drop_bytes("report", wrong)
    spool.drain()
    assert spool.states("report") == ["dead"]
    spool.drop_bytes("report", b'{"command": "echo right", "id": "report"}')
    with spool.pool() as pool:
        spool.wait_for("completed", "report")
        pool.wait_for("rejected", "report.2")
        assert "it was report, which came anew" in pool.log()
    assert spool.output("report") == "right\n"
    assert spool.states("report") == ["completed"]
    with open(f"{spool.path}/dead/report.2.rejected", "rb") as file:
        assert file.read() == wrong
    assert not os.path.exists(f"{spool.path}/dead/report.rejected")
    reason = spool.record("dead", "report.2")
    assert "not JSON" in reason["error_message"]
    assert reason["rejected"] == "report.json"
    spool.drop("report")
    spool.drain()
    assert "already" in spool.record("dead", "report.3")["error_message"]


AS_IT_MAKES_WAY = """
import errno, os
from queuectl.system import moving
from queuectl.spool.asides import Asides
explaining, move_new = Asides._explaining, moving.move_new
def meanwhile(self, claim, free, says):
    yield from explaining(self, claim, free, says)
    if {is_purged}:
        os.unlink(self.rejected_file(claim.job_id))
        os.unlink(self.file("dead", claim.job_id))
def refused(source, target):
    if not {is_purged} and source.endswith(".rejected"):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), source)
    return move_new(source, target)
Asides._explaining, moving.move_new = meanwhile, refused
"""


@pytest.mark.parametrize("is_purged", [True, False])
def test_what_cannot_make_way_holds_up_nobody_and_leaves_no_reason(
    spool: SpoolDir, tmp_path: Path, *, is_purged: bool
) -> None:
    """A file that is dropped again runs if the old one is purged as it makes way.

    If the old one cannot be moved (EPERM, as if immutable), the new one is set aside. Other jobs
    run in both cases.
    """
    spool.drop_bytes("x", b'{"command": ""}')
    spool.drain()
    spool.drop("x")
    spool.drop("other")
    spool.drain(env=with_code_at_start(tmp_path, AS_IT_MAKES_WAY.format(is_purged=is_purged)))
    assert spool.states("other") == ["completed"]
    if is_purged:
        assert spool.states("x") == ["completed"]
        assert spool.ids("dead") == []
    else:
        assert spool.ids("dead") == ["x", "x.2"]
        why = spool.record("dead", "x.2")["error_message"]
        assert why.endswith("in dead/, and does not make way: Operation not permitted")


def test_what_came_under_another_name_may_come_back_under_that_or_its_own(spool: SpoolDir) -> None:
    spool.drop("mine")
    spool.drain()
    shutil.copy(spool.file("completed", "mine"), spool.file("pending", "mine"))
    spool.drop_bytes("name", b'{"command": "true", "id": "other"}')
    spool.drain()
    told = spool.run("doctor").out
    assert (
        'mend dead/mine.2.rejected (its "id" has to be "mine.2", or not there) and move it to'
        " pending/mine.2.json" in told
    )
    assert (
        "mend dead/name.rejected and move it to pending/other.json (what says so here stays" in told
    )


PURGED_MEANWHILE = """
import os
from queuectl.spool.asides import Asides
def purged(self, claim):
    os.unlink(self.file("dead", claim.job_id))
    return False
Asides.drop_reason = purged
"""


def test_a_mended_file_runs_though_its_reason_is_purged_at_that_moment(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.drop_bytes("x", b'{"command": ""}')
    spool.drain()
    mended = f"{spool.path}/dead/x.rejected"
    with open(mended, "w") as file:
        file.write('{"command": "true"}')
    os.rename(mended, spool.file("pending", "x"))
    spool.drain(env=with_code_at_start(tmp_path, PURGED_MEANWHILE))
    assert spool.states("x") == ["completed"]


def test_a_mend_that_is_still_wrong_has_the_new_reason_take_the_place_of_the_old(
    spool: SpoolDir,
) -> None:
    spool.drop_bytes("m", b'{"comand": "true"}')
    spool.drain()
    with open(f"{spool.path}/dead/m.rejected", "w") as file:
        file.write('{"command": "true", "priority": "high"}')
    os.rename(f"{spool.path}/dead/m.rejected", spool.file("pending", "m"))
    spool.drain()
    assert sorted(os.listdir(f"{spool.path}/dead")) == ["m.json", "m.rejected"]
    assert '"priority" must be' in spool.record("dead", "m")["error_message"]
    with open(f"{spool.path}/dead/m.rejected", "w") as file:
        file.write('{"command": "true", "id": "m"}')
    os.rename(f"{spool.path}/dead/m.rejected", spool.file("pending", "m"))
    spool.drain()
    assert spool.states("m") == ["completed"]
    assert os.listdir(f"{spool.path}/dead") == []


def test_a_reason_is_put_back_also_without_the_bytes_that_it_tells_of(spool: SpoolDir) -> None:
    """A reason that `mv dead/bad.* pending/` has moved along with its bytes goes back to dead/.

    It is no job, and a new reason for that would hide why the bytes are none.
    """
    spool.drop_bytes("bad", b'{"comand": "true"}')
    spool.drain()
    why = spool.record("dead", "bad")["error_message"]
    for name in ("bad.json", "bad.rejected"):
        os.rename(f"{spool.path}/dead/{name}", f"{spool.path}/pending/{name}")
    spool.drain()
    assert spool.record("dead", "bad")["error_message"] == why
    with open(f"{spool.path}/pending/bad.rejected", "rb") as file:
        assert file.read() == b'{"comand": "true"}'
    os.rename(f"{spool.path}/pending/bad.rejected", f"{spool.path}/dead/bad.rejected")
    spool.run("dlq", "purge", "bad")
    assert os.listdir(f"{spool.path}/dead") == []


def test_a_mend_that_is_still_wrong_has_its_own_reason_after_a_crash_too(spool: SpoolDir) -> None:
    spool.configure(lease=1)
    spool.drop_bytes("m", b'{"comand": "true"}')
    spool.drain()
    os.unlink(f"{spool.path}/dead/m.rejected")
    spool.drop_bytes("m", b'{"command": "true", "priority": "high"}')
    spool.api.take_name("m.json", "pending", "vm-1-00000000")  # an owner that died then
    spool.drain()
    assert sorted(os.listdir(f"{spool.path}/dead")) == ["m.json", "m.rejected"]
    assert '"priority" must be' in spool.record("dead", "m")["error_message"]
