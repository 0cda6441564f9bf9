"""Tiny runs as jobs of the cluster, and what befalls them."""

import json
import random
import re
import time
from pathlib import Path
from typing import Any

from commands import Result, run
from slurm_cluster import Cluster
from tiny_runs import Runs

from launch.local.process_name import name_of_check, name_of_rank
from trainer.runs.records import read_records

STEPS, INTERVAL = 40, 10
# one thread a process everywhere, so that a run on one machine and one on three add in the same order
SHORT = (
    f"train.max_steps={STEPS}",
    f"checkpoint.every_steps={INTERVAL}",
    "eval.every_epochs=0",
    "parallel.torch_threads=1",
    "data.decode_threads=1",
    "data.executor=opencv",
)

BRIEF = "train.max_steps=24"
"""For runs that are disturbed once, at once after step 12: all of their steps after that only take time."""

# A check costs each job some seconds, and the nodes share the cores of this machine, so their rates differ at random.
NO_CHECK = "slurm.check_nodes=false"


class Jobs:
    """Submits tiny runs, and disturbs them."""

    def __init__(self, cluster: Cluster, runs: Runs) -> None:
        self.cluster, self.runs = cluster, runs
        seed = random.randrange(10_000)
        print(f"seed of the random times: {seed}")
        self.random_times = random.Random(seed)

    def all4one(self, *arguments: object) -> Result:
        """The command on the head machine."""
        return run(*arguments, machine=self.cluster.head)

    def submit(self, name: str, *arguments: object) -> str:
        """Queue a run. Returns the job's number."""
        settings = (*self.runs.common, *SHORT, NO_CHECK, f"run.name={name}")
        result = self.all4one("submit", *settings, "--cpus-per-task", 1, *arguments)
        assert result.code == 0, result.out
        return self.newest_job(name)

    def resume(self, name: str, *arguments: object) -> str:
        """Queue a run again. Returns the new job's number."""
        result = self.all4one("resume", self.runs.path(name).path, *arguments)
        assert result.code == 0, result.out
        return self.newest_job(name)

    def newest_job(self, name: str) -> str:
        return str(read_records(self.runs.path(name).path / "slurm" / "jobs.jsonl")[-1]["job"])

    def wait_for_processes(self, name: str, ranks: int) -> None:
        """Return once the first start's ranks have begun."""
        logs = self.runs.path(name).logs
        self.cluster.until(lambda: len([*logs.glob("*/rank_*.log")]) == ranks, 60, "the ranks do not start")

    def wait_for_step(self, name: str, job: str, step: int, timeout: float = 90) -> int:
        """Return once a run has logged a step; the step that it is at."""

        asked = 0.0

        def reached() -> int:
            nonlocal asked
            done = max((r["step"] for r in read_records(self.runs.path(name).metrics)), default=0)
            if done < step and time.monotonic() > asked + 1:  # a question costs more than a look at the file
                asked = time.monotonic()
                assert self.cluster.job(job)["JobState"] != "FAILED", self.output(name)
            return done if done >= step else 0

        return self.cluster.until(reached, timeout, f"step {step} is not reached: {self.output(name)}")

    def wait_for_attempt(self, name: str, number: int, timeout: float = 90) -> dict[str, Any]:
        """The record of an attempt that has its checkpoint loaded."""

        def ready() -> dict[str, Any] | None:
            return next((r for r in self.ledger(name, "ready") if r["attempt"] == number), None)

        return self.cluster.until(ready, timeout, f"attempt {number} does not come")

    def nodes_of(self, job: str) -> list[str]:
        """Machines that a job runs on, the first one first."""
        return self.cluster.run("scontrol", "show", "hostnames", self.cluster.job(job)["NodeList"]).split()

    def preempt(self) -> None:
        """Queue a job that wants the whole cluster at once, for a moment."""
        whole = ("--nodes=3", "--ntasks-per-node=4", "--output=/dev/null", "--wrap=true")
        self.cluster.run("sbatch", "--partition=high", *whole)

    def kill_rank(self, job: str, rank: int, number: int) -> None:
        """Send a signal to the process of a rank alone."""
        self.cluster.run("kill", f"-{number}", self.process_of(job, rank))

    def process_of(self, job: str, rank: int) -> str:
        """Number of a rank's process, as the head machine sees it."""
        return self._named(job, name_of_rank(rank))

    def agent_of(self, job: str, node: int) -> str:
        """Number of the process of a node's agent, as the head machine sees it."""
        return self._named(job, f"agent{node}.all4one")

    def check_of(self, job: str, node: int) -> str:
        """Number of the process that checks a node, as the head machine sees it, once it is there."""

        def found() -> str:
            try:
                return self._named(job, name_of_check(node))
            except AssertionError:
                return ""

        return self.cluster.until(found, 60, "the check does not start")

    def _named(self, job: str, name: str) -> str:
        """The newest process of this name. One of an earlier start may live on where a machine is cut off."""
        numbers = self.cluster.run("pgrep", "--exact", name[:15], check=False).split()
        for number in sorted(numbers, key=int, reverse=True):
            environment = self.cluster.run("cat", f"/proc/{number}/environ", check=False).split("\0")
            # The step of a job that was requeued has another number if SLURM had lost a node of the one before.
            if f"SLURM_JOB_ID={job}" in environment and any(
                re.match(r"SLURM_STEP_ID=\d", v) for v in environment
            ):
                return number
        raise AssertionError(f"job {job} has no process {name}")

    def finish(self, name: str, job: str, timeout: float = 120) -> None:
        """Return once the job has ended well."""
        ended = self.cluster.wait_for_state(
            job, "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "CANCELLED", timeout=timeout
        )
        assert ended["JobState"] == "COMPLETED", self.output(name)

    def status(self, path: Path) -> list[dict[str, Any]]:
        """What `all4one status` says of a run or of a folder."""
        said: list[dict[str, Any]] = json.loads(self.all4one("status", path, "--json").out)["runs"]
        return said

    def ledger(self, name: str, event: str) -> list[dict[str, Any]]:
        return [r for r in read_records(self.runs.path(name).ledger) if r["event"] == event]

    def output(self, name: str) -> str:
        folder = self.runs.path(name).path
        logs = sorted([*folder.glob("logs/*/*.log"), *folder.glob("slurm/*log*")])
        files = [path for path in logs if path.exists()]  # a link may be there before its file
        return "\n".join(f"==> {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in files)
