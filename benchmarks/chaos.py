"""One run on a real SLURM cluster through events of mixed kinds: what is lost, and how long does each take?

    python benchmarks/chaos.py [--events 40] [--seed S] [--baseline] [--json FILE]

A run of two processes on two of three machines (namespaces of this machine; needs root, see `make test-packages`) has
the third one as a spare. Events come at random steps:

    killed rank               SIGKILL for one process
    exception                 one process raises, wherever it is
    killed rank, SLURM away   SIGKILL for one process while the controller answers nothing
    stopped rank              SIGSTOP for one process
    out of memory             one process takes more memory than the job has, and SLURM ends the step
    killed agent              SIGKILL for the agent of the second machine
    node without power        a power cut of the second machine
    node cut off              its cable is pulled, and its processes live on
    first node without power  a power cut of the machine on which the job's script runs
    time limit                SIGUSR2, as SLURM sends it before a time limit
    preemption                a job of a higher priority takes the whole cluster; grace time and user signal
    requeue                   scontrol requeue
    cancel and resume         all4one cancel, then all4one resume

The time of an event ends with the first finished step of the next attempt. A machine that is lost comes back once the
job waits in the queue. At the end weights, optimizer, queue and metrics are compared with those of a run that nothing
disturbed. `--baseline` repeats the same events with `slurm.recovery=requeue` and no spare. Exits with 1 if the runs
differ or a figure is missed.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "slurm")]

from chaos_plan import INTERVAL, LATER, Planned, plan  # noqa: E402
from chaos_report import Event, report  # noqa: E402
from slurm_cluster import NODES, Cluster, missing  # noqa: E402
from submitted_runs import SHORT, Jobs  # noqa: E402
from tiny_runs import Runs, run  # noqa: E402

from launch.slurm.hostlist import expand_hostlist  # noqa: E402
from trainer.runs.records import read_records  # noqa: E402

STEPS_OF_AN_EVENT = 12
"""Steps that the run may make in addition to the planned ones for each event."""
PATIENCE_S = 400.0
"""How long an event may take, seconds. SLURM may lose the script of a job on a machine that comes back."""
AWAY_SECONDS = 10.0
"""How long the controller answers nothing at most, seconds. It answers as soon as the run goes on."""
STALL_SECONDS = 60
"""Time after which a hang ends the job where nothing looks for the rank that hangs, seconds."""
IN_RANKS = """
import ctypes, os, pathlib, threading, time
def watch(folder=pathlib.Path("{folder}"), main=threading.main_thread().ident):
    def loop():
        while True:
            time.sleep(0.02)
            rank = os.environ.get("RANK")
            if (folder / f"raise_{{rank}}").exists():
                (folder / f"raise_{{rank}}").unlink()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(RuntimeError))
            if (folder / f"grow_{{rank}}").exists():
                (folder / f"grow_{{rank}}").unlink()
                grown = b"x" * (3 << 30)
                time.sleep(60)
    threading.Thread(target=loop, daemon=True).start()
if "SLURM_STEP_ID" in os.environ:
    if {forks}:
        os.register_at_fork(after_in_child=watch)
    else:
        watch()
