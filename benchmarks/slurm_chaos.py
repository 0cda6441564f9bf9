"""One run on a real SLURM cluster through many interruptions of mixed kinds: what is lost, and how long each takes.

    python benchmarks/slurm_chaos.py [--interruptions 25] [--seed S] [--json FILE]

A run of two processes on two machines of three (namespaces of this machine; needs root, see `make test-packages`) is
interrupted at random steps, each kind about equally often:

    time limit     SIGUSR2, as SLURM sends it before a time limit
    requeue        scontrol requeue
    preemption     a job of a higher priority takes the whole cluster; grace time and user signal
    killed rank    SIGKILL for one process
    worker lost    a power cut of the second machine
    first lost     a power cut of the first machine, where the job's script runs

Times are from the interruption to the first step of the next attempt. `saving` ends with the attempt's own note of its
end, `SLURM` with the job's next start, `starting` with that step; the middle part is the cluster's: the wait before a
requeued job may start (5 s here) and, for a machine that is lost, until SLURM sees it (8 s here). SLURM's start is told
in whole seconds, rounded down, so that up to one of them is counted as starting. At the end weights, optimizer, queue
and metrics are compared with those of a run that nothing disturbed. Exits with 1 where they differ, where more was lost
than may be, or where a figure is missed.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "slurm")]

from slurm_cluster import Cluster, missing  # noqa: E402
from submitted_runs import SHORT, Jobs  # noqa: E402
from tiny_runs import Runs, run  # noqa: E402

from trainer.runs.records import read_records  # noqa: E402

NAME = "chaos"
INTERVAL = 20
STEPS_EACH = 15
"""Steps of the run for each interruption: the run must not end before the last one."""
MOST_SECONDS, MOST_OURS = 20.0, 8.0


@dataclass(frozen=True)
class Interruption:
    """One interruption and what came of it."""

    kind: str
    step: int
    """Step that the run was at."""
    replayed: int
    seconds: float
    saving: float | None
    """None where the attempt could note no end."""
    slurm: float | None
    starting: float


class Chaos:
    """Interrupts one run."""

    def __init__(self, jobs: Jobs, number: str) -> None:
        self.jobs, self.number = jobs, number
        self.kinds: dict[str, Callable[[], object]] = {
            "time limit": lambda: jobs.cluster.run("scancel", "--signal=USR2", number),
            "requeue": lambda: jobs.cluster.run("scontrol", "requeue", number),
            "preemption": jobs.preempt,
            "killed rank": lambda: jobs.kill_rank(number, jobs.random_times.randrange(2), signal.SIGKILL),
            "worker lost": lambda: jobs.cluster.cut_power(jobs.nodes_of(number)[1]),
            "first lost": lambda: jobs.cluster.cut_power(jobs.nodes_of(number)[0]),
        }

    def interrupt(self, kind: str, attempt: int, steps: int) -> Interruption:
        """Interrupt an attempt some steps after its begin, and wait for the first step of the next one."""
        resumed = self.jobs.wait_for_attempt(NAME, attempt)["step"]
        if kind == "killed rank":  # a job that is killed twice at one checkpoint is left to its user
            steps += INTERVAL + 3
        step = self.jobs.wait_for_step(NAME, self.number, resumed + steps)
        machines = self.jobs.nodes_of(self.number)
        began = time.time()
        self.kinds[kind]()
        ready = self.jobs.wait_for_attempt(NAME, attempt + 1, timeout=180)
        self.jobs.wait_for_step(NAME, self.number, ready["step"] + 1)
        ended = time.time()
        started = datetime.fromisoformat(self.jobs.cluster.job(self.number)["StartTime"]).timestamp()
        if kind.endswith("lost"):
            self.jobs.cluster.power_on(machines[kind == "worker lost"])
        ends = [end["time"] for end in self.jobs.ledger(NAME, "end") if end["attempt"] == attempt]
        noted = ends[0] if ends else None
        return Interruption(
            kind,
            step,
            ready["replayed"],
            ended - began,
            noted - began if noted else None,
            max(0.0, started - noted) if noted else None,
            ended - started,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interruptions", type=int, default=25)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if (why := missing()) is not None:
        print(why, file=sys.stderr)
        return 2
    print(f"seed: {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        digits = folder / "digits"
        built = run("data", "build", "digits", digits)
        assert built.code == 0, built.out
        runs = Runs(folder / "runs", digits)
        (folder / "cluster").mkdir()
        with ExitStack() as stack:
            cluster = Cluster(folder / "cluster")
            stack.callback(cluster.stop)
            found, lost = _disturb(Jobs(cluster, runs), args.interruptions, random.Random(args.seed))
        equal = _is_as_undisturbed(runs, args.interruptions)
    return _report(found, lost, equal, args)


def _length(interruptions: int) -> tuple[str, ...]:
    return (
        f"train.max_steps={interruptions * STEPS_EACH}",
        "train.epochs=1000",
        f"checkpoint.every_steps={INTERVAL}",
    )


def _disturb(jobs: Jobs, count: int, random_times: random.Random) -> tuple[list[Interruption], list[int]]:
    """All interruptions, and the steps that the run's records do not have."""
    jobs.random_times = random_times
    number = jobs.submit(NAME, "--nodes", 2, "--partition", "low", *_length(count))
    chaos = Chaos(jobs, number)
    kinds = [kind for _ in range(-(-count // len(chaos.kinds))) for kind in chaos.kinds][:count]
    random_times.shuffle(kinds)
    found = []
    for attempt, kind in enumerate(kinds, start=1):
        found.append(chaos.interrupt(kind, attempt, random_times.randrange(1, 12)))
        one = found[-1]
        print(
            f"{attempt:3} {kind:12} at step {one.step}: {one.seconds:.1f} s, replayed {one.replayed}",
            flush=True,
        )
    jobs.finish(NAME, number, timeout=600)
    steps = Counter(r["step"] for r in read_records(jobs.runs.path(NAME).metrics) if r["kind"] == "train")
    return found, [step for step in range(1, count * STEPS_EACH + 1) if steps[step] != 1]


def _is_as_undisturbed(runs: Runs, count: int) -> bool:
    trained = runs.train("straight", *SHORT, *_length(count))
    assert trained.code == 0, trained.out
    try:
        runs.assert_same(NAME, "straight")
    except AssertionError:
        return False
    return True


def _report(found: list[Interruption], lost: list[int], equal: bool, args: argparse.Namespace) -> int:
    print(
        f"\n{'kind':14}{'times':>6}{'seconds':>9}{'saving':>8}{'SLURM':>7}{'starting':>10}{'replayed, most':>16}"
    )
    for kind in [*dict.fromkeys(one.kind for one in found), "all"]:
        these = [one for one in found if kind in (one.kind, "all")]
        print(
            f"{kind:14}{len(these):6}{_median(one.seconds for one in these):>9}"
            f"{_median(one.saving for one in these):>8}{_median(one.slurm for one in these):>7}"
            f"{_median(one.starting for one in these):>10}{max(one.replayed for one in these):16}"
        )
    graceful = [
        one for one in found if one.saving is not None and one.kind in ("time limit", "requeue", "preemption")
    ]
    ours = [one.saving + one.starting for one in graceful if one.saving is not None]
    seconds = [one.seconds for one in graceful]
    checks = {
        "bitwise as a run that nothing disturbed": equal,
        "every step on record once": not lost,
        "no step replayed after a signal": all(one.replayed == 0 for one in graceful),
        f"at most {INTERVAL} steps replayed": all(one.replayed <= INTERVAL for one in found),
        f"signal to first step, median {statistics.median(seconds):.1f} s (<= {MOST_SECONDS:.0f})": statistics.median(
            seconds
        )
        <= MOST_SECONDS,
        f"of which ours, median {statistics.median(ours):.1f} s (<= {MOST_OURS:.0f})": statistics.median(ours)
        <= MOST_OURS,
    }
    for check, held in checks.items():
        print(f"{check}: {'yes' if held else 'NO'}")
    if args.json:
        rows = [asdict(one) for one in found]
        args.json.write_text(
            json.dumps({"seed": args.seed, "interruptions": rows, "checks": checks}, indent=1) + "\n"
        )
    return int(not all(checks.values()))


def _median(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.1f}" if known else "-"


if __name__ == "__main__":
    sys.exit(main())
