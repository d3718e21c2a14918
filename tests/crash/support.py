"""Real spools, real processes, and the promise that is checked after every fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuectl import Spool
from queuectl.record.job import parse
from queuectl.spool.filenames import DIRECTORIES
from queuectl.states import STATES
from tests import support
from tests.support import DEADLINE_S, end_processes_of, environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

MUTATED = Path(__file__).with_name("mutated.py")
MUTATION = "CRASH_TEST_MUTATION"  # the variable that names what mutated.py takes out
QUICK = {
    "poll-interval": 0.1,
    "lease": 1,
    "backoff-base": 0,
    "max-retries": 50,
    "kill-grace": 0.5,
    "job-timeout": 30,
}
# workers/recovery.lock and config.lock are made once and stay: spool-layout.md
LASTING = {"recovery.lock"}


def make_spool(path: Path, **settings: Any) -> Path:
    """Make a spool with quick settings."""
    Spool(path).create()
    stored = QUICK | {key.replace("_", "-"): value for key, value in settings.items()}
    (path / "config.json").write_text(json.dumps(stored))
    return path


def command_line(*words: str, mutated: bool = False) -> list[str]:
    """Return the words that run queuectl in a child."""
    program = [str(MUTATED)] if mutated else ["-m", "queuectl"]
    return [sys.executable, *program, *words]


class Pool(support.Pool):
    """A pool whose log is text, as a person reads it, and which is exposed to faults."""

    def up(self) -> Pool:
        """Wait until the pool has registered, and return it."""
        wait_until(lambda: "  up " in self.log() or self.process.poll() is not None, self.log)
        assert self.process.poll() is None, self.log()
        return self

    def says(self, text: str) -> None:
        """Wait until the pool's log has `text`."""
        wait_until(lambda: text in self.log(), lambda: f"the pool says {text!r}:\n{self.log()}")

    def send(self, number: int) -> None:
        """Signal the pool alone, not what it runs, unless it has ended."""
        if self.process.poll() is None:
            self.signal(number)

    def stop(self) -> None:
        """End the pool as a person does, and wait for its end."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        self.wait()


def report_of(program: Path, *words: object, mutation: str = "") -> Any:
    """Run one of the programs that go through many cases, and return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, str(program), *map(str, words)],
        env=environment(**{MUTATION: mutation}),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def start_pool(
    spool: Path,
    *options: str,
    before: Sequence[str] = (),
    log_in: Path | None = None,
    mutated: bool = False,
    **popen: Any,
) -> Pool:
    """Start a pool, in a session of its own, that the caller has to end."""
    log_file = (log_in or spool.parent) / f"{spool.name}.{time.monotonic_ns()}.log"
    words = command_line("--spool", str(spool), "worker", "start", *options, mutated=mutated)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*before, *words],
            **{"stderr": log, "env": environment(), "start_new_session": True, **popen},
        )
    return Pool(process, str(log_file))