"""
"""What Python runs at its start in every process of a job: ranks raise or grow when a file says so."""


class Chaos:
    """Disturbs one run."""

    def __init__(self, jobs: Jobs, name: str, folder: Path, steps: int, *, in_place: bool) -> None:
        self.jobs, self.name, self._folder = jobs, name, folder
        self._lost: list[str] = []
        """Machines without power, or without a cable."""
        self._answers = True
        """Whether SLURM's controller answers."""
        (folder / "sitecustomize.py").write_text(IN_RANKS.format(folder=folder, forks=in_place))
        recovery = ("--spares", 1) if in_place else ("slurm.recovery=requeue",)
        self.number = jobs.submit(
            name,
            *("--nodes", 2, "--partition", "low", "--mem", "2500M", *recovery),
            *("--setup", f'export PYTHONPATH="{folder}:$PYTHONPATH"'),
            *("slurm.shrink=false", f"guard.stall_seconds={STALL_SECONDS}", *_length(steps)),
        )
        cluster = jobs.cluster
        self.kinds: dict[str, Callable[[int], object]] = {
            "killed rank": self._kill,
            "exception": lambda rank: (folder / f"raise_{rank}").touch(),
            "killed rank, SLURM away": self._kill,
            "stopped rank": lambda rank: jobs.kill_rank(self.number, rank, signal.SIGSTOP),
            "out of memory": lambda rank: (folder / f"grow_{rank}").touch(),
            "killed agent": self._kill_agent if in_place else self._kill,
            "node without power": lambda rank: self._lose(1, cluster.cut_power),
            "node cut off": lambda rank: self._lose(1, cluster.pull_cable),
            "first node without power": lambda rank: self._lose(0, cluster.cut_power),
            "time limit": lambda rank: cluster.run("scancel", "--signal=USR2", self.number),
            "preemption": lambda rank: jobs.preempt(),
            "requeue": lambda rank: cluster.run("scontrol", "requeue", self.number),
            "cancel and resume": self._cancel_and_resume,
        }

    def disturb(self, planned: Planned, attempt: int) -> Event:
        """Disturb an attempt some steps after its start, and wait for the first step of the next one."""
        resumed = self.jobs.wait_for_attempt(self.name, attempt, timeout=PATIENCE_S)["step"]
        step = self.jobs.wait_for_step(self.name, self.number, resumed + planned.steps, timeout=PATIENCE_S)
        with self._controller(planned.kind):
            began = time.time()
            self.kinds[planned.kind](planned.rank)
            while (
                not self._answers
                and time.time() < began + AWAY_SECONDS
                and not self._found(attempt, "stepped")
            ):
                time.sleep(0.1)
        ready = self._next(attempt, "ready")
        stepped = self._next(attempt, "stepped")
        starts = {r["attempt"]: r for r in self.jobs.ledger(self.name, "start")}
        before, after = starts[attempt], starts[attempt + 1]
        ends = [r["time"] for r in self.jobs.ledger(self.name, "end") if r["attempt"] == attempt]
        return Event(
            planned.kind,
            step,
            ready["replayed"],
            stepped["time"] - began,
            stepped["time"] - max(ends) if ends else None,
            (before["job"], before["restart"]) == (after["job"], after["restart"]),
        )

    def repair(self) -> None:
        """Bring all machines back."""
        for machine in self._lost:
            if self.jobs.cluster.run(
                "bash", "-c", f"kill -0 $(cat /run/{machine}.pid) && echo lives", check=False
            ):
                self.jobs.cluster.plug_in(machine)
            else:
                self.jobs.cluster.power_on(machine)
        self._lost.clear()

    def _next(self, attempt: int, event: str) -> dict[str, Any]:
        """Return the record of an event of the next attempt. Repairs machines as soon as the job needs them."""

        def recorded() -> dict[str, Any] | None:
            state = self.jobs.cluster.job(self.number)["JobState"]
            if self._lost and state == "PENDING":
                self.repair()
            elif (
                state == "FAILED"
            ):  # without recovery in place, an exception ends the job, and a user goes on with it
                self.number = self.jobs.resume(self.name)
            return self._found(attempt, event)

        found: dict[str, Any] = self.jobs.cluster.until(
            recorded,
            PATIENCE_S,
            f"attempt {attempt + 1} is not {event}: {self.jobs.output(self.name)[-6000:]}",
        )
        return found

    def _found(self, attempt: int, event: str) -> dict[str, Any] | None:
        records = self.jobs.ledger(self.name, event)
        return next((record for record in records if record["attempt"] == attempt + 1), None)

    @contextmanager
    def _controller(self, kind: str) -> Iterator[None]:
        if "SLURM away" not in kind:
            yield
            return
        self._answers = False
        with self.jobs.cluster.controller_hangs():
            yield
        self._answers = True

    def _kill(self, rank: int) -> None:
        self.jobs.kill_rank(self.number, rank, signal.SIGKILL)

    def _kill_agent(self, rank: int) -> None:
        # The job has all machines. SLURM takes a lost one off its list, and the agents keep their numbers.
        node = NODES.index(self._crew()[1])
        self.jobs.cluster.run("kill", f"-{signal.SIGKILL}", self.jobs.agent_of(self.number, node))

    def _lose(self, position: int, cut: Callable[[str], None]) -> None:
        machine = self._crew()[position]
        cut(machine)
        self._lost.append(machine)

    def _crew(self) -> list[str]:
        return expand_hostlist(self.jobs.ledger(self.name, "start")[-1]["nodes"])

    def _cancel_and_resume(self, rank: int) -> None:
        assert self.jobs.all4one("cancel", self.jobs.runs.path(self.name).path).code == 0
        self.jobs.cluster.wait_for_state(self.number, "CANCELLED")
        self.repair()
        self.number = self.jobs.resume(self.name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=40)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--baseline", action="store_true", help="repeat all events with requeues only")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if (why := missing()) is not None:
        print(why, file=sys.stderr)
        return 2
    print(f"seed: {args.seed}", flush=True)
    planned = plan(args.events, random.Random(args.seed))
    later = [Planned(one.kind, max(one.steps, LATER[0]), one.rank) for one in planned]
    # While an event is noticed and answered, a run goes on for some steps.
    steps = sum(one.steps + STEPS_OF_AN_EVENT for one in (later if args.baseline else planned))
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        built = run("data", "build", "digits", folder / "digits")
        assert built.code == 0, built.out
        runs = Runs(folder / "runs", folder / "digits")
        (folder / "cluster").mkdir()
        cluster = Cluster(folder / "cluster")
        stack.callback(cluster.stop)
        jobs = Jobs(cluster, runs)
        found = {"in_place": _disturbed(jobs, "in_place", planned, folder, steps)}
        trained = runs.train("straight", *SHORT, *_length(steps))
        assert trained.code == 0, trained.out
        equal = _as_undisturbed(runs, "in_place", steps)
        if args.baseline:
            cluster.heal()
            found["requeue"] = _disturbed(jobs, "requeue", later, folder, steps)
            equal &= _as_undisturbed(runs, "requeue", steps)
        goodput = {name: jobs.status(runs.path(name).path)[0]["goodput"] for name in found}
    checks = report(found, goodput, equal)
    if args.json:
        rows = {name: [asdict(one) for one in events] for name, events in found.items()}
        args.json.write_text(
            json.dumps({"seed": args.seed, "events": rows, "goodput": goodput, "checks": checks}, indent=1)
            + "\n"
        )
    return int(not all(checks.values()))


