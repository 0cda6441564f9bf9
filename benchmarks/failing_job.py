"""A job on a real SLURM cluster whose ranks and nodes fail at given times, for `planned_on_slurm.py`."""

import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "slurm")]

from slurm_cluster import NODES  # noqa: E402
from submitted_runs import Jobs  # noqa: E402

from launch.slurm.hostlist import expand_hostlist  # noqa: E402

TRAINING = 2
"""Number of nodes that train. The third one is a spare."""
SETTINGS = ("slurm.shrink=false", "checkpoint.every_steps=20", "train.epochs=10000")
_POLL_SECONDS = 0.15
_PATIENCE_S = 400.0
_OVER = ("COMPLETED", "CANCELLED")

Kind = Literal["rank", "node", "first node", "spare"]


@dataclass(frozen=True)
class Due:
    """A failure that is to come."""

    wait: float
    """Seconds since the one before, in which the job has its nodes."""
    machine: str
    is_of_rank: bool


@dataclass(frozen=True)
class Came:
    """A failure that came."""

    kind: Kind
    clock: float
    """Seconds in which the job had had its nodes before it."""
    spares: int
    """Number of spares before it."""


class FailingJob:
    """A run of one rank on each of two nodes, with a spare.

    The clock of the failures stands while the job waits in the queue, and from a loss that only a requeue repairs until
    the job runs again. A failure that would come while the job has no ranks comes as soon as there are some. Machines
    without power come back once the job waits in the queue: SLURM 22.05 would end the step of a job whose machine
    reports for duty again.
    """

    def __init__(self, jobs: Jobs, name: str, steps: int) -> None:
        self._jobs, self._name = jobs, name
        options = ("--nodes", TRAINING, "--spares", len(NODES) - TRAINING, "--mem", "2500M")
        self._number = jobs.submit(name, *options, *SETTINGS, f"train.max_steps={steps}")
        self.came: list[Came] = []
        self.clock = 0.0
        self._lost: set[str] = set()
        self._state, self._start = "PENDING", ""
        self._is_doomed = False
        """Whether only a requeue helps."""
        self._seen = time.monotonic()

    def endure(self, failures: Iterable[Due]) -> None:
        """Let failures come until the run is over."""
        due = 0.0
        for failure in failures:
            due += failure.wait
            self._until(partial(self._is_due, due))
            if self._state in _OVER:
                return
            self._fail(failure.machine, is_of_rank=failure.is_of_rank)
        self._until(lambda: False)

    def fail_in_turn(self, kinds: Iterable[Kind], pause: float) -> None:
        """Let failures come, each some seconds after the first step of an attempt. Then cancel the job."""
        for kind in kinds:
            self._until(self._has_stepped)
            self._pause(pause)
            machine = self._crew()[kind != "first node"]
            self._fail(machine, is_of_rank=kind == "rank")
        self._until(self._has_stepped)
        self._pause(4 * pause)
        assert self._jobs.all4one("cancel", self._jobs.runs.path(self._name).path).code == 0
        self._power_on()

    def _until(self, holds: Callable[[], bool]) -> None:
        """Watch the job until a condition holds, or until it is over."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._look() not in _OVER and not holds():
            if self._state == "RUNNING" and not self._is_doomed:
                deadline = time.monotonic() + _PATIENCE_S
            assert time.monotonic() < deadline, self._jobs.output(self._name)
            time.sleep(_POLL_SECONDS)

    def _look(self) -> str:
        """Let the clock go on, and return the state of the job."""
        job = self._jobs.cluster.job(self._number)
        now, self._state = time.monotonic(), job["JobState"]
        if self._state == "RUNNING":
            start = f"{self._number}.{job['Restarts']}"
            if start != self._start:
                self._start, self._is_doomed = start, False
            elif not self._is_doomed:
                self.clock += now - self._seen
        elif self._state == "PENDING":
            self._power_on()
        elif self._state == "FAILED":
            # The plan, too, lets the user resume a run that stops.
            self._power_on()
            self._number = self._jobs.resume(self._name)
        self._seen = now
        return self._state

    def _power_on(self) -> None:
        for machine in self._lost:
            self._jobs.cluster.power_on(machine)
        self._lost.clear()

    def _fail(self, machine: str, *, is_of_rank: bool) -> None:
        """Kill the rank of a machine, or cut its power. A spare has no rank, and what is lost cannot fail."""
        crew = self._crew()
        is_spare = machine not in crew
        if machine in self._lost or (is_of_rank and is_spare):
            return
        kind: Kind = "rank" if is_of_rank else "spare" if is_spare else "node"
        spares = len(NODES) - TRAINING - len(self._lost)
        if is_of_rank:
            self._jobs.kill_rank(self._number, crew.index(machine), signal.SIGKILL)
        else:
            if not is_spare and machine == crew[0]:
                kind = "first node"
            self._jobs.cluster.cut_power(machine)
            self._lost.add(machine)
            self._is_doomed = kind == "first node" or (kind == "node" and not spares)
        self.came.append(Came(kind, self.clock, spares))
        print(f"{self._name}: {kind} after {self.clock:.1f} s, spares {spares}", flush=True)

    def _is_due(self, clock: float) -> bool:
        return self.clock >= clock and self._can_fail()

    def _can_fail(self) -> bool:
        """Whether the job has all its ranks."""
        if self._state != "RUNNING" or self._is_doomed:
            return False
        try:
            for rank in range(TRAINING):
                self._jobs.process_of(self._number, rank)
        except AssertionError:
            return False
        return self._attempts() > 0

    def _has_stepped(self) -> bool:
        attempts = self._attempts()
        return (
            self._can_fail()
            and attempts >= len(self.came) + 1
            and any(r["attempt"] == attempts for r in self._jobs.ledger(self._name, "stepped"))
        )

    def _attempts(self) -> int:
        return len(self._jobs.ledger(self._name, "start"))

    def _crew(self) -> list[str]:
        return expand_hostlist(self._jobs.ledger(self._name, "start")[-1]["nodes"])

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._until(lambda: time.monotonic() >= end)