class Spoolside:
    """A spool, the pools that were started on it, and the ids that were accepted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = path.parent / f"{path.name}.runs"
        self.accepted: list[str] = []
        self.mutation = ""
        self._pools: list[Pool] = []

    def __enter__(self) -> Spoolside:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.kill()
        end_processes_of(str(self.path))

    @property
    def spool(self) -> Spool:
        """The spool as the library opens it."""
        return Spool(self.path)

    def pool(self, *options: str, **popen: Any) -> Pool:
        """Start a pool that is killed at the end of the test."""
        if self.mutation:
            env = popen.get("env") or environment()
            popen |= {"env": {**env, MUTATION: self.mutation}, "mutated": True}
        self._pools.append(start_pool(self.path, *options, **popen))
        return self._pools[-1]

    def pools(self) -> list[Pool]:
        """Return the pools that have not ended."""
        return [pool for pool in self._pools if pool.process.poll() is None]

    def run(
        self, *words: str, before: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command line to its end."""
        return subprocess.run(
            [
                *before,
                *command_line("--spool", str(self.path), *words, mutated=bool(self.mutation)),
            ],
            env={**(env or environment()), MUTATION: self.mutation},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def command(self, work: str = "") -> str:
        """Return a command that notes its start and end in the diary, and does `work` between."""
        mark = f'echo "$QUEUECTL_JOB_ID {{}} $$" >> {self.runs}'
        return "; ".join(filter(None, [mark.format("start"), work, mark.format("end")]))

    def submit(self, work: str = "", **fields: Any) -> str:
        """Queue a job that notes its runs in the diary, and return its id."""
        job = self.spool.submit(self.command(work), **fields)
        self.accepted.append(job.id)
        return job.id

    def drop(self, job_id: str, work: str = "", **fields: Any) -> Path:
        """Put a job there as another program does: write it elsewhere, rename it into pending/."""
        record = {"command": self.command(work), **fields}  # fields may name another command
        return self.drop_bytes(job_id, json.dumps(record).encode())

    def drop_bytes(self, job_id: str, data: bytes) -> Path:
        """Put bytes into pending/ under a job's name, by one rename."""
        draft, target = (
            self.path.parent / f"{job_id}.draft",
            self.path / "pending" / f"{job_id}.json",
        )
        draft.write_bytes(data)
        draft.rename(target)
        self.accepted.append(job_id)
        return target

    def diary(self) -> list[tuple[str, str, int]]:
        """Return (id, start or end, pid) of everything that ran."""
        lines = self.runs.read_text().splitlines() if self.runs.exists() else []
        words = (line.split() for line in lines)
        return [(job_id, what, int(pid)) for job_id, what, pid in words]

    def times_run(self) -> Counter[str]:
        """Return how often each job was started."""
        return Counter(job_id for job_id, what, _ in self.diary() if what == "start")

    def state_of(self, job_id: str) -> str:
        """Return the one state that holds a job."""
        (found,) = places(self.path)[job_id]
        return found.parent.name

    def wait_for(self, job_id: str, *states: str) -> dict[str, Any]:
        """Return a job's record once it is in one of these states."""

        def there() -> Path | None:
            files = [self.path / state / f"{job_id}.json" for state in states or ("completed",)]
            return next((file for file in files if file.exists()), None)

        found = wait_until(there, f"{job_id} is in {states or 'completed'}: {places(self.path)}")
        record: dict[str, Any] = json.loads(found.read_bytes())
        return record

    def wait_for_run(self, job_id: str) -> None:
        """Wait until a job's command has begun."""
        wait_until(lambda: self.times_run()[job_id], f"{job_id} runs")

    def drain(self, deadline_s: float = DEADLINE_S) -> None:
        """Run everything to its end in a fresh pool."""
        pool = self.pool("--count", "4", "--stop-when-empty")
        assert pool.wait(deadline_s) == 0, pool.log()[-2000:]

    def check_promise(self, ended: Sequence[str] = ("completed",)) -> None:
        """Check that every accepted job has come to its end, and nothing else is left over."""
        check_promise(self.path, self.accepted, ended)


def places(path: Path) -> dict[str, list[Path]]:
    """Return every file of every id in the five states."""
    found: dict[str, list[Path]] = {}
    for state in STATES:
        for file in (path / state).glob("*.json"):
            stem = file.stem.rpartition("@")[0] or file.stem
            found.setdefault(stem, []).append(file)
    return found


def check_promise(
    path: Path, accepted: Iterable[str], ended: Sequence[str], set_aside: Collection[str] = ()
) -> None:
    """Check that each id is whole in exactly one of the states `ended`, and nothing is left over.

    Only under the ids of `set_aside` may there be a second file of an accepted job.
    """
    found, accepted = places(path), list(accepted)
    for job_id in accepted:
        files = found.get(job_id, [])
        assert len(files) == 1, f"{job_id} is in {[str(file) for file in files]}"
        assert files[0].parent.name in ended, f"{job_id} is in {files[0]}"
    others = found.keys() - set(set_aside)
    copies = [job_id for job_id in others if job_id.rpartition(".")[0] in accepted]
    assert not copies, f"a second file of an accepted job was set aside: {copies}"
    for job_id, files in found.items():
        for file in files:
            check_record(job_id, file)
    check_no_debris(path)


def check_record(job_id: str, file: Path) -> None:
    """Check that a file of a state is a record of that state."""
    raw = file.read_bytes()
    if b'"rejected": ' in raw:
        assert json.loads(raw)["state"] == "dead"
        return
    job = parse(raw, job_id)
    assert job.state == file.parent.name, f"{file} says {job.state}"


def check_no_debris(path: Path) -> None:
    """Check that tmp/, workers/ and processing/ hold nothing, and the root nothing unknown."""
    left = {name: sorted(set(os.listdir(path / name)) - LASTING) for name in ("tmp", "workers")}
    left["processing"] = sorted(os.listdir(path / "processing"))
    known = {*DIRECTORIES, "config.json", "config.lock", "paused", "worker.log"}
    left["."] = sorted(set(os.listdir(path)) - known)
    assert not any(left.values()), left


def check_output(path: Path) -> None:
    """Check that logs/ holds no output of a job that no state holds."""
    ran = {file.name.rsplit(".", 2)[0] for file in (path / "logs").iterdir()}
    assert ran <= places(path).keys(), f"output of nobody: {ran - places(path).keys()}"