def _length(steps: int) -> tuple[str, ...]:
    return f"train.max_steps={steps}", "train.epochs=10000", f"checkpoint.every_steps={INTERVAL}"


def _disturbed(jobs: Jobs, name: str, planned: Sequence[Planned], folder: Path, steps: int) -> list[Event]:
    """Return what came of all events."""
    own = folder / f"{name}_files"
    own.mkdir()
    chaos = Chaos(jobs, name, own, steps, in_place=name == "in_place")
    found: list[Event] = []
    for attempt, one in enumerate(planned, start=1):
        found.append(chaos.disturb(one, attempt))
        event = found[-1]
        print(
            f"{name} {attempt:3} {event.kind:25} at step {event.step:4}: {event.seconds:5.1f} s, "
            f"redone {event.redone}, {'in place' if event.in_place else 'requeued'}",
            flush=True,
        )
    jobs.finish(name, chaos.number, timeout=900)
    chaos.repair()
    return found


def _as_undisturbed(runs: Runs, name: str, steps: int) -> bool:
    """Return whether a run is bitwise as the one that nothing disturbed, with every step on record once."""
    recorded = Counter(r["step"] for r in read_records(runs.path(name).metrics) if r["kind"] == "train")
    if wrong := [step for step in range(1, steps + 1) if recorded[step] != 1]:
        print(f"{name}: not on record once: steps {wrong[:10]}")
        return False
    try:
        runs.assert_same(name, "straight")
    except AssertionError as error:
        print(f"{name} differs: {str(error)[:500]}")
        return False
    print(f"{name}: bitwise as the run that nothing disturbed, every step on record once", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
