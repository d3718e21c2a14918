"""Spools to measure on, and pools that run while something else is measured."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import sysconfig
import time
from typing import TYPE_CHECKING, Any

from .harness import DEADLINE_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import Bench

_TICKS = os.sysconf("SC_CLK_TCK")
_REST = 0.05  # of a core: the look of an idle pool every few seconds takes less, any work more


def queuectl() -> list[str]:
    """Return the words that begin a command line of queuectl."""
    script = f"{sysconfig.get_path('scripts')}/queuectl"
    return [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "queuectl"]


def environment(spool: str) -> dict[str, str]:
    """Return an environment in which every command line uses this spool."""
    # without stored bytecode, the compiler would be measured too
    ours = ("QUEUECTL_", "PYTHONDONTWRITEBYTECODE")
    kept = {key: text for key, text in os.environ.items() if not key.startswith(ours)}
    return {**kept, "QUEUECTL_SPOOL": spool}


def new_spool(bench: Bench, name: str, **settings: Any) -> str:
    """Return a fresh, empty spool with these settings."""
    spool = bench.path(name)
    for directory in ("pending", "processing", "completed", "failed", "dead", "logs", "workers"):
        os.makedirs(f"{spool}/{directory}", 0o700)
    os.mkdir(f"{spool}/tmp", 0o700)
    os.chmod(spool, 0o700)
    with open(f"{spool}/config.json", "w", encoding="utf-8") as file:
        json.dump(settings, file)
    return spool


def fill(spool: str, count: int, *, stem: str = "job", **fields: Any) -> None:
    """Put jobs into pending/, with the record that `enqueue` writes, each by a rename."""
    record = {
        "command": "true",
        "state": "pending",
        "attempts": 0,
        "max_retries": 3,
        "created_at": "2026-01-01T00:00:00.000000Z",
        "updated_at": "2026-01-01T00:00:00.000000Z",
        "cwd": "/",
        **fields,
    }
    tail = json.dumps(record)[1:].encode() + b"\n"
    draft = f"{spool}/tmp/filling"
    for number in range(count):
        job_id = f"{stem}-{number:07}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, b'{"id": "%s", %s' % (job_id.encode(), tail))
        os.close(descriptor)
        os.rename(draft, f"{spool}/pending/{job_id}.json")


def warm(spool: str) -> None:
    """Read all waiting jobs into memory, so that the speed of the disk is not measured."""
    with os.scandir(f"{spool}/pending") as entries:
        for entry in entries:
            with open(entry.path, "rb") as file:
                file.read()


def flush() -> None:
    """Write what was prepared to disk, so that this does not happen during a measurement."""
    os.sync()


class RunningPool:
    """A `queuectl worker start` that runs for a `with` block."""

    def __init__(self, bench: Bench, spool: str, slots: int, *words: str) -> None:
        self.spool = spool
        self._log_path = bench.path("log")
        self._argv = [*queuectl(), "worker", "start", "--count", str(slots), *words]
        self._seen = 0
        self._completed = 0

    def __enter__(self) -> RunningPool:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        del soft
        self.begun = time.perf_counter()
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=environment(self.spool),
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.pid = self._process.pid
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (hard, hard))
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGTERM):
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DEADLINE_S)
            return
        self._process.kill()
        self._process.wait()

    def wait_for_line(self, word: str) -> float:
        """Return the seconds from the start of the process to the first line with this event."""
        wait_for(lambda: f"  {word} " in self._log() or None, f"{word} in the pool's log")
        return time.perf_counter() - self.begun

    def _log(self) -> str:
        with open(self._log_path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)

    def completed(self) -> int:
        """Return how many jobs have completed since the start."""
        with open(self._log_path, "rb") as log:
            log.seek(self._seen)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._seen += len(whole)
        self._completed += whole.count(b"  completed ")
        return self._completed

    def wait_completed(self, count: int) -> None:
        """Return once at least `count` jobs have completed since the start."""
        wait_for(lambda: self.completed() >= count or None, f"{count} jobs completed")

    def cpu_s(self, *, children: bool = True) -> float:
        """Return the CPU time so far, in seconds, with that of ended children if `children`."""
        with open(f"/proc/{self.pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        last = 15 if children else 13
        return sum(map(int, fields[11:last])) / _TICKS

    def precise_cpu_s(self) -> float:
        """Return the CPU time of the pool's living threads, in seconds, to the nanosecond."""
        return sum(int(text.split()[0]) for text in self._of_threads("schedstat")) / 1e9

    def wakeups(self) -> int:
        """Return how often the pool's living threads have gone to sleep by themselves."""
        texts = self._of_threads("status")
        return sum(_field(text, "voluntary_ctxt_switches") for text in texts)

    def _of_threads(self, name: str) -> Iterator[str]:
        """Yield the text of the /proc file of this name for each living thread."""
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            path = f"/proc/{self.pid}/task/{thread}/{name}"
            # a thread that ends after it was listed has no file, or one that cannot be read
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield _text(path)

    def memory_mb(self) -> float:
        """Return the resident memory, in MB of 10^6 bytes."""
        return _field(_text(f"/proc/{self.pid}/status"), "VmRSS") * 1024 / 1e6

    def wait_quiet(self, quiet_s: float = 1.0) -> float:
        """Return the seconds from the start to the last work, once the pool has rested `quiet_s`.

        Raises:
            TimeoutError: If the pool does not come to rest.
        """
        step_s = 0.1
        last_cpu, last_work = self.precise_cpu_s(), time.perf_counter()

        def rested() -> bool:
            nonlocal last_cpu, last_work
            now_cpu = self.precise_cpu_s()
            if now_cpu - last_cpu > _REST * step_s:
                last_work = time.perf_counter()
            last_cpu = now_cpu
            return time.perf_counter() - last_work >= quiet_s

        wait_for(rested, "the pool at rest", step_s)
        return last_work - self.begun


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _field(text: str, name: str) -> int:
    """Return the number that `name` has in the text of a /proc/PID/status."""
    line = next(line for line in text.splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])


def pause(spool: str) -> None:
    """Pause the spool, so that pools start nothing."""
    with open(f"{spool}/paused", "w", encoding="utf-8"):
        pass


def unpause(spool: str) -> None:
    """Let pools start jobs again."""
    os.unlink(f"{spool}/paused")
