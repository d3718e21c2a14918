"""How a held body is replaced: at one instant, by a spare that nobody else has.

spool-layout.md, "Bodies are exchanged, not replaced".
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from queuectl import kernel
from queuectl.errors import ClaimLostError
from queuectl.system import files
from tests.support import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from queuectl import Spool
    from queuectl.record.job import Job
    from queuectl.spool.moves import Claim
    from tests.support import SpoolDir


def held(api: Spool, *, keeps_spares: bool = True) -> Claim:
    """Queue one job and take it, as an owner that writes over old bodies if it `keeps_spares`."""
    if keeps_spares:
        api.keep_spares("w")
    api.submit("true", id="a")
    return api.take("a", "pending", "w")


def rewrite_often(api: Spool, claim: Claim, job: Job) -> None:
    """Make so many spares that some may be written over: the newest are kept back for readers."""
    for number in range(20):
        files.carry_out(api.rewriting(claim, job.changed(attempts=number)))
        files.carry_out(api.securing(claim))


@pytest.mark.parametrize("keeps_spares", [False, True])
def test_who_looks_while_a_body_is_replaced_finds_a_whole_one(
    api: Spool, spool: SpoolDir, *, keeps_spares: bool
) -> None:
    claim = held(api, keeps_spares=keeps_spares)
    job = api.read_claim(claim)
    seen, stop, other = [job.attempts], threading.Event(), spool.api

    def look() -> None:
        while not stop.is_set():
            seen.append(other.find("a").job.attempts)

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(200):
        files.carry_out(api.rewriting(claim, job.changed(attempts=number, pad="x" * number)))
        files.carry_out(api.securing(claim))
    stop.set()
    watcher.join()
    assert seen == sorted(seen)
    assert read_json(claim.path)["attempts"] == 199
    api.release(claim, "completed")
    api.drop_spares()
    assert spool.leftovers() == []


def test_a_body_with_another_name_elsewhere_is_never_written_over(
    api: Spool, spool: SpoolDir, tmp_path: Path
) -> None:
    api.keep_spares("w")
    for number in range(40):  # more than are kept back for readers
        path = tmp_path / f"mine-{number}"
        path.write_text('{"command": "true"}')
        os.link(path, spool.file("pending", f"job-{number}"))
        claim = api.take(f"job-{number}", "pending", "w")
        job = api.read_claim(claim)
        files.carry_out(api.counting(claim, job.changed(attempts=1)))  # keeps the dropped body
        api.settle(claim, job.changed(state="completed"))
    assert {path.read_text() for path in tmp_path.glob("mine-*")} == {'{"command": "true"}'}
    api.drop_spares()
    assert spool.leftovers() == []


def test_a_body_has_the_mode_of_its_spool_whatever_file_it_is_written_over(
    api: Spool, spool: SpoolDir
) -> None:
    api.keep_spares("w")
    jobs = [f"job-{number}" for number in range(40)]  # more than are kept back for readers
    for job_id in jobs:
        with open(spool.file("pending", job_id), "w", encoding="utf-8") as file:
            file.write('{"command": "true"}')
        os.chmod(spool.file("pending", job_id), 0o644)
        claim = api.take(job_id, "pending", "w")
        api.settle(claim, api.read_claim(claim).changed(state="completed"))
    modes = {os.stat(spool.file("completed", job_id)).st_mode & 0o777 for job_id in jobs}
    assert modes == {0o600}
    api.drop_spares()


def test_who_goes_on_writing_a_file_that_was_taken_harms_no_other_job(
    api: Spool, spool: SpoolDir
) -> None:
    api.keep_spares("w")
    jobs = [f"job-{number}" for number in range(40)]  # more than are kept back for readers
    with contextlib.ExitStack() as stack:
        writers = []
        for job_id in jobs:
            writer = stack.enter_context(open(spool.file("pending", job_id), "w", encoding="utf-8"))
            writer.write('{"command": "true"}')
            writer.flush()
            writers.append(writer)
            claim = api.take(job_id, "pending", "w")
            api.settle(claim, api.read_claim(claim).changed(state="completed"))
        for writer in writers:
            writer.write("\n" * 300)
    assert [spool.record("completed", job_id)["id"] for job_id in jobs] == jobs
    api.drop_spares()
    assert spool.leftovers() == []


def test_an_exchange_that_is_refused_once_is_tried_again(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = held(api)
    job = api.read_claim(claim)

    def refused(*_: object) -> NoReturn:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "exchange", refused)
        files.carry_out(api.rewriting(claim, job.changed(attempts=1)))
        assert read_json(claim.path)["attempts"] == 1
        assert os.listdir(api.directory("tmp")) == []
    exchanged: list[str] = []
    exchange = kernel.exchange

    def counted(one: str, other: str) -> bool:
        exchanged.append(other)
        return exchange(one, other)

    monkeypatch.setattr(kernel, "exchange", counted)
    files.carry_out(api.rewriting(claim, job.changed(attempts=2)))
    assert read_json(claim.path)["attempts"] == 2
    assert exchanged


def test_a_mode_that_cannot_be_set_costs_no_descriptor(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = held(api)
    job = api.read_claim(claim)
    rewrite_often(api, claim, job)
    for name in os.listdir(api.directory("tmp")):
        os.chmod(f"{api.directory('tmp')}/{name}", 0o644)  # dropped files may have this mode
    asked: list[int] = []

    def refused(descriptor: int, _mode: int) -> NoReturn:
        asked.append(descriptor)
        raise PermissionError

    monkeypatch.setattr(os, "fchmod", refused)
    before = os.listdir("/dev/fd")
    files.carry_out(api.rewriting(claim, job.changed(attempts=99)))
    assert read_json(claim.path)["attempts"] == 99
    assert asked
    assert os.listdir("/dev/fd") == before


def test_what_is_tried_again_and_again_leaves_no_spare_each_time(api: Spool) -> None:
    """Many tries leave one spare, as while a disk takes bodies but fails to sync their names."""
    claim = held(api)
    job = api.read_claim(claim)
    for number in range(5):
        files.carry_out(api.rewriting(claim, job.changed(attempts=number)))
    assert len(os.listdir(api.directory("tmp"))) == 1
    api.drop_spares()


def test_old_bodies_that_are_kept_do_not_become_more_with_each_job(api: Spool) -> None:
    api.keep_spares("w")
    for number in range(60):
        api.submit("true", id=f"job-{number}")
        claim = api.take(f"job-{number}", "pending", "w")
        job = api.read_claim(claim)
        files.carry_out(api.counting(claim, job.changed(attempts=1)))
        api.settle(claim, job.changed(state="completed"))
    # those that are kept back for readers, and those of one move
    assert len(os.listdir(api.directory("tmp"))) < 20
    api.drop_spares()


def test_who_leaves_takes_away_no_bodies_that_others_keep(api: Spool, spool: SpoolDir) -> None:
    """Spares of others stay: after a power cut, one may be all that tells of a start."""
    claim, other = held(api), spool.api
    files.carry_out(api.counting(claim, api.read_claim(claim).changed(attempts=1)))
    kept = os.listdir(api.directory("tmp"))
    assert kept
    other.keep_spares("other")
    other.drop_spares()
    assert os.listdir(api.directory("tmp")) == kept
    api.drop_spares()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of somebody else")
def test_a_body_is_never_written_into_a_file_of_somebody_else(api: Spool, spool: SpoolDir) -> None:
    """A file of another user is not written over: its owner could change what is run."""
    spool.configure(shared=True)
    api = spool.api
    api.keep_spares("w")
    for number in range(40):  # more than are kept back for readers
        spool.drop(f"job-{number}")
        os.chown(spool.file("pending", f"job-{number}"), 65534, 65534)
        claim = api.take(f"job-{number}", "pending", "w")
        api.settle(claim, api.read_claim(claim).changed(state="completed"))
    owners = {entry.stat().st_uid for entry in os.scandir(f"{spool.path}/completed")}
    assert owners == {0}
    api.drop_spares()


def test_a_body_is_for_all_to_read_before_its_descriptor_is_closed(
    api: Spool, spool: SpoolDir
) -> None:
    """A new body can be opened before its descriptor is closed.

    A process that is being started has that descriptor too, until it has loaded its program.
    """
    claim = held(api)
    job = api.read_claim(claim)
    rewrite_often(api, claim, job)
    steps = api.rewriting(claim, job.changed(attempts=99))
    next(steps)  # written over, and waiting for the disk
    tmp = spool.api.directory("tmp")
    before = signal.signal(signal.SIGIO, lambda *_: None)  # by default it ends who has a lease
    try:
        for name in os.listdir(tmp):
            os.close(os.open(f"{tmp}/{name}", os.O_RDONLY | os.O_NONBLOCK))
    finally:
        signal.signal(signal.SIGIO, before)
    for step in steps:
        step.run()


@pytest.mark.parametrize("gone", ["pending", "tmp"])
def test_a_missing_directory_is_not_taken_for_a_claim_that_was_taken_away(
    api: Spool, gone: str
) -> None:
    claim = held(api)
    os.rmdir(api.directory(gone))
    with pytest.raises(FileNotFoundError):
        files.carry_out(api.counting(claim, api.read_claim(claim).changed(attempts=1)))
    assert read_json(claim.path)["attempts"] == 0


def test_what_was_kept_for_a_claim_goes_when_it_is_taken_away(api: Spool) -> None:
    claim = held(api)
    job = api.read_claim(claim).changed(attempts=1)
    files.carry_out(api.counting(claim, job))
    os.unlink(claim.path)
    with pytest.raises(ClaimLostError):
        api.settle(claim, job)
    assert os.listdir(api.directory("tmp")) == []


@pytest.mark.parametrize("keeps_spares", [False, True])
def test_a_claim_that_was_taken_away_is_not_brought_back(
    api: Spool, spool: SpoolDir, *, keeps_spares: bool
) -> None:
    claim = held(api, keeps_spares=keeps_spares)
    job = api.read_claim(claim)
    os.rename(claim.path, spool.file("pending", "a"))
    with pytest.raises(ClaimLostError, match='job "a" was taken away from w'):
        files.carry_out(api.rewriting(claim, job))
    with pytest.raises(ClaimLostError):
        api.release(claim, "completed")
    assert spool.states("a") == ["pending"]
    api.drop_spares()
    assert spool.leftovers() == []


# --- before a start ---------------------------------------------------------------------------


def names_of(step: files.Step) -> set[str]:
    return {os.path.basename(path) for path in step.directories}


def test_a_start_waits_once_for_its_claim_and_its_body(api: Spool) -> None:
    claim = held(api)
    steps = api.counting(claim, api.read_claim(claim).changed(attempts=1))
    step = next(steps)
    assert names_of(step) == {"pending", "processing", "tmp"}
    assert step.descriptor is not None
    assert os.fstat(step.descriptor).st_size > 0
    assert read_json(claim.path)["attempts"] == 0
    with pytest.raises(StopIteration):
        next(steps)
    assert read_json(claim.path)["attempts"] == 1
    api.drop_spares()


def test_a_start_waits_for_its_body_and_then_its_names_where_these_cannot_be_exchanged(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "exchange", lambda _one, _other: False)
    claim = held(api)
    steps = list(api.counting(claim, api.read_claim(claim).changed(attempts=1)))
    assert steps[-1].descriptor is None
    assert names_of(steps[-1]) == {"pending", "processing"}
    assert read_json(claim.path)["attempts"] == 1
    assert os.listdir(api.directory("tmp")) == []
    again = list(api.counting(claim, api.read_claim(claim).changed(attempts=2)))
    assert [step.descriptor is None for step in again] == [False, True]  # exchange tried only once


def test_the_body_before_a_start_is_kept_until_the_outcome_is_on_disk(api: Spool) -> None:
    """Until then that spare is not written over, since a power cut may bring its name back."""
    claim = held(api)
    job = api.read_claim(claim)
    files.carry_out(api.counting(claim, job.changed(attempts=1)))
    before = claim.first_spare
    assert before is not None
    for number in range(40):  # more than are kept back for readers
        api.submit("true", id=f"job-{number}")
        other = api.take(f"job-{number}", "pending", "w")
        files.carry_out(api.counting(other, api.read_claim(other).changed(attempts=1)))
        api.settle(other, api.read_claim(other).changed(state="completed"))
        assert read_json(before)["id"] == "a"
    api.settle(claim, job.changed(state="completed"))
    assert claim.first_spare is None
    api.drop_spares()
