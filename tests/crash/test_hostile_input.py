"""Whatever is dropped into pending/ stops nobody, escapes nowhere, and is explained."""

from __future__ import annotations

import json
import os
import socket
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from queuectl.errors import BadJobError
from queuectl.record.job import MAX_RECORD_BYTES, Job, parse
from tests.crash.mounts import needs_root
from tests.crash.support import Spoolside, make_spool
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["id", "command", "state", "attempts", "max_retries", "priority", "run_at", "timeout", "cwd",
     "env", "tags", "history", "next_retry_at", "exit_code", "worker", "later_codes"]
)  # fmt: skip
DEEP = 100_000
MUCH_MEMORY = 250 << 20  # bytes; a pool at rest takes some 40 MiB


@contextmanager
def working(side: Spoolside) -> Iterator[Any]:
    """Run a pool for a `with` block, then check that it still works and has not grown."""
    pool = side.pool("--count", "2").up()
    yield pool
    witness = side.submit()
    side.wait_for(witness)
    status = Path(f"/proc/{pool.process.pid}/status").read_text()
    peak_kb = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
    assert int(peak_kb) << 10 < MUCH_MEMORY
    pool.stop()
    assert "Traceback" not in pool.log()


def explained(side: Spoolside, name: str) -> str:
    """Wait until a file is set aside, and return the reason."""
    record = side.wait_for(name, "dead")
    assert "rejected" in record, record
    # the reason is there first, so that a crash in between leaves no bytes without one
    wait_until((side.path / "dead" / f"{name}.rejected").exists, "its bytes are there too")
    reason: str = record["error_message"]
    return reason


# --- the parser, over the space of inputs -----------------------------------------------------


@given(raw=st.binary(max_size=400))
def test_no_bytes_do_more_than_be_refused(raw: bytes) -> None:
    read_or_refused(raw)


@settings(max_examples=50, deadline=None)
@given(record=st.dictionaries(FIELDS | st.text(), JSON))
def test_no_json_does_more_than_be_refused_and_what_is_read_can_be_written(
    record: dict[str, Any],
) -> None:
    job = read_or_refused(json.dumps(record).encode())
    if job is not None:
        assert parse(job.encode(), "some").record == job.record


def read_or_refused(raw: bytes) -> Job | None:
    """Return the job, or None if it was refused. Any other error is let through."""
    try:
        return parse(raw, "some")
    except BadJobError:
        return None


# --- files that a pool meets ------------------------------------------------------------------


