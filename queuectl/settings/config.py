"""The settings: their names, types and defaults, and editing config.json under a lock.

spool-layout.md, section "config.json".
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from queuectl.errors import BadSettingError, QueuectlError, SpoolError
from queuectl.settings import kinds
from queuectl.system import files, moving
from queuectl.system.scratch import Scratch, draft_file
from queuectl.system.users import user_name
from queuectl.units import YEAR_S, show, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuectl.retry import Backoff

FILE_NAME = "config.json"
_LOCK_NAME = "config.lock"


def _setting(default: Any, kind: kinds.Kind, about: str) -> Any:
    return field(default=default, metadata={"kind": kind, "about": about})


_MOST_BYTES = 1 << 20
_PATIENCE_S = 10.0  # an edit takes milliseconds


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting, with its default if config.json does not name it."""

    max_retries: int = _setting(3, kinds.integer(0, 1000), "failures after which a job is dead")
    backoff_base: float = _setting(
        2, kinds.real(0, 1000), "a job waits base ^ n seconds after its failure n"
    )
    backoff_max: float = _setting(
        3600, kinds.seconds(0, YEAR_S), "the longest wait after a failure, in seconds"
    )
    backoff_jitter: float = _setting(
        0, kinds.real(0, 1), "random part added to such a wait, as a fraction of it"
    )
    job_timeout: float | None = _setting(
        300,
        kinds.optional(kinds.seconds(0.001, YEAR_S)),
        "time limit of a run, in seconds, if its job has none; raised, for running jobs too",
    )
    kill_grace: float = _setting(5, kinds.seconds(0, 3600), "seconds from SIGTERM to SIGKILL")
    poll_interval: float = _setting(
        5,
        kinds.seconds(0.05, 3600),
        "seconds between two looks at the spool, whether or not events come",
    )
    lease: float = _setting(
        30,
        kinds.seconds(1, 86400),
        "seconds of silence after which a worker on another machine counts as dead",
    )
    durability: str = _setting(
        "full",
        kinds.choice("full", "relaxed"),
        "full: jobs survive a power cut; relaxed: only crashes",
    )
    shell: str = _setting(
        "/bin/sh", kinds.PROGRAM, "runs commands that are strings, as SHELL -c COMMAND"
    )
    worker_count: int = _setting(
        1, kinds.integer(1, 10000), "jobs at a time of each worker that was started without --count"
    )
    success_codes: Sequence[int] = _setting(
        (0,), kinds.SUCCESS_CODES, "exit codes that complete a job"
    )
    fatal_codes: Sequence[int] = _setting(
        (), kinds.CODES, "exit codes that make a job dead without a retry"
    )
    later_codes: Sequence[int] = _setting(
        (), kinds.CODES, "exit codes that mean: run again later, the attempt not counted"
    )
    later_delay: float = _setting(
        60,
        kinds.seconds(0, YEAR_S),
        "seconds until a job whose exit code means later runs again, if it has no delay of its own",
    )
    log_max_size: float | None = _setting(  # a file may say 65536.0
        None,
        kinds.optional(kinds.SIZE),
        "the middle of a run's output is cut out if it is larger than this",
    )
    retain_completed: int | str | None = _setting(
        None, kinds.optional(kinds.RETENTION), "completed jobs are deleted beyond this age or count"
    )
    retain_dead: int | str | None = _setting(
        None, kinds.optional(kinds.RETENTION), "dead jobs are deleted beyond this age or count"
    )
    shared: bool = _setting(
        False,  # noqa: FBT003 - a default, like those above
        kinds.SWITCH,
        "let the other users of the directory's group use the spool",
    )

    def backoff(self) -> Backoff:
        """Return the delays between retries."""
        from queuectl.retry import Backoff  # takes 1 ms to import, and only a failure needs it

        return Backoff(base=self.backoff_base, max_s=self.backoff_max, jitter=self.backoff_jitter)

    @cached_property  # it is read ten times for each job
    def sync(self) -> bool:
        """Whether every step waits for the disk."""
        return self.durability == "full"

    @cached_property
    def file_mode(self) -> int:
        """The mode of new files, whatever the umask; output files get it less the umask."""
        return 0o660 if self.shared else 0o600


