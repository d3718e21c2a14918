"""Whatever is done to a spool, in whatever order, it comes to the state that a model predicts.

The model knows jobs, slots, a pause and which job is next, but no files. Each step does one thing
to a real spool with a real pool, and the same to the model. Then both have to agree.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from queuectl.errors import JobExistsError, WrongStateError
from queuectl.states import FINISHED, OUTCOMES, STATES
from tests.support import SpoolDir, read_text, tick, wait_until

SLOTS = 2
IDS = "abcdef"
NEXT_CENTURY = "2100-01-01T00:00:00Z"
# notes that it has begun, and ends with the exit status that it reads from its gate
COMMAND = "echo >> {here}/$QUEUECTL_JOB_ID.runs; read x < {here}/$QUEUECTL_JOB_ID.gate; exit $x"

some_ids = st.lists(st.sampled_from(IDS), unique=True, min_size=1)
priorities = st.sampled_from([0, 0, -1, 1])
limits = st.integers(1, 2)


@dataclass
class Job:
    """What the model knows of a job from what was done to it."""

    arrived: int
    priority: int
    max_retries: int
    later: bool = False
    state: str = "pending"
    attempts: int = 0
    by_hand: bool = False  # moved by hand: its file has the old attempts until a pool takes it


@dataclass
class Model:
    """The state that a spool with one pool should come to."""

    jobs: dict[str, Job] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(IDS, 0))
    paused: bool = False
    arrivals: int = 0

    def of(self, *states: str) -> list[str]:
        """Return the ids in these states."""
        return sorted(job_id for job_id, job in self.jobs.items() if job.state in states)

    def state(self, job_id: str) -> str | None:
        """Return the state of a job, or None if there is no such job."""
        return self.jobs[job_id].state if job_id in self.jobs else None

    def queue(self, job_id: str, **fields: Any) -> None:
        """Add a job behind all others of its priority."""
        self.arrivals += 1
        self.jobs[job_id] = Job(arrived=self.arrivals, **fields)

    def requeue(self, job_id: str, **changes: Any) -> None:
        """Change a job that is there, and put it behind all others of its priority."""
        self.arrivals += 1
        self.jobs[job_id] = replace(self.jobs[job_id], arrived=self.arrivals, **changes)

    def start(self) -> None:
        """Start the next jobs in the free slots."""
        due = [job_id for job_id in self.of("pending") if not self.jobs[job_id].later]
        due.sort(key=lambda job_id: (self.jobs[job_id].priority, self.jobs[job_id].arrived))
        free = 0 if self.paused else SLOTS - len(self.of("processing"))
        for job_id in due[:free]:
            job = self.jobs[job_id]
            job.state, job.attempts, job.by_hand = "processing", job.attempts + 1, False
            self.runs[job_id] += 1

    def end(self, job_id: str, *, well: bool) -> None:
        """End a run."""
        job = self.jobs[job_id]
        unwell = "failed" if job.attempts < job.max_retries else "dead"
        job.state = "completed" if well else unwell

    def give_back(self) -> None:
        """Undo all runs: each job waits again, in its old place, with the attempt uncounted."""
        for job_id in self.of("processing"):
            job = self.jobs[job_id]
            job.state, job.attempts = "pending", job.attempts - 1


class Spools(RuleBasedStateMachine):
    """A spool with its pool, and the model of both."""

    @initialize()
    def begin(self) -> None:
        self.here = os.path.realpath(tempfile.mkdtemp(prefix="queuectl-model-"))
        self.spool = SpoolDir(f"{self.here}/spool")
        # a job that failed stays in failed/: its retry is not due during the test
        self.spool.configure(backoff_base=1000, durability="relaxed", kill_grace=60)
        for job_id in IDS:
            os.mkfifo(f"{self.here}/{job_id}.gate")
        self.command = COMMAND.format(here=self.here)
        self.model = Model()
        self.pool = self.spool.start_pool(SLOTS)

    # --- jobs arrive and end ------------------------------------------------------------------

    @rule(job_ids=some_ids, priority=priorities, limit=limits, later=st.sampled_from([0, 0, 0, 1]))
    def submit(self, job_ids: list[str], priority: int, limit: int, later: int) -> None:
        fields: dict[str, Any] = {"priority": priority, "max_retries": limit}
        when: dict[str, Any] = {"run_at": NEXT_CENTURY} if later else {}
        for job_id in job_ids:
            tick(self.spool)
            if job_id in self.model.jobs:
                with pytest.raises(JobExistsError):
                    self.spool.api.submit(self.command, id=job_id)
            else:
                self.spool.api.submit(self.command, **(fields | when | {"id": job_id}))
                self.model.queue(job_id, later=bool(later), **fields)

    @rule(job_id=st.sampled_from(IDS), priority=priorities, limit=limits)
    def drop(self, job_id: str, priority: int, limit: int) -> None:
        """Drop a file under a free id, or under that of a waiting job, which it replaces."""
        if job_id in self.model.jobs:
            if not self.model.paused or self.model.state(job_id) != "pending":
                return
            self.wait_until_it_waits(job_id)
        tick(self.spool)
        self.spool.drop(job_id, self.command, priority=priority, max_retries=limit)
        self.model.queue(job_id, priority=priority, max_retries=limit)

    @precondition(lambda self: self.model.of("processing"))
    @rule(data=st.data(), status=st.sampled_from([0, 1]))
    def end(self, data: st.DataObject, status: int) -> None:
        job_id = data.draw(st.sampled_from(self.model.of("processing")))
        with open(f"{self.here}/{job_id}.gate", "w") as gate:
            gate.write(f"{status}\n")
        self.model.end(job_id, well=status == 0)

    # --- what is done to one job --------------------------------------------------------------

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.model.jobs)))
        if self.model.state(job_id) in FINISHED:
            with pytest.raises(WrongStateError):
                self.spool.api.cancel(job_id)
        else:
            self.spool.api.cancel(job_id)
            self.model.jobs[job_id].state = "dead"

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.model.jobs)))
        tick(self.spool)
        if self.model.state(job_id) not in OUTCOMES:
            with pytest.raises(WrongStateError):
                self.spool.api.retry(job_id)
        else:
            self.spool.api.retry(job_id)
            self.model.requeue(job_id, state="pending", attempts=0)

    @precondition(lambda self: self.model.of(*OUTCOMES))
    @rule(data=st.data())
    def move_to_pending(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.model.of(*OUTCOMES)))
        state = self.model.jobs[job_id].state
        tick(self.spool)
        os.rename(self.spool.file(state, job_id), self.spool.file("pending", job_id))
        self.model.requeue(job_id, state="pending", attempts=0, by_hand=True)

    @precondition(lambda self: self.model.paused and self.model.of("pending"))
    @rule(data=st.data(), priority=priorities)
    def edit(self, data: st.DataObject, priority: int) -> None:
        job_id = data.draw(st.sampled_from(self.model.of("pending")))
        self.wait_until_it_waits(job_id)
        tick(self.spool)
        self.spool.run("edit", job_id, "--priority", str(priority))
        if priority != self.model.jobs[job_id].priority:  # otherwise its file is left as it is
            self.model.requeue(job_id, priority=priority)

    @precondition(lambda self: self.model.paused and self.model.of("pending"))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.model.of("pending")))
        self.wait_until_it_waits(job_id)
        os.unlink(self.spool.file("pending", job_id))
        del self.model.jobs[job_id]

    @precondition(lambda self: self.model.of(*FINISHED))
    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.model.of(*FINISHED)))
        self.spool.run("prune", "--yes", job_id)
        del self.model.jobs[job_id]
        assert not [name for name in os.listdir(f"{self.spool.path}/logs") if name[0] == job_id]

    # --- what is done to the whole spool ------------------------------------------------------

    @rule()
    def pause(self) -> None:
        self.spool.run("pause")
        self.model.paused = True

    @rule()
    def resume(self) -> None:
        self.spool.run("resume")
        self.model.paused = False

    @rule()
    def kill(self) -> None:
        self.pool.kill()
        self.pool = self.spool.start_pool(SLOTS)
        for job_id in self.model.of("processing"):
            self.model.end(job_id, well=False)

    @rule()
    def stop_now_and_start(self) -> None:
        self.stop_now()
        self.pool = self.spool.start_pool(SLOTS)

    def stop_now(self) -> None:
        self.spool.run("worker", "stop", "--now")
        assert self.pool.wait() == 0, self.pool.log()
        self.model.give_back()

    # --- spool and model agree ----------------------------------------------------------------

    @invariant()
    def agree(self) -> None:
        self.model.start()
        wait_until(lambda: not self.differences(), self.told)

    def differences(self) -> list[str]:
        """Return what differs from the model, where a waiting job may also be claimed ahead."""
        seen = [(job_id, state) for state in STATES for job_id in self.spool.ids(state)]
        found = []
        for job_id in IDS:
            state, runs = self.model.state(job_id), self.model.runs[job_id]
            where: list[str | None] = [place for seen_id, place in seen if seen_id == job_id]
            if (where or [None]) != [state] and (state, where) != ("pending", ["processing"]):
                found.append(f"{job_id} is in {where}, not in {state}")
            if len(read_text(f"{self.here}/{job_id}.runs")) != runs:
                found.append(f"{job_id} has not begun {runs} times")
        if len(seen) != len(self.model.jobs):
            found.append(f"there are {seen}")
        return found

    def told(self) -> str:
        return "\n".join([*self.differences(), str(self.model), self.pool.log()])

    def wait_until_it_waits(self, job_id: str) -> None:
        """Wait until the pool has noticed the pause and the job is back in pending/."""

        def waits() -> bool:
            words = [event["event"] for event in self.pool.events() if "paused" in event["event"]]
            return words[-1:] == ["paused"] and job_id in self.spool.ids("pending")

        wait_until(waits, self.told)

    def teardown(self) -> None:
        try:
            self.stop_now()
            self.agree_at_the_end()
        finally:
            if self.pool.process.poll() is None:
                self.pool.kill()
            self.spool.end_processes()
            shutil.rmtree(self.here)

    def agree_at_the_end(self) -> None:
        jobs = {job["id"]: job for job in self.spool.run("list", "--json").json}
        assert jobs.keys() == self.model.jobs.keys()
        for job_id, job in self.model.jobs.items():
            assert (jobs[job_id]["state"], jobs[job_id]["priority"]) == (job.state, job.priority)
            assert job.by_hand or jobs[job_id].get("attempts", 0) == job.attempts, self.told()
        assert self.spool.leftovers() == []


@pytest.mark.slow
def test_a_spool_comes_to_what_its_model_says_whatever_is_done_to_it() -> None:
    # no shrinking: it would take minutes, and the log of the first failure says enough
    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    run_state_machine_as_test(
        Spools, settings=settings(max_examples=8, stateful_step_count=30, phases=phases)
    )
