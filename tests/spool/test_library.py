"""What Python programs use: submit, find, and the errors of both."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import itertools
import os
import pickle
import resource
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from queuectl import errors
from queuectl.errors import (
    BadJobError,
    BadSettingError,
    JobExistsError,
    NoSuchJobError,
    QueuectlError,
    SpoolError,
    WrongUserError,
)
from queuectl.settings import config
from queuectl.system import files, moving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl import Spool
    from tests.support import SpoolDir


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Have the kernel grant no more descriptors, as if other threads had taken all."""
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
    publish = moving.publish

    def publish_with_the_last_one(draft: str, target: str) -> None:
        publish(draft, target)
        limits.enter_context(no_descriptor_left())

    monkeypatch.setattr(moving, "publish", publish_with_the_last_one)
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


@pytest.mark.parametrize("count", [1, 64])
def test_an_interrupt_just_after_a_draft_is_there_leaves_none(
    api: Spool, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    drafts: list[int] = []
    made = files.made

    def interrupted(path: str, mode: int) -> int:
        drafts.append(made(path, mode))
        if len(drafts) == (count + 1) // 2:
            raise KeyboardInterrupt
        return drafts[-1]

    monkeypatch.setattr(files, "made", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(api.submit_all([api.draft({"command": "true"}) for _ in range(count)]))
    os.close(drafts[-1])
    assert (list(api.names("pending")), os.listdir(api.directory("tmp"))) == ([], [])


def test_no_job_is_queued_after_one_that_was_refused(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, tried = moving.publish, []

    def no_room_for_the_third(draft: str, target: str) -> None:
        tried.append(target)
        if len(tried) == 3:
            raise OSError(28, "No space left on device")
        publish(draft, target)

    monkeypatch.setattr(moving, "publish", no_room_for_the_third)
    with pytest.raises(SpoolError, match="No space left"):
        list(api.submit_all([api.draft({"command": "true"}) for _ in range(64)], ()))
    assert len(tried) == 3
    assert (list(api.names("pending")), os.listdir(api.directory("tmp"))) == ([], [])


def test_an_interrupt_just_after_a_job_got_there_takes_it_back(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = moving.publish

    def interrupted(draft: str, target: str) -> None:
        publish(draft, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(moving, "publish", interrupted)
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
    class Name(str, enum.Enum):  # its str() is not its value
        NIGHTLY = "nightly"

    job = api.submit("true", id=Name.NIGHTLY)
    assert list(api.names("pending")) == ["nightly"]
    assert api.find("nightly").job == job


def is_locked(directory: str) -> bool:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_a_signal_handler_that_queues_what_it_has_interrupted_is_told_and_holds_up_nobody(
    api: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, told = moving.publish, []

    def handler() -> None:
        monkeypatch.setattr(moving, "publish", publish)
        try:
            api.submit("true", id="in-the-handler")
        except SpoolError as error:
            told.append(str(error))
        api.submit("true")

    def interrupted(draft: str, target: str) -> None:
        handler()
        publish(draft, target)

    monkeypatch.setattr(moving, "publish", interrupted)
    api.submit("true", id="a")
    assert ["signal handler" in text for text in told] == [True]
    api.submit("true", id="b")
    assert len(list(api.names("pending"))) == 3
    assert not is_locked(api.directory("pending"))


@pytest.mark.parametrize("name", ["depends_on", "cron"])
def test_what_other_queues_have_and_this_one_has_not_is_told(api: Spool, name: str) -> None:
    fields: dict[str, Any] = {name: "job1"}
    with pytest.warns(UserWarning, match=f'"{name}" is kept, but means nothing here$'):
        job = api.submit("true", **fields)
    assert job.record[name] == "job1"


def test_none_is_what_the_settings_say_but_of_a_timeout(api: Spool) -> None:
    job = api.submit("true", id=None, tags=None, env=None, priority=None, max_retries=None)
    assert job.max_retries(7) == api.config.max_retries
    assert job.tags == []
    assert "timeout" not in job.record
    assert api.submit("true", timeout=None).record["timeout"] is None


# Some interrupts come while a generator is being deleted, where nothing can be raised.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whatever_interrupts_a_submission_holds_up_no_other(api: Spool) -> None:
    """An interrupt at any point leaves pending/ unlocked, even if the exception is kept.

    Whoever keeps it, as an interactive interpreter does, keeps all that its frames hold.
    """
    kept: list[BaseException] = []
    for number in range(1, 1000):
        left = itertools.count(number, -1)

        def interrupt(_frame: object, event: str, _arg: object, left: Any = left) -> None:
            # Python looks for signals at the beginning of its functions, and after calls of C
            if event in ("call", "c_return") and next(left) == 0:
                raise KeyboardInterrupt

        try:
            sys.setprofile(interrupt)
            api.submit("true", id=f"job{number}")
        except KeyboardInterrupt as error:
            kept.append(error)
        finally:
            sys.setprofile(None)
        assert not is_locked(api.directory("pending")), f"point {number}"
        if next(left) > 0:  # the submission ended before that
            break
    assert len(kept) > 100


def test_a_path_is_no_command_line(api: Spool) -> None:
    with pytest.raises(BadJobError, match=r"a list, \[path\]"):
        api.submit(Path("/bin/true"))  # type: ignore[arg-type]
    assert api.submit([Path("/bin/true")]).command == ["/bin/true"]


def test_what_a_program_has_at_hand_is_taken(api: Spool) -> None:
    job = api.submit("true", id=None, env=MappingProxyType({"A": "b"}), mine={1: {None: True}})
    assert job.record["env"] == {"A": "b"}
    assert job.record["mine"] == {"1": {"null": True}}
    assert api.find(job.id).job == job


def test_a_field_by_the_name_that_another_queue_gives_it_is_told(api: Spool) -> None:
    with pytest.warns(
        UserWarning, match='"job_id" is kept, but means nothing here; did you mean "id"'
    ):
        api.submit("true", job_id="a")


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
    tolerant = type(api)(api.path, strict=False)
    with pytest.raises(BadSettingError, match="max-retries"):
        tolerant.submit("true")
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


def test_where_it_cannot_be_told_whether_there_is_a_job_that_is_said(api: Spool) -> None:
    api.submit("true", id="a")
    completed = api.directory("completed")
    os.rename(api.file("pending", "a"), api.file("completed", "a"))
    os.rename(completed, f"{completed}.away")
    os.symlink("completed", completed)  # a link to itself: nothing can be looked up in there
    for look in (api.find, lambda job_id: api.check_free([job_id])):
        with pytest.raises(SpoolError, match=r"completed/a\.json: Too many levels"):
            look("a")


def test_a_spool_says_where_it_is(api: Spool) -> None:
    assert repr(api) == f"Spool({api.path!r})"


def test_all_jobs_of_a_state_are_there_to_be_looked_at(api: Spool) -> None:
    ids = {api.submit("true").id for _ in range(3)}
    assert {found.job.id for found in api.jobs("pending")} == ids
    assert list(api.jobs("dead")) == []


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
