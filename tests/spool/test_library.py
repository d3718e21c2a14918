"""What Python programs use: submit, find, and the errors of both."""

from __future__ import annotations

import contextlib
import enum
import os
import pickle
import resource
from typing import TYPE_CHECKING

import pytest

from queuectl import config, errors, files
from queuectl.errors import (
    BadJobError,
    BadSettingError,
    JobExistsError,
    NoSuchJobError,
    QueuectlError,
    SpoolError,
    WrongUserError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl import Spool
    from tests.support import SpoolDir


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Have the kernel grant no more of them, as where other threads have taken all."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- submit -------------------------------------------------------------------------------------


def test_a_job_that_is_there_is_told_though_no_descriptor_is_left_by_then(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = contextlib.ExitStack()
    publish = files.publish

    def publish_with_the_last_one(draft: str, target: str) -> None:
        publish(draft, target)
        limits.enter_context(no_descriptor_left())

    monkeypatch.setattr(files, "publish", publish_with_the_last_one)
    with limits:
        job = api.submit("true")
    assert list(api.names("pending")) == [job.id]


def test_what_cannot_be_put_on_disk_is_taken_back_though_no_descriptor_is_left(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = contextlib.ExitStack()

    def refused(_descriptor: int) -> None:
        limits.enter_context(no_descriptor_left())
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("queuectl.kernel.sync", refused)
    with limits, pytest.raises(SpoolError, match="Input/output error"):
        api.submit("true")
    assert list(api.names("pending")) == []


def test_an_interrupt_just_after_a_job_got_there_takes_it_back(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = files.publish

    def interrupted(draft: str, target: str) -> None:
        publish(draft, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.submit("true")
    with pytest.raises(KeyboardInterrupt):
        api.submit("true", id="named")
    assert list(api.names("pending")) == []


def test_of_two_jobs_of_one_id_the_first_stays(api: Spool) -> None:
    api.submit("true", id="a")
    with pytest.raises(JobExistsError):
        api._submit_batch([api.draft({"command": "true", "id": "a"})], ["a"], "w")
    assert list(api.names("pending")) == ["a"]


def test_an_id_may_be_a_member_of_an_enum(api: Spool) -> None:
    class Name(str, enum.Enum):  # one whose text is not its value
        NIGHTLY = "nightly"

    job = api.submit("true", id=Name.NIGHTLY)
    assert list(api.names("pending")) == ["nightly"]
    assert api.find("nightly").job == job


def test_settings_are_followed_by_who_has_the_spool_open(api: Spool, spool: SpoolDir) -> None:
    api.submit("true", id="before")
    spool.configure(max_retries=7, shared=True)
    api.submit("true", id="after")
    assert spool.record("pending", "before")["max_retries"] == 3
    assert spool.record("pending", "after")["max_retries"] == 7
    assert os.stat(spool.file("pending", "after")).st_mode & 0o777 == 0o660


def test_nothing_is_queued_by_settings_that_are_none(api: Spool, spool: SpoolDir) -> None:
    config_file = f"{spool.path}/{config.FILE_NAME}"
    with open(config_file, "w", encoding="utf-8") as file:
        file.write('{"max-retries": "many"}')
    for _ in range(2):
        with pytest.raises(BadSettingError, match="max-retries"):
            api.submit("true")
    os.unlink(config_file)
    api.submit("true")


# --- errors -------------------------------------------------------------------------------------


def test_what_the_system_refuses_is_an_error_of_ours(api: Spool) -> None:
    job = api.submit("true")
    with no_descriptor_left():
        with pytest.raises(SpoolError, match="tmp: Too many open files"):
            api.submit("true")
        with pytest.raises(SpoolError, match=f"{job.id}.json: Too many open files"):
            api.find(job.id)


def test_there_are_no_jobs_in_a_state_that_there_is_not(api: Spool) -> None:
    with pytest.raises(ValueError, match="'complete' is none of the states"):
        list(api.names("complete"))
    with pytest.raises(ValueError, match="'complete' is none of the states"):
        list(api.jobs("complete", ["a"]))


@pytest.mark.parametrize(
    "error",
    [
        BadJobError("bad"),
        JobExistsError("a", "pending"),
        NoSuchJobError("none"),
        SpoolError("read", "/srv/q", OSError(13, "Permission denied")),
        WrongUserError("/srv/q", "ann"),
    ],
)
def test_errors_go_from_process_to_process_as_they_are(error: QueuectlError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_every_error_goes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    known = [kind for kind in kinds if issubclass(kind, QueuectlError)]
    assert len(known) > 10
    for kind in known:
        error = kind.__new__(kind, "text")
        assert str(pickle.loads(pickle.dumps(error))) == "text"
