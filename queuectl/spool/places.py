"""Where everything is in a spool, and what its settings are.

spool-layout.md, section "The picture".
"""

from __future__ import annotations

import os
from functools import cached_property

from queuectl import variables
from queuectl.errors import QueuectlError
from queuectl.settings import config
from queuectl.spool.filenames import ERR, OUT, PAUSED, REJECTED, SUFFIX
from queuectl.system.files import from_here
from queuectl.system.moving import is_there
from queuectl.system.users import user_name


class Places:
    """Where everything is in a spool, and what its settings are.

    Args:
        path: the spool, which need not exist. None: $QUEUECTL_SPOOL, else ~/.queuectl.
        strict: whether config.json must be sound. If false, `faults` lists what is wrong in it.

    Raises:
        BadSettingError: config.json holds something that is no setting, and `strict` is true.
        SpoolError: config.json cannot be read.
        QueuectlError: the path begins with ~, and no home directory is known.
        ValueError: the path is empty.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, strict: bool = True) -> None:
        if path is None:
            path = os.environ.get(variables.SPOOL) or "~/.queuectl"
        if not os.fspath(path):
            raise ValueError("the path of a spool is empty")
        expanded = os.path.expanduser(os.fsdecode(path))
        if expanded.startswith("~"):
            known = f"no home directory is known for {os.fsdecode(path)}"
            msg = f"{known}: name the spool with --spool DIR or ${variables.SPOOL}"
            raise QueuectlError(msg)
        # the real path: inotify reports nothing through a symlink
        self.path = os.path.realpath(from_here(expanded))
        self._strict = strict
        self._read_config()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def _read_config(self) -> None:
        stamp = config.stamp(self.path)  # before reading: a later write is noticed
        settings, faults = config.load(self.path)
        if self._strict and faults:
            raise faults[0]
        self.config, self.faults, self._stamp = settings, faults, stamp

    def follow_config(self) -> None:
        """Read the settings again if config.json has been written since.

        Raises:
            BadSettingError, SpoolError: as when the spool is opened.
        """
        if config.stamp(self.path) != self._stamp:
            self._read_config()

    def directory(self, name: str) -> str:
        """Return the path of one of the spool's directories."""
        return f"{self.path}/{name}"

    def file(self, state: str, job_id: str) -> str:
        """Return the path of a job's file; for processing/ pass ID@OWNER, or use `held_file`."""
        return f"{self.path}/{state}/{job_id}{SUFFIX}"

    def held_file(self, job_id: str, owner: str) -> str:
        """Return the path of a job's file while `owner` holds it."""
        return f"{self.path}/processing/{job_id}@{owner}{SUFFIX}"

    def rejected_file(self, job_id: str) -> str:
        """Return the path of the bytes of a file that was set aside under this id."""
        return f"{self.directory('dead')}/{job_id}{REJECTED}"

    def log_files(self, job_id: str, number: int) -> tuple[str, str]:
        """Return the paths to which run `number` of a job writes its standard output and error.

        The id must be that of a job, such as `find` returns. It is not checked.
        """
        stem = f"{self.path}/logs/{job_id}.{number}"
        return f"{stem}.{OUT}", f"{stem}.{ERR}"

    def key(self, job_id: str) -> str:
        """Return the id for comparisons: in lower case if the file system ignores case."""
        return job_id.lower() if self._folds_case else job_id

    @cached_property
    def _folds_case(self) -> bool:
        """Whether the file system ignores case, as that of a Mac does."""
        path = self.directory("processing")
        try:
            return os.path.samestat(os.stat(path), os.stat(self.directory("PROCESSING")))
        except OSError:  # usually because there is no such name
            return False

    def left_to(self) -> str | None:
        """Return the user to whom root must leave this spool, if we are root; else None."""
        if os.geteuid() != 0 or self.config.shared:
            return None
        try:
            owner = os.stat(self.path).st_uid
        except FileNotFoundError:
            return None
        return user_name(owner) if owner != 0 else None

    def exists(self) -> bool:
        """Tell whether the spool exists already."""
        return any(os.path.isdir(self.directory(name)) for name in ("pending", "processing"))

    @property
    def paused_file(self) -> str:
        """The path of the file that asks pools to start nothing while it exists."""
        return f"{self.path}/{PAUSED}"

    @property
    def paused(self) -> bool:
        """Whether pools are asked to start nothing."""
        return is_there(self.paused_file)
