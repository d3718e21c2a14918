"""What all tests share: a spool for each test, the real command, real pools, and waiting.

Everything is below pytest's tmp_path, so tests can run side by side. A process is ended by its pid.
What it has left running is found by the spool's path in its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import queuectl
from queuectl.settings import config
from queuectl.states import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

# Child processes import the code under test from here, whether it is installed or not.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(queuectl.__file__)))
DEADLINE_S = 40.0  # for what takes a fraction of a second: many processes may share two cores
_LOOK_S = 0.005


def wait_until(
    condition: Callable[[], Any], what: object = "", deadline_s: float = DEADLINE_S
) -> Any:
    """Return the first true value of `condition`, or fail after `deadline_s` without one."""
    until = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() > until:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {deadline_s:g} s: {text}")
        time.sleep(_LOOK_S)
    return value


def environment(spool_path: str | None = None, **extra: str) -> dict[str, str]:
    """Return our environment for a child, without variables of queuectl, terminals and coverage."""
    drop = ("QUEUECTL_", "NO_COLOR", "FORCE_COLOR", "COV_", "COLUMNS", "LINES")
    own = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
    spool = {} if spool_path is None else {"QUEUECTL_SPOOL": spool_path}
    return {**own, "PYTHONPATH": ROOT, **spool, **extra}


def read_json(path: str) -> Any:
    """Return the JSON in a file."""
    with open(path, "rb") as file:
        return json.load(file)


def read_text(path: str) -> str:
    """Return the text in a file, or an empty string if there is no file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):  # the latter for a file in /proc
        return ""


@dataclass(frozen=True)
class Result:
    """The exit status and the output of a command line."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on standard output."""
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """The JSON on standard output."""
        return json.loads(self.out)


class Child(subprocess.Popen[bytes]):
    """A process that the end of a `with` block waits for, or kills if the block has raised."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, traceback)


@dataclass
class Pool:
    """A running `queuectl worker start`."""

    process: subprocess.Popen[bytes]
    log_path: str

    @property
    def pid(self) -> int:
        """The pool's process id."""
        return self.process.pid

    def log(self) -> str:
        """Return everything that the pool has logged."""
        return read_text(self.log_path)

    def events(self, word: str | None = None, job_id: str | None = None) -> list[dict[str, Any]]:
        """Return the events in the pool's log, of one kind or of one job if these are given."""
        lines = [line for line in self.log().splitlines() if line.startswith("{")]
        return [
            event
            for event in map(json.loads, lines)
            if word in (None, event["event"]) and job_id in (None, event.get("id"))
        ]

    @property
    def name(self) -> str:
        """The worker's name."""
        return str(self.events("up")[0]["worker"])

    def wait_for(self, word: str, job_id: str | None = None) -> None:
        """Wait until the pool has logged an event, of this job if one is given."""
        wait_until(lambda: self.events(word, job_id), lambda: f"{word} {job_id}\n{self.log()}")

    def signal(self, number: int) -> None:
        """Send a signal to the pool."""
        self.process.send_signal(number)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for the pool to end, and return its exit status."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the pool does not end:\n{self.log()}") from None

    def kill(self) -> None:
        """End the pool with SIGKILL, so that it cannot tidy up."""
        self.process.kill()
        self.process.wait()


