"""Looking at a spool without changing anything.

spool-layout.md, section "Presence".
"""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from queuectl.errors import BadJobError, NoSuchJobError, SpoolError
from queuectl.ids import is_id
from queuectl.record.job import Job, decode, parse
from queuectl.record.reading import read_regular
from queuectl.spool.filenames import REJECTED, SUFFIX, holder_of, job_id_in, split_held
from queuectl.spool.places import Places
from queuectl.states import AT_REST, FINISHED, STATES, WAITING
from queuectl.system.moving import is_there, may_be_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Found(NamedTuple):
    """A job and the state in which it was found; in processing/ also the owner that holds it."""

    state: str
    job: Job
    owner: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the job's record, with the directory as its `state`."""
        return {**self.job.record, "state": self.state}


class Held(NamedTuple):
    """A file in processing/: its job and its owner, "" if it was put there by hand."""

    job_id: str
    owner: str
    path: str


class Layout(Places):
    """A spool that can be looked at."""

    def names(self, state: str) -> Iterator[str]:
        """Yield the ids of the jobs in a state, processing/ included, in no particular order.

        Raises:
            SpoolError: the directory cannot be read.
            ValueError: there is no such state.
        """
        for name in self.file_names(state):
            yield job_id_in(state, name)

    def file_names(self, state: str) -> Iterator[str]:
        """Yield the names of the job files in a state, without `.json`, in no particular order.

        Raises:
            SpoolError: the directory cannot be read.
        """
        return (_stem(entry) for entry in self._entries(state))

    def written(self, state: str) -> Iterator[tuple[str, float]]:
        """Yield each job's id and when its file was last written, in seconds since the epoch.

        Raises:
            SpoolError: the directory, or a file in it, cannot be looked at.
        """
        for entry in self._entries(state):
            try:
                written_s = entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:  # moved on since
                continue
            except OSError as error:
                raise SpoolError("look at", entry.path, error) from error
            yield job_id_in(state, _stem(entry)), written_s

    def file_names_by_place(self, state: str) -> Iterator[str]:
        """Yield what `file_names` does, in the order of the disk, for those who read all the files.

        On ext4, files that are not cached are read three times as fast in this order. Names are
        sorted in chunks, since the first jobs must not wait for a million names. Chunks of 20,000
        gained as much as sorting all names.
        """
        entries = ((entry.inode(), _stem(entry)) for entry in self._entries(state))
        while chunk := sorted(islice(entries, 20_000)):
            for _, name in chunk:
                yield name

    def _entries(self, state: str) -> Iterator[os.DirEntry[str]]:
        _check_state(state)
        path = self.directory(state)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    # is_job_file, but without a million calls
                    if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                        yield entry
        except FileNotFoundError:
            return
        except OSError as error:
            raise SpoolError("read", path, error) from error

    def held(self) -> Iterator[Held]:
        """Yield every job file in processing/.

        Raises:
            SpoolError: the directory cannot be read.
        """
        for name in self.file_names("processing"):
            yield Held(*split_held(name), self.file("processing", name))

    def found_in(self, job_id: str, states: Iterable[str], but: str = "") -> str | None:
        """Return the first of these states, except `but`, that has a file of this id; else None.

        This does not work for processing/, where the names of files include the owner.
        """
        for state in states:
            if state != but and is_there(self.file(state, job_id)):
                return state
        return None

    def locate(self, job_id: str) -> tuple[str, str]:
        """Return the state that has a job, and the path of the job's file.

        Raises:
            NoSuchJobError: no state has it.
            SpoolError: a state cannot be looked at.
            TypeError: the id is not a str.
        """
        if not isinstance(job_id, str):
            msg = f"an id is a str, not a {type(job_id).__name__}; that of a Job is its `.id`"
            raise TypeError(msg)
        if is_id(job_id):  # ../config is no id, even if there is such a file
            # look twice: a moving job can slip from a place not yet looked at to one that was
            place = self._look_for(job_id) or self._look_for(job_id)
            if place is not None:
                return place
            self.check_readable(job_id)
        msg = f'no job "{job_id}" in {self.path}; `queuectl list` shows what there is'
        raise NoSuchJobError(msg)

    def _look_for(self, job_id: str) -> tuple[str, str] | None:
        state = self.found_in(job_id, WAITING)
        if state is None:
            for held in self.held():
                if held.job_id == job_id:
                    return "processing", held.path
            state = self.found_in(job_id, FINISHED)
        return None if state is None else (state, self.file(state, job_id))

    def check_readable(self, job_id: str) -> None:
        """Check that the file system tells of each state whether it has a file of this id.

        Quick looks, such as `found_in`, take a refusal to tell for "not there". processing/ is left
        out, since `held` raises an error if it is refused.

        Raises:
            SpoolError: it refuses to tell.
        """
        for state in AT_REST:
            path = self.file(state, job_id)
            try:
                os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise SpoolError("read", path, error) from error

    def is_anywhere(self, job_id: str) -> bool:
        """Tell whether any state has a job of this id.

        Raises:
            SpoolError: a state cannot be looked at.
        """
        try:
            self.locate(job_id)
        except NoSuchJobError:
            return False
        return True

    def find(self, job_id: str) -> Found:
        """Return a job, wherever it is.

        Raises:
            NoSuchJobError: no state has it.
            BadJobError: its file is not a job's.
            SpoolError: it cannot be read.
        """
        for _ in range(100):
            state, path = self.locate(job_id)
            try:
                return self._read_found(state, path, job_id)
            except FileNotFoundError:  # moved on since: look again
                continue
            except OSError as error:
                raise SpoolError("read", path, error) from error
        raise NoSuchJobError(f'job "{job_id}" moves faster than it can be read; try again')

    def _read_found(self, state: str, path: str, job_id: str) -> Found:
        if state == "processing":
            return self._read_held(path, job_id)
        try:
            return Found(state, self.read_file(path, job_id))
        except BadJobError as error:
            if state == "dead" and (record := self._rejection(path, job_id)) is not None:
                return Found(state, record)
            raise BadJobError(f"{path}: {error}") from None

    def _read_held(self, path: str, job_id: str) -> Found:
        inode = os.lstat(path).st_ino
        try:
            job = self.read_file(path, job_id)
        except BadJobError:
            if os.lstat(path).st_ino == inode:
                raise
        else:
            if os.lstat(path).st_ino == inode:
                return Found("processing", job, holder_of(path))
        # exchanged for a newer body while it was read, and perhaps overwritten since
        raise FileNotFoundError(path)

    def _rejection(self, path: str, job_id: str) -> Job | None:
        """Return the record at `path` if it says why a file was set aside; else None.

        Raises:
            OSError: it cannot be read.
        """
        try:
            record = decode(read_regular(path))
            if "rejected" not in record or record.get("command") != "":
                return None
            parse(Job({**record, "command": "true"}).encode(), job_id)  # sound but for its command
        except BadJobError:
            return None
        why = record.get("error_message") or "rejected: no reason is recorded"
        return Job({**record, "id": job_id, "error_message": why})

    def reason(self, job_id: str, path: str | None = None) -> Job | None:
        """Return the record in dead/ID.json, or at `path`, that says why a file was set aside.

        None if there is no such file, or if it says something else.

        Raises:
            OSError: the file is there but cannot be read.
        """
        try:
            return self._rejection(path or self.file("dead", job_id), job_id)
        except FileNotFoundError:
            return None

    def mending(self, job_id: str) -> str:
        """Return what a user must do to run a file that was set aside under this id."""
        try:
            wanted = decode(read_regular(self.rejected_file(job_id))).get("id")
        except (BadJobError, OSError):  # it has no usable id
            wanted = None
        name, mend, note = job_id, f"mend dead/{job_id}{REJECTED}", ""
        if is_id(wanted) and wanted != job_id and self.found_in(wanted, AT_REST) is None:
            name, note = wanted, " (what says so here stays until it is purged)"
        elif wanted is not None and wanted != job_id:
            mend += f' (its "id" has to be "{job_id}", or not there)'
        return f"{mend} and move it to pending/{name}{SUFFIX}{note}"

    def jobs(
        self,
        state: str,
        ids: Iterable[str] | None = None,
        missed: Callable[[str, Exception], None] | None = None,
    ) -> Iterator[Found]:
        """Yield those jobs in a state that can be read.

        Args:
            state: the state to look in.
            ids: the ids to look for; one that two owners hold is given twice. None: all.
            missed: called with the path of each file that cannot be read, and the error.

        Raises:
            SpoolError: the directory cannot be read.
            ValueError: there is no such state.
        """
        _check_state(state)
        paths: dict[str, list[str]] = {}  # two owners may hold jobs of the same id
        for held in self.held() if state == "processing" else ():
            paths.setdefault(held.job_id, []).append(held.path)
        for job_id in self.names(state) if ids is None else ids:
            path = paths[job_id].pop() if paths.get(job_id) else self.file(state, job_id)
            try:
                found = self._read_found(state, path, job_id)
            except FileNotFoundError:
                continue  # moved on since
            except (BadJobError, OSError) as error:
                if missed is not None:
                    missed(path, error)
                continue
            yield found

    def has_begun(self, job: Job) -> bool:
        """Tell whether a held job's command has begun: its output files exist then.

        It has also begun if the record names no output, since then none could be made. While logs/
        cannot be accessed, it counts as begun, since it may have output.
        """
        if job.state != "processing":
            return False
        if job.record.get("stdout_path") is None:
            return True
        can_be_made = os.access(self.directory("logs"), os.R_OK | os.W_OK | os.X_OK)
        logs = self.log_files(job.id, job.run_number + 1)
        return not can_be_made or any(map(may_be_there, logs))

    def running(self) -> Iterator[Found]:
        """Yield the jobs whose command is running, as far as their files tell.

        Raises:
            SpoolError: processing/ cannot be read.
        """
        return (found for found in self.jobs("processing") if self.has_begun(found.job))

    def read_file(self, path: str, job_id: str, *, any_owner: bool = True) -> Job:
        """Return the job in a file.

        Raises:
            BadJobError: it is not a job's, or not of a job that we may run.
            OSError: it could not be read.
        """
        return parse(read_regular(path, any_owner=any_owner), job_id)


def _check_state(state: str) -> None:
    if state not in STATES:
        raise ValueError(f"{state!r} is none of the states {', '.join(STATES)}")


def _stem(entry: os.DirEntry[str]) -> str:
    return entry.name[: -len(SUFFIX)]