@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(bodies=st.lists(st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode), max_size=15))
def test_a_pool_outlives_any_files(bodies: list[bytes], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "q"
    with Spoolside(make_spool(path)) as side, working(side):
        for number, body in enumerate(bodies):
            side.drop_bytes(f"body-{number}", body)
        names = list(side.accepted)
        for name in names:
            side.wait_for(name, "dead", "completed")


BAD = {
    "deep": b"[" * DEEP,
    "deep-object": b'{"command":"true","x":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "nan": b'{"command":"true","priority":NaN}',
    "infinite": b'{"command":"true","x":1e999}',
    "digits": b'{"command":"true","priority":' + b"9" * 5000 + b"}",
    "duplicate": b'{"command":"true","command":"false"}',
    "nul": b'{"command":"echo \\u0000"}',
    "nul-env": b'{"command":"true","env":{"A":"\\u0000"}}',
    "equals-env": b'{"command":"true","env":{"A=B":"c"}}',
    "surrogate": b'{"command":"echo \\ud800"}',
    "not-utf8": b'{"command":"\xff"}',
    "other-id": b'{"command":"true","id":"../x"}',
    "large": b'{"command":"' + b"x" * MAX_RECORD_BYTES + b'"}',
    "empty": b"",
}


def test_each_bad_body_is_set_aside_with_its_bytes_and_a_reason(side: Spoolside) -> None:
    with working(side):
        for name, body in BAD.items():
            side.drop_bytes(name, body)
        for name, body in BAD.items():
            assert explained(side, name).startswith("rejected: ")
            assert (side.path / "dead" / f"{name}.rejected").read_bytes() == body
    side.check_promise(("completed", "dead"))


def test_an_argument_too_long_for_the_kernel_is_a_failed_job(side: Spoolside) -> None:
    with working(side):
        side.drop("long", max_retries=1, command=["/bin/echo", "x" * 200_000])
        record = side.wait_for("long", "dead")
        assert "rejected" not in record
        assert record["history"][-1]["ended"] == "could not start"


NAMES = [b"-rf.json", b"a b.json", b"new\nline.json", b"\xff\xfe.json", b"~.json", b"@.json",
         b"a@b.json", b"e" * 250 + b".json", "é.json".encode(), b"$(touch x).json"]  # fmt: skip


def test_names_that_are_no_ids_are_set_aside_and_name_nothing_else(side: Spoolside) -> None:
    before = set(os.listdir(side.path.parent))
    pending = os.fsencode(side.path / "pending")
    with working(side) as pool:
        for name in NAMES:
            with open(pending + b"/" + name, "wb") as file:
                file.write(b'{"command":"true"}')
        wait_until(
            lambda: len(list((side.path / "dead").glob("*.rejected"))) == len(NAMES),
            "all set aside",
        )
        assert os.listdir(pending) == []
    assert set(os.listdir(side.path.parent)) - before == {
        os.path.basename(pool.log_path), side.runs.name
    }  # fmt: skip
    side.check_promise()


def special_files(secret: Path) -> dict[str, Any]:
    """Return functions that make each kind of file that is not regular, and one of 10 GiB."""

    def bind(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            here = os.open(path.parent, os.O_RDONLY)
            made.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(10 << 30)

    return {
        "fifo": os.mkfifo,
        "socket": bind,
        "directory": lambda path: (path.mkdir(), (path / "x").touch()),
        "symlink": lambda path: path.symlink_to(secret),
        "dangling": lambda path: path.symlink_to("/no/such/file"),
        "sparse": sparse,
    }


def test_what_is_no_regular_file_is_set_aside_unread(side: Spoolside, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"command":"echo secret"}')
    made = special_files(secret)
    with working(side):
        for name, make in made.items():
            make(side.path / "pending" / f"{name}.json")
        for name in made:
            record = side.wait_for(name, "dead")
            assert "echo secret" not in json.dumps(record)
    assert (side.path / "dead" / "symlink.rejected").is_symlink()
    assert secret.read_text() == '{"command":"echo secret"}'


@needs_root
def test_a_device_and_a_file_of_somebody_else_are_set_aside(side: Spoolside) -> None:
    device, foreign = (side.path / "pending" / f"{name}.json" for name in ("device", "foreign"))
    with working(side):
        os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero has no end
        draft = side.path / "tmp" / ".foreign"
        draft.write_text('{"command":"id"}')
        os.chown(draft, 65534, 65534)
        draft.rename(foreign)
        assert "device" in explained(side, "device")
        assert "owned by user nobody" in explained(side, "foreign")


def test_good_jobs_do_not_wait_behind_two_hundred_bad_files(side: Spoolside) -> None:
    flood(side, 200)


@pytest.mark.slow
def test_good_jobs_do_not_wait_behind_ten_thousand_bad_files(tmp_path: Path) -> None:
    with Spoolside(make_spool(tmp_path / "q", durability="relaxed")) as side:
        flood(side, 10_000)


def flood(side: Spoolside, count: int) -> None:
    pending = side.path / "pending"
    for number in range(count):
        (pending / f"bad-{number}.json").write_bytes(b"{]")
    with working(side) as pool:
        good = side.submit()
        side.wait_for(good)
        rejected = len(list((side.path / "dead").glob("*.rejected")))
        assert rejected < count, "the good job came last"
        wait_until(
            lambda: not any(pending.iterdir()), f"all are set aside: {pool.log()[-300:]}", 120
        )
    assert len(list((side.path / "dead").glob("*.rejected"))) == count


def test_a_hostile_name_does_not_reach_a_terminal(side: Spoolside) -> None:
    (side.path / "pending" / "\x1b[2J.json").write_text('{"command":"true"}')
    side.drain()
    shown = side.run("dlq", "list").stdout
    assert "\x1b" not in shown