@dataclass
class SpoolDir:
    """A spool in its own directory, which tests read and change as any program would."""

    path: str
    _pools: int = field(default=0, init=False)

    # --- the command --------------------------------------------------------------------------

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs queuectl with these words."""
        return [sys.executable, "-m", "queuectl", *words]

    def start(self, *words: str, **options: Any) -> Child:
        """Start queuectl without waiting for it."""
        options.setdefault("env", environment(self.path))
        options.setdefault("stdin", subprocess.DEVNULL)
        return Child(self.command(*words), **options)

    def run(
        self,
        *words: str,
        stdin: str | bytes = b"",
        status: int = 0,
        cwd: str | None = None,
        **env: str,
    ) -> Result:
        """Run queuectl, and check its exit status and that it shows no traceback."""
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self.command(*words),
            input=raw,
            capture_output=True,
            env=environment(self.path, **env),
            cwd=cwd,
            timeout=DEADLINE_S * 2,
        )
        result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in result.err, result.err
        assert result.status == status, result
        return result

    def refuse(self, *words: str, status: int = 1, **options: Any) -> str:
        """Run queuectl where it must fail, and return the one line that says why."""
        result = self.run(*words, status=status, **options)
        assert result.out == "", result.out
        assert result.err.startswith("queuectl: "), result.err
        assert result.err.count("\n") == 1, result.err
        return result.err.strip()

    @contextlib.contextmanager
    def pool(
        self, count: int | None = 1, *options: str, env: dict[str, str] | None = None
    ) -> Iterator[Pool]:
        """Run a pool for a `with` block, then stop it and check that it met no internal error."""
        pool = self.start_pool(count, *options, env=env)
        try:
            yield pool
            if not pool.events("down") and pool.process.poll() is None:
                pool.signal(signal.SIGTERM)
                assert pool.wait() == 0, pool.log()
            pool.wait()
            assert "internal error" not in pool.log(), pool.log()
            assert "Traceback" not in pool.log(), pool.log()
        finally:
            if pool.process.poll() is None:
                pool.kill()

    def start_pool(
        self, count: int | None = 1, *options: str, env: dict[str, str] | None = None
    ) -> Pool:
        """Start a pool that the caller has to end, and wait until it is up."""
        self._pools += 1
        log_path = f"{self.path}.pool-{self._pools}.log"
        counted = [] if count is None else ["--count", str(count)]
        words = ["worker", "start", *counted, "--log-format", "json", *options]
        with open(log_path, "wb") as log:
            process = self.start(
                *words, stdout=log, stderr=log, env={**environment(self.path), **(env or {})}
            )
        pool = Pool(process, log_path)
        wait_until(lambda: pool.events("up") or process.poll() is not None, pool.log)
        return pool

    def drain(self, count: int = 2, *, env: dict[str, str] | None = None) -> Pool:
        """Run a pool until nothing is left to do, and return it once it has ended."""
        with self.pool(count, "--stop-when-empty", env=env) as pool:
            assert pool.wait() == 0, pool.log()
        return pool

    # --- plain files --------------------------------------------------------------------------

    def create(self) -> None:
        """Create the spool if it does not exist."""
        if not os.path.isdir(f"{self.path}/tmp"):
            self.api.create()

    @property
    def api(self) -> queuectl.Spool:
        """The spool as the library opens it, with the settings as they are now."""
        return queuectl.Spool(self.path)

    def configure(self, **settings: Any) -> None:
        """Change settings (`max_retries=1`), as `config set` does."""
        self.create()
        named = {key.replace("_", "-"): value for key, value in settings.items()}
        config.edit(self.path, lambda stored: stored.update(named))

    def file(self, state: str, job_id: str) -> str:
        """Return the path of a job's file in a state other than processing."""
        return f"{self.path}/{state}/{job_id}.json"

    def drop(self, job_id: str, command: str | list[str] = "true", **fields: Any) -> None:
        """Put a job into pending/ as a careful program does: write it elsewhere, then rename it."""
        self.drop_bytes(job_id, json.dumps({"command": command, **fields}).encode())

    def drop_bytes(self, job_id: str, body: bytes, state: str = "pending") -> None:
        """Put a file with any content into a state directory, by one rename."""
        self.create()
        draft = f"{self.path}/.draft-{job_id}"
        with open(draft, "wb") as file:
            file.write(body)
        os.rename(draft, self.file(state, job_id))

    def ids(self, state: str) -> list[str]:
        """Return the ids in a state, sorted."""
        names = [name for name in os.listdir(f"{self.path}/{state}") if name.endswith(".json")]
        return sorted(name.removesuffix(".json").partition("@")[0] for name in names)

    def states(self, job_id: str) -> list[str]:
        """Return the states that hold an id."""
        return [state for state in STATES if job_id in self.ids(state)]

    def record(self, state: str, job_id: str) -> dict[str, Any]:
        """Return the record in a job's file."""
        record: dict[str, Any] = read_json(self.file(state, job_id))
        return record

    def output(self, job_id: str, number: int = 1, stream: str = "out") -> str:
        """Return what a run printed."""
        return read_text(f"{self.path}/logs/{job_id}.{number}.{stream}")

    def wait_for(self, state: str, *job_ids: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until all these jobs are in a state."""
        for job_id in job_ids:
            path = self.file(state, job_id)
            wait_until(
                lambda path=path: os.path.lexists(path),  # type: ignore[misc]
                lambda job_id=job_id: f"{job_id} in {state}/; it is in {self.states(job_id)}",
                deadline_s,
            )

    def leftovers(self) -> list[str]:
        """Return the files of tmp/ and workers/ that should not be there once nobody works."""
        names = [f"tmp/{name}" for name in os.listdir(f"{self.path}/tmp")]
        names += [f"workers/{name}" for name in os.listdir(f"{self.path}/workers")]
        return [name for name in names if name != "workers/recovery.lock"]

    def end_processes(self) -> None:
        """Kill the processes that jobs of this spool have left running."""
        end_processes_of(self.path)


def end_processes_of(spool_path: str) -> None:
    """Kill the processes that jobs of a spool have left running."""
    for pid in processes_with(f"QUEUECTL_SPOOL={spool_path}"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def tick(spool: SpoolDir) -> None:
    """Wait until the file system's clock has moved on, so that two arrivals have an order."""
    path = f"{spool.path}.tick"
    with open(path, "w"):
        pass
    first = os.stat(path).st_ctime_ns

    def moved() -> bool:
        os.utime(path)
        return os.stat(path).st_ctime_ns > first

    wait_until(moved)


def waiting_for(path: str) -> str:
    """Return a shell command that ends once a file exists."""
    return f"while ! [ -e {path} ]; do sleep 0.01; done"


def processes_with(variable: str) -> list[int]:
    """Return the living processes that have `NAME=value` in their environment."""
    wanted, found = variable.encode(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0") and int(name) != os.getpid():
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or another user's
    return found


def set_immutable(path: str, *, on: bool) -> bool:
    """Make a file immutable or mutable, and tell whether we may: as root, on some file systems."""
    words = ["chattr", "+i" if on else "-i", path]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def cpu_ticks(pid: int) -> int:
    """Return the CPU time that a process has had, in ticks of SC_CLK_TCK."""
    fields = read_text(f"/proc/{pid}/stat").rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    state = read_text(f"/proc/{pid}/stat").rpartition(") ")[2][:1]
    return state not in ("", "Z", "X")


# --- code that changes one thing in a pool ----------------------------------------------------

SILENT = """
from queuectl.system import arrivals
arrivals.Arrivals.start = lambda self: None
"""
AHEAD = """
from queuectl.pool import lanes
lanes._SHORT_S = lanes._SOON_S = lanes._PATIENCE_S = 3600.0
enter = lanes.Lanes.enter
async def telling(self, job_id):
    open(__file__ + "." + job_id, "w").close()
    return await enter(self, job_id)
lanes.Lanes.enter = telling
"""  # it claims 32 jobs ahead, keeps them on a slow machine too, and marks each that is on disk


def with_code_at_start(tmp_path: Path, code: str) -> dict[str, str]:
    """Return the variables that have a child run this code before anything else."""
    (tmp_path / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def inotify_instances(pid: int | str = "self") -> int:
    """Return how many instances of inotify a process has, of which a user has 128."""
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this listing
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sum("inotify" in link for link in links)
