"""Everything that queuectl can refuse, each with what, where, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class QueuectlError(Exception):
    """Something could not be done; the text is one line a user can act on."""

    def __reduce__(self) -> tuple[object, ...]:
        """Have it cross between processes: `multiprocessing` waits for ever for what cannot."""
        return _remade, (type(self), self.args, self.__dict__)


def _remade(
    kind: type[QueuectlError], args: tuple[object, ...], state: dict[str, object]
) -> QueuectlError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class BadJobError(QueuectlError):
    """A record that can never run: the text names the field and what is wrong with it."""


class IncompleteJobError(BadJobError):
    """Bytes that do not parse (yet): their writer may be half-way."""


class BadSettingError(QueuectlError):
    """A configuration key or value that is not one of ours."""


class JobExistsError(QueuectlError):
    """The id is taken, in whatever state."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f'job "{job_id}" exists already, in {state}/; choose another id')
        self.job_id = job_id
        self.state = state


class NoSuchJobError(QueuectlError):
    """No state directory holds a job of that id."""


class WrongStateError(QueuectlError):
    """The job is there, but not where this verb applies."""


class MovedOnError(WrongStateError):
    """The job is in a state by now, or on its way, where this verb does not apply."""


class TooLateError(WrongStateError):
    """The job has come to its end already."""


class ClaimLostError(QueuectlError):
    """A claim was taken away by whoever thought its owner dead; the result is dropped."""


class UnsafeSpoolError(QueuectlError):
    """Somebody else could put commands into this spool."""


class SpoolError(QueuectlError):
    """The file system refused: the action, the path and the reason."""

    def __init__(self, action: str, path: str, error: OSError, todo: str = "") -> None:
        super().__init__(f"cannot {action} {path}: {error.strerror or error}{todo}")
        self.path = path
        self.errno = error.errno


class WrongUserError(QueuectlError):
    """Root is to change nothing in a user's spool: they could not read it, or lead it astray."""

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(
            f"{path} belongs to user {owner}, and root must not change it; use {command_as(owner)}"
        )
        self.owner = owner


def for_shell(text: str) -> str:
    """Return a text as one word of a command that somebody is told to give."""
    import shlex  # few need it, and it is 2 ms of each start

    return shlex.quote(text)


def command_as(user: str) -> str:
    """Return how root gives a command as another user, known by name or number."""
    account = f"#{user}" if user.isdigit() else user
    return f"`sudo -u {for_shell(account)} queuectl ...`"


def error_text(error: Exception) -> str:
    """Return what to say of an error: of one of the system what it is about, and why, in words."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    paths = [str(path) for path in (error.filename, error.filename2) if path]
    return f"{' -> '.join(paths)}: {error.strerror}" if paths else error.strerror


def do_all(steps: Iterable[Callable[[], object]]) -> None:
    """Do each step, also after one that failed.

    Raises:
        OSError, QueuectlError: the first error that there was; all the others were tried.
    """
    fault: Exception | None = None
    for step in steps:
        try:
            step()
        except (OSError, QueuectlError) as error:  # noqa: PERF203 - the others can be done
            fault = fault or error
    if fault is not None:
        raise fault
