"""Start a process in its own session, with its output in files and nothing else inherited.

On glibc and musl, posix_spawn is called without the interpreter's lock. subprocess keeps the lock
until the child has loaded its program, so that one start holds up every other thread of the pool:
1,800 starts a second in 2 threads instead of 2,400. It is used on other systems, and
where the C library's posix_spawn lacks something.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from queuectl.system.files import is_program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SET_SIGNALS, _SET_MASK, _SET_SESSION = 0x04, 0x08, 0x80
_ROOM = 1024  # bytes for an opaque structure, at least twice what any libc needs
# Pairs of directory and descriptors, mostly the same for all jobs of a pool. But descriptors vary
# while claims wait for the disk: 2,000 jobs had 151 pairs. With room for 64, one start in five to
# one in two was prepared again, which takes 4 us, and twice that with cold caches.
_PREPARED = 512
_PATH = b"PATH="

Streams: TypeAlias = "tuple[int, int, int]"


class Environment(NamedTuple):
    """All variables of a command, each as NAME=VALUE, with no name twice.

    `shared` is one object for many commands, and must not change.
    """

    shared: Sequence[bytes]
    own: Sequence[bytes]

    @property
    def all(self) -> list[bytes]:
        """All variables, those of `shared` first."""
        return [*self.shared, *self.own]


_ours: set[int] = set()  # pids of children that were started here and are not reaped


class Child:
    """A started process, until it is reaped."""

    def __init__(self, pid: int, reap: Callable[[], int]) -> None:
        self.pid = pid
        self._reap = reap
        _ours.add(pid)

    def has_ended(self) -> bool:
        """Tell whether the process has ended, and only has to be reaped."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def reap(self) -> int:
        """Wait for the end and return the exit code, or the negative number of the signal."""
        code = self._reap()
        _ours.discard(self.pid)
        return code


def reap_adopted() -> None:
    """Reap what commands have left behind, if we became its parent, as process 1 of a container.

    A child of ours that has ended but is not reaped yet hides those that ended after it.
    """
    flags = os.WEXITED | os.WNOHANG
    with contextlib.suppress(ChildProcessError):  # there are no children at all
        while (ended := os.waitid(os.P_ALL, 0, flags | os.WNOWAIT)) and ended.si_pid not in _ours:
            os.waitid(os.P_PID, ended.si_pid, flags)


def spawn(argv: Sequence[str], env: Environment, cwd: str, streams: Streams) -> Child:
    """Start a program in `cwd`, with these descriptors as its standard streams.

    Raises:
        OSError: the program could not be started; `filename` is `cwd` if that was the reason.
    """
    libc = _libc()
    if libc is None:
        return _spawn_by_subprocess(argv, env, cwd, streams)
    program = _find_program(argv[0], env, cwd)
    pid, code = libc.spawn(program, argv, env, cwd, streams)
    if code != 0:
        _check_directory(cwd)
        raise OSError(code, os.strerror(code), argv[0])
    return Child(pid, partial(_reap, pid))


def resets_signals() -> bool:
    """Tell whether commands start with all signals at their default, whatever ours are."""
    return _libc() is not None