class Setting(NamedTuple):
    """One setting as it is listed: its name in `Config`, its kind, and what it is for."""

    name: str
    kind: kinds.Kind
    about: str


SETTINGS = {
    item.name.replace("_", "-"): Setting(item.name, **item.metadata) for item in fields(Config)
}


def canonical_key(key: str) -> str:
    """Return a key as it is listed (`max-retries`), from either spelling.

    Raises:
        BadSettingError: there is no such key; the message names the nearest ones.
    """
    name = _listed_name(key)
    if name in SETTINGS:
        return name
    from difflib import get_close_matches

    with_word = [setting for setting in SETTINGS if name in setting.split("-")]
    near = [f'"{setting}"' for setting in with_word or get_close_matches(name, SETTINGS, n=1)]
    hint = f"did you mean {' or '.join(near)}?" if near else "`queuectl config show` lists them"
    raise BadSettingError(f'no setting "{key}"; {hint}')


def read_value(key: str, text: str) -> Any:
    """Return the value that `text` means for `key`.

    Raises:
        BadSettingError: the setting does not take that value; the message says what it takes.
    """
    kind = SETTINGS[canonical_key(key)].kind
    try:
        return kind.value_of(text)
    except ValueError:
        msg = f'"{canonical_key(key)}" must be {kind.range}, got "{text}"'
        raise BadSettingError(msg) from None


