"""The errors of queuectl, whose messages say what failed, where, and what to do about it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class QueuectlError(Exception):
    """The base class of queuectl's errors; the message is one line that a user can act on."""

    def __reduce__(self) -> tuple[object, ...]:
        """Make the error picklable: `multiprocessing` would wait forever for one that is not."""
        return _remade, (type(self), self.args, self.__dict__)


def _remade(
    kind: type[QueuectlError], args: tuple[object, ...], state: dict[str, object]
) -> QueuectlError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class BadJobError(QueuectlError):
    """A record can never run as a job; the message says why, and names a wrong field."""


class IncompleteJobError(BadJobError):
    """A file does not parse, or is too large, perhaps because it is still being written."""


class BadSettingError(QueuectlError):
    """The key or the value of a setting is not valid, or config.json as a whole is not."""


class JobExistsError(QueuectlError):
    """A job in some state already has the id."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f'job "{job_id}" exists already, in {state}/; choose another id')
        self.job_id = job_id
        self.state = state


class NoSuchJobError(QueuectlError):
    """No state directory holds a job with that id."""


class WrongStateError(QueuectlError):
    """The job exists, but the operation does not apply to it where it is."""


class MovedOnError(WrongStateError):
    """The job has moved, or is moving, to where the operation does not apply, or was changed."""


class TooLateError(WrongStateError):
    """The job has already ended."""


class ClaimLostError(QueuectlError):
    """A claim was taken away, as from an owner that was judged dead; the result is dropped."""


class UnsafeSpoolError(QueuectlError):
    """Another user could put commands into this spool, or redirect what is written there."""


class SpoolError(QueuectlError):
    """The file system refused; the message names the action, the path and the reason."""

    def __init__(self, action: str, path: str, error: OSError, todo: str = "") -> None:
        super().__init__(f"cannot {action} {path}: {error.strerror or error}{todo}")
        self.path = path
        self.errno = error.errno


@contextlib.contextmanager
def refused_to(action: str, path: str) -> Iterator[None]:
    """Turn what the file system refuses in a `with` block into a SpoolError."""
    try:
        yield
    except OSError as error:
        raise SpoolError(action, path, error) from error


class NotSyncedError(SpoolError):
    """Something is done, as `done` says in words, but a power cut may undo it."""

    def __init__(self, done: str, path: str, error: OSError) -> None:
        what = f"make sure that this outlasts a power cut ({done} now): sync"
        super().__init__(what, path, error)


class WrongUserError(QueuectlError):
    """Root must not change the spool of a user who has not shared it.

    That user could not read the files that root makes there, and could redirect what root writes.
    """

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(
            f"{path} belongs to user {owner}, and root must not change it; use {command_as(owner)}"
        )
        self.owner = owner


def for_shell(text: str) -> str:
    """Return `text` quoted as one word of a shell command that is shown to a user."""
    import shlex  # few commands need it, and it takes 2 ms to import

    return shlex.quote(text)


def command_as(user: str) -> str:
    """Return the command by which root runs queuectl as another user, given by name or number."""
    account = f"#{user}" if user.isdigit() else user
    return f"`sudo -u {for_shell(account)} queuectl ...`"


def error_text(error: Exception) -> str:
    """Return an error as text; of an OSError, its paths and its reason."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    paths = [str(path) for path in (error.filename, error.filename2) if path]
    return f"{' -> '.join(paths)}: {error.strerror}" if paths else error.strerror


def do_all(steps: Iterable[Callable[[], object]]) -> None:
    """Run every step, even after one has failed.

    Raises:
        OSError, QueuectlError: the first error of a step, raised after all steps were tried.
    """
    fault: Exception | None = None
    for step in steps:
        try:
            step()
        except (OSError, QueuectlError) as error:  # noqa: PERF203 - the other steps still run
            fault = fault or error
    if fault is not None:
        raise fault