def _reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _check_directory(path: str) -> None:
    """Raise the error of entering a directory, if there is one."""
    try:
        os.stat(f"{path}/.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _find_program(name: str, env: Environment, cwd: str) -> str:
    """Return a program's path, found in the command's own PATH as execvp in the child would."""
    if "/" in name:
        return name
    paths = [item[len(_PATH) :] for item in env.all if item.startswith(_PATH)]
    places = (os.fsdecode(paths[0]) if paths else os.defpath).split(os.pathsep)
    # a relative place is relative to the command's own directory
    for program in (os.path.join(cwd, place, name) for place in places):
        if is_program(program):
            return program
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _spawn_by_subprocess(
    argv: Sequence[str], env: Environment, cwd: str, streams: Streams
) -> Child:
    process = subprocess.Popen(
        argv,
        env=dict(item.split(b"=", 1) for item in env.all),
        cwd=cwd,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        start_new_session=True,
    )
    return Child(process.pid, process.wait)


class _Libc:
    """posix_spawn with what Python's lacks: a directory, no inherited files, no lock held."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        quick: Any = ctypes.PyDLL(None)  # keeps the interpreter's lock: for calls that take no time
        self._quick = {
            name: quick[f"posix_spawn_file_actions_{name}"]
            for name in ("init", "destroy", "adddup2", "addchdir_np", "addclosefrom_np")
        }
        self._spawn = ctypes.CDLL(None)["posix_spawn"]
        self._attributes = ctypes.create_string_buffer(_ROOM)
        everything, nothing = (ctypes.create_string_buffer(_ROOM) for _ in range(2))
        quick.sigfillset(everything)
        quick.sigemptyset(nothing)
        quick.posix_spawnattr_init(self._attributes)
        flags = ctypes.c_short(_SET_SIGNALS | _SET_MASK | _SET_SESSION)
        quick.posix_spawnattr_setflags(self._attributes, flags)
        quick.posix_spawnattr_setsigdefault(self._attributes, everything)
        quick.posix_spawnattr_setsigmask(self._attributes, nothing)
        self._pid = ctypes.c_int()
        self._pid_place = ctypes.byref(self._pid)
        self._prepared: dict[tuple[str, Streams], Any] = {}
        self._argv, self._env = _Words(ctypes.c_char_p), _Words(ctypes.c_char_p)

    def spawn(
        self, program: str, argv: Sequence[str], env: Environment, cwd: str, streams: Streams
    ) -> tuple[int, int]:
        """Return the pid and an error number; the pid counts only if that number is 0."""
        path, *words = os.fsencode("\0".join((program, *argv))).split(b"\0")  # no word has a NUL
        code: int = self._spawn(
            self._pid_place,
            path,
            self._prepare(cwd, streams),
            self._attributes,
            self._argv.hold((), words),
            self._env.hold(*env),
        )
        return self._pid.value, code

    def _prepare(self, cwd: str, streams: Streams) -> object:
        """Return what the child does before its program, made once for a directory and streams."""
        prepared = self._prepared.get((cwd, streams))
        if prepared is None:
            if len(self._prepared) == _PREPARED:
                self._forget()
            prepared = self._prepared[cwd, streams] = self._ctypes.create_string_buffer(_ROOM)
            self._quick["init"](prepared)
            self._quick["addchdir_np"](prepared, os.fsencode(cwd))
            for number, descriptor in enumerate(streams):
                self._quick["adddup2"](prepared, descriptor, number)
            self._quick["addclosefrom_np"](prepared, 3)
        return prepared

    def _forget(self) -> None:
        for prepared in self._prepared.values():
            self._quick["destroy"](prepared)
        self._prepared.clear()


class _Words:
    """An array of C strings that ends with NULL, filled again for each command.

    A new array each time would be a new type each time, which cost 6 us of CPU a job. What is the
    same as the last time stays in place, which is 5 us of that.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._array: Any = (kind * 64)()
        self._shared: Sequence[bytes] = ()

    def hold(self, shared: Sequence[bytes], own: Sequence[bytes]) -> object:
        """Fill the array with these strings and return it, for use until the next call."""
        first, end = len(shared), len(shared) + len(own) + 1
        if end > len(self._array):
            self._array = (self._kind * (2 * end))()
            self._shared = ()
        if shared is not self._shared:
            self._array[:first] = shared
            self._shared = shared
        self._array[first:end] = [*own, None]
        return self._array


@lru_cache(maxsize=1)
def _libc() -> _Libc | None:
    if sys.platform != "linux":
        return None
    try:
        return _Libc()
    except (AttributeError, ImportError):  # a libc without _np calls, or a Python without ctypes
        return None
