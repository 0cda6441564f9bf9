"""Does `all4one plan` predict the goodput of a job on a real SLURM cluster whose ranks and nodes fail at random times?

    python benchmarks/planned_on_slurm.py [--mtbf 90] [--rank-failures 0.7] [--seconds 240] [--seed S] [--json FILE]

The cluster has three machines (namespaces of this machine; needs root, see `make test-packages`). Two of them train,
and the third one is a spare.

1. A calibration job loses ranks, a node whose place the spare takes, a node without a spare, and its first node. Its
   records tell the times of steps, saves, starts and restarts, and how long it takes to notice what is lost.
2. `all4one plan --from-run` plans a longer job from them, for an MTBF of each node and a share of failures of ranks.
3. The longer job runs. Its ranks die by SIGKILL and its machines, the spare too, lose their power. The waits are
   exponential. Its goodput is what `all4one status --json` tells.

The number of failures of a job of some minutes is luck, and one more loss of the first node costs a sixth of its time.
So each wait is drawn from another one of as many equal parts of the exponential distribution as failures are expected,
in random order, and so is what fails. With the default numbers about ten are expected, and each machine loses its
power once. The simulation is also given the failures that really came, with their times. This leaves out all luck. If
it also gets the times that the longer job itself tells, this leaves out what other programs did to one job alone.

Exits with 1 if the goodput that is planned with the failures that came differs from the measured one by more than 10 %.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from failing_job import SETTINGS, TRAINING, Came, Due, FailingJob, Kind
from planned_goodput import MOST_APART, all4one
from slurm_cluster import NODES, Cluster, missing
from submitted_runs import SHORT, Jobs
from tiny_runs import Runs

from launch.plan.assumptions import Assumptions
from launch.plan.random_failures import RandomFailures
from launch.plan.simulation import simulate

CALIBRATION: tuple[Kind, ...] = ("rank", "node", "rank", "node", "first node", "rank")
CALIBRATION_PAUSE = 4.0
"""Seconds from the first step of an attempt to the next failure."""
ENDLESS = 100_000
"""Steps of the calibration job, which is canceled."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mtbf", type=float, default=90.0, help="of a node, seconds (default: %(default)s)")
    parser.add_argument(
        "--rank-failures", type=float, default=0.7, help="share of the failures (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="of training without failures (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if (why := missing()) is not None:
        print(why, file=sys.stderr)
        return 2
    print(f"seed: {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        all4one("data", "build", "digits", str(folder / "digits"))
        runs = Runs(folder / "runs", folder / "digits")
        (folder / "cluster").mkdir()
        cluster = Cluster(folder / "cluster")
        stack.callback(cluster.stop)
        result = {"seed": args.seed, **_measure(Jobs(cluster, runs), args)}
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"planned {result['planned']:.4f}, measured {result['measured']:.4f}, planned/measured {result['ratio']:.3f}. "
        f"With the failures that came: {result['planned_with_what_came']:.4f}, {result['ratio_with_what_came']:.3f}. "
        f"Also with its own times: {result['planned_with_own_times']:.4f}, {result['ratio_with_own_times']:.3f}. "
        f"Load {result['load']:.1f}"
    )
    return int(abs(result["ratio_with_what_came"] - 1) > MOST_APART)


def _measure(jobs: Jobs, args: argparse.Namespace) -> dict[str, Any]:
    """Calibrate, plan and measure."""
    FailingJob(jobs, "calibration", ENDLESS).fail_in_turn(CALIBRATION, CALIBRATION_PAUSE)
    step = _plan(jobs.runs, "calibration", ENDLESS, args)["assumptions"]["step_seconds"]
    steps = math.ceil(args.seconds / step)
    plan = _plan(jobs.runs, "calibration", steps, args)
    print(json.dumps(plan), flush=True)
    training = plan["expected"]["fractions"]["useful"] * (TRAINING + 1) / TRAINING
    expected = args.seconds / training * len(NODES) / args.mtbf
    job = FailingJob(jobs, "measured", steps)
    job.endure(_failures(max(1, round(expected)), args, random.Random(args.seed)))
    found = jobs.status(jobs.runs.path("measured").path)[0]["goodput"]
    replayed = simulate(*_as_came(job.came, plan["assumptions"]))
    own = _plan(jobs.runs, "measured", steps, args)["assumptions"]
    with_own_times = simulate(*_as_came(job.came, own)).goodput
    return {
        "mtbf": args.mtbf,
        "rank_failures": args.rank_failures,
        "steps": steps,
        "planned": plan["goodput"],
        "measured": found["fraction"],
        "ratio": plan["goodput"] / found["fraction"],
        "planned_with_what_came": replayed.goodput,
        "ratio_with_what_came": replayed.goodput / found["fraction"],
        "planned_with_own_times": with_own_times,
        "ratio_with_own_times": with_own_times / found["fraction"],
        "failures": Counter(one.kind for one in job.came),
        "planned_failures": plan["expected"]["failures"],
        "planned_requeues": plan["expected"]["requeues"],
        "planned_fractions": plan["expected"]["fractions"],
        "fractions_with_what_came": replayed.fractions,
        "measured_fractions": {
            cause: seconds / found["allocated_device_seconds"]
            for cause, seconds in found["device_seconds"].items()
            if seconds
        },
        "measured_seconds": found["seconds"],
        "assumptions": plan["assumptions"],
        "own_assumptions": own,
        "load": os.getloadavg()[2],
    }


def _plan(runs: Runs, earlier: str, steps: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return the plan of a job with the times of an earlier one."""
    options = {
        "nodes": TRAINING,
        "spares": len(NODES) - TRAINING,
        "mtbf": f"{args.mtbf:.6f}s",
        "rank-failures": args.rank_failures,
        "steps": steps,
        "write-time": "0s",
        "from-run": runs.path(earlier).path,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    found: dict[str, Any] = json.loads(
        all4one("plan", *runs.common, *SHORT, *SETTINGS, "slurm.time=1d", *words, "--json")
    )
    return {name: found[name] for name in ("goodput", "goodput_interval", "expected", "assumptions")}


def _failures(expected: int, args: argparse.Namespace, numbers: random.Random) -> Iterator[Due]:
    """Yield failures of all machines without end. What hits a spare's ranks, or a machine that is lost, is none."""
    rate = len(NODES) / args.mtbf
    while True:
        for wait, part in zip(_spread(expected, numbers), _spread(expected, numbers), strict=True):
            is_of_rank = part < args.rank_failures
            low, high = (0.0, args.rank_failures) if is_of_rank else (args.rank_failures, 1.0)
            machine = NODES[int(len(NODES) * (part - low) / (high - low))]
            yield Due(-math.log1p(-wait) / rate, machine, is_of_rank)


def _spread(count: int, numbers: random.Random) -> list[float]:
    """Return random numbers from 0 to 1, each uniform, one in each of `count` equal parts, in random order."""
    return [(part + numbers.random()) / count for part in numbers.sample(range(count), count)]


def _as_came(came: Sequence[Came], assumed: dict[str, Any]) -> tuple[Assumptions, RandomFailures]:
    """Return the numbers with which the simulation sees the failures that came, and then none."""
    known = {**assumed, "shrinks_to": tuple(assumed["shrinks_to"])}
    known["time_limit_seconds"] = known["time_limit_seconds"] or math.inf
    a = Assumptions(**known)
    of_ranks, of_node = a.rank_failures * a.nodes, 1 - a.rank_failures
    positions: dict[Kind, float] = {
        "rank": of_ranks / 2,
        "first node": of_ranks + of_node / 2,
        "node": of_ranks + of_node * 3 / 2,
        "spare": a.nodes + of_node / 2,
    }
    waits, kinds, before = [], [], 0.0
    for one in came:
        healthy = a.nodes + one.spares * of_node
        waits.append((one.clock - before) * healthy / a.mtbf_seconds)
        kinds.append(positions[one.kind] / healthy)
        before = one.clock
    shape = (len(came) + 1, 1)
    never = 1e6 * a.steps * a.step_seconds / a.mtbf_seconds
    return a, RandomFailures(np.array([*waits, never]).reshape(shape), np.array([*kinds, 0.5]).reshape(shape))


if __name__ == "__main__":
    sys.exit(main())