def _parsed(path: str, raw: bytes) -> dict[str, Any]:
    """Return what is in the file, with the keys of settings as they are listed."""
    try:
        stored = json.loads(raw, object_pairs_hook=_once)
    except BadSettingError as error:
        raise BadSettingError(f"{path}: {error}; remove one of them with an editor") from None
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON ({error}); mend it, or remove it to use the defaults"
        raise BadSettingError(msg) from None
    if not isinstance(stored, dict):
        msg = f"{path} must hold a JSON object; mend it, or remove it to use the defaults"
        raise BadSettingError(msg)
    named = {listed(key): value for key, value in stored.items()}
    return {key: _as_meant(key, value) for key, value in named.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object that has no key twice, in either spelling: one of the two would not count.

    Raises:
        BadSettingError: it has a key twice.
    """
    keys: set[str] = set()
    for key in (listed(key) for key, _ in pairs):
        if key in keys:
            raise BadSettingError(f'"{key}" is set twice')
        keys.add(key)
    return dict(pairs)


def _as_meant(key: str, value: Any) -> Any:
    """Return the value that a text in the file stands for, such as `2h`, `10M` or `64-78`."""
    kind = SETTINGS[key].kind if key in SETTINGS else None
    if kind is None or not kind.in_words or not isinstance(value, str):
        return value
    try:
        return kind.value_of(value)
    except ValueError:
        return value


def listed(key: str) -> str:
    """Return a key as it is listed; unchanged if there is no such setting."""
    name = _listed_name(key)
    return name if name in SETTINGS else key


def _listed_name(key: str) -> str:
    return key.replace("_", "-").lower()


def _check(path: str, key: str, value: Any) -> None:
    remedy = f"`queuectl config unset {key}` removes it"
    try:
        kind = SETTINGS[canonical_key(key)].kind
    except BadSettingError as error:
        raise BadSettingError(f"{path}: {error}; {remedy}") from None
    if not kind.accepts(value):
        raise BadSettingError(f'{path}: "{key}" must be {kind.range}, got {show(value)}; {remedy}')


def _open_at_once(path: str, flags: int) -> int:
    """Open a file for `open`, without waiting for a pipe that somebody has put in its place."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check_file(path: str, status: os.stat_result) -> None:
    """Refuse a file that cannot hold settings, before a read that might never end."""
    if not stat.S_ISREG(status.st_mode):
        raise BadSettingError(f"{path} is not a file; remove it to use the defaults")
    if status.st_size > _MOST_BYTES:
        size = size_text(status.st_size)
        raise BadSettingError(
            f"{path} is too large ({size}); mend it, or remove it to use the defaults"
        )


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            _check_file(path, os.fstat(file.fileno()))
            raw = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _cannot_read(path, error) from error
    return _parsed(path, raw)


def _cannot_read(path: str, error: OSError) -> SpoolError:
    """Return the error, with what to do if we may not read the path or it cannot exist."""
    todo = ""
    if isinstance(error, PermissionError):
        spool_path = os.path.dirname(path)
        todo = _whose(path if os.access(spool_path, os.X_OK) else spool_path)
    if isinstance(error, (NotADirectoryError, PermissionError)):
        todo += "; --spool DIR names another"
    return SpoolError("read", path, error, todo)


def _whose(path: str) -> str:
    try:
        owner = os.stat(path).st_uid
    except OSError:  # we may not enter a directory further up
        return ""
    if owner == os.geteuid():
        return ""
    whose = f"{path} belongs to user {user_name(owner)}"
    return f"; {whose}, who can share a spool (README: Several users)"


def read_stored(spool_path: str) -> dict[str, Any]:
    """Return what config.json holds, valid or not.

    Raises:
        BadSettingError: it is not a JSON object, or has a key twice.
        SpoolError: it exists and cannot be read.
    """
    return _read(f"{spool_path}/{FILE_NAME}")


def load_stored(spool_path: str) -> tuple[dict[str, Any], list[BadSettingError]]:
    """Return the valid settings in config.json, and an error for each that is not valid.

    Raises:
        SpoolError: it exists and cannot be read.
    """
    path = f"{spool_path}/{FILE_NAME}"
    try:
        stored = _read(path)
    except BadSettingError as error:
        return {}, [error]
    sound, faults = {}, []
    for key, value in stored.items():
        try:
            _check(path, key, value)
        except BadSettingError as error:  # noqa: PERF203 - the rest counts
            faults.append(error)
        else:
            sound[key] = value
    return sound, faults


def stamp(spool_path: str) -> tuple[int, int] | None:
    """Return a value that differs for each version of config.json; None while there is none.

    Raises:
        SpoolError: the file system refused to say which file it is.
    """
    path = f"{spool_path}/{FILE_NAME}"
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot_read(path, error) from error
    return status.st_ino, status.st_mtime_ns


def load(spool_path: str) -> tuple[Config, list[BadSettingError]]:
    """Return the settings in force, and an error for each that is not valid in config.json.

    Raises:
        SpoolError: config.json exists and cannot be read.
    """
    stored, faults = load_stored(spool_path)
    return Config(**{key.replace("-", "_"): value for key, value in stored.items()}), faults


def edit(spool_path: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what config.json holds, under a lock that keeps out every other edit.

    Raises:
        BadSettingError: a changed setting is not valid, or the file is not; it is left as it is.
        QueuectlError: another process has held the lock for too long.
        SpoolError: the file system refused. The settings are as they were, unless only the last
            sync failed: then they are changed, but a power cut may undo it.
    """
    from filelock import FileLock, Timeout

    path = f"{spool_path}/{FILE_NAME}"
    try:
        # whoever may change jobs may change settings
        lock_mode = 0o660 if _read(path).get("shared") else 0o600
        lock = FileLock(f"{spool_path}/{_LOCK_NAME}", mode=lock_mode)
        with lock.acquire(timeout=_PATIENCE_S), Scratch(f"{spool_path}/tmp") as me:
            stored = _read(path)
            before = dict(stored)
            change(stored)
            for key, value in stored.items():
                if key not in before or before[key] != value:  # so faults can be mended one by one
                    _check(path, key, value)
            _write(spool_path, stored, me.owner)
    except Timeout:
        why = f"another process has held {spool_path}/{_LOCK_NAME} for {_PATIENCE_S:g} s"
        raise QueuectlError(f"{why}: the settings are as they were") from None
    except OSError as error:
        raise SpoolError("change", path, error) from error


def _write(spool_path: str, stored: dict[str, Any], owner: str) -> None:
    draft = draft_file(f"{spool_path}/tmp", "~config", owner)
    body = json.dumps(stored, indent=2).encode() + b"\n"
    is_shared = stored.get("shared")

    def place() -> None:
        if is_shared:
            files.give_group(draft, spool_path)
        moving.move(draft, f"{spool_path}/{FILE_NAME}")

    # those who may queue jobs must be able to read it: what they queue follows the settings
    mode = 0o640 if is_shared else 0o600
    # always synced: an edit is rare, and durability itself may be what it changes
    files.carry_out(files.placing(draft, body, place, sync=True, mode=mode))
    files.keep(spool_path, f"{FILE_NAME} is changed")
