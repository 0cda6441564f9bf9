"""Does a run that loses ranks redo steps, and is it bitwise that of an undisturbed one? How long does a restart take?

    python benchmarks/lost_ranks.py [--kills 100] [--nproc 2] [--seed S] [--json FILE]
    python benchmarks/lost_ranks.py --settings parallel.zero_stage=1 checkpoint.replicate_every=5

Trains the digits recipe twice on N processes. In the second run, ranks are killed by SIGKILL at points that are spread
over all phases of a step: the wait for data, each kind of message, the passes, the update, the EMA, the record, the
copy for a neighbor, the evaluation and the write of a checkpoint. A redone step is one that a rank that was not killed
had finished. At ZeRO stage 0 none may be redone, on GPUs two of each kill: those that the host had run and the device
had not finished. At stages 1 and 2 the loss of one rank may cost at most `checkpoint.replicate_every` steps. If that is
0, it may cost two checkpoint intervals, because the newest checkpoint may still have been in the writing. Exits with 1
if the runs differ, if more steps were redone, or if the median from a kill to the next step is longer than 3 s.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from killed_rank import FOLDER
from rich.console import Console

from data_pipelines.devices import count_gpus
from launch.local.processes import launch
from launch.local.rank_processes import allow_forks, module_command
from launch.local.recovery import RunRecovery
from launch.local.runs import new_run
from launch.local.verify_resume import compare
from trainer.config.schema import Config
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock
from trainer.runs.saved_progress import FELL_BACK, SURVIVED

MOST_SECONDS = 3.0
_AHEAD = 2
"""Steps that the host may have run and a GPU not finished."""
SMALL = (
    "backbone.stem=half",
    "backbone.width=8",
    "method.projector_hidden=32",
    "method.predictor_hidden=32",
    "method.embedding_dim=16",
    "method.queue.size=200",
    "method.queue.check_every=5",
    "method.feature_scope=global",
    "method.transformer_dropout=0.1",
    "train.global_batch=48",
    "checkpoint.every_steps=10",
    "eval.every_epochs=1",
    "metrics.log_every=1",
    "metrics.health_every=7",
    "parallel.torch_threads=1",
)
"""Settings with which a step takes a fraction of a second on one core."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500, help="of each run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default: %(default)s)")
    parser.add_argument("--settings", nargs="*", default=[], help="further settings of both runs")
    parser.add_argument(
        "--plan", type=json.loads, help="kills instead of random ones, as JSON: [{step, point, number, rank}]"
    )
    parser.add_argument("--data", type=Path, help="folder of the digits as shards, which are built otherwise")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    allow_forks()
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"train.max_steps={args.steps}", *args.settings]
        data = (args.data or build_digits(Path(folder))).resolve()
        result = kill_ranks(Path(folder), data, args.kills, args.nproc, args.seed, settings, args.plan)
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    good = result["bitwise"] and result["most_redone"] <= result["most_allowed"] and result["kills"]
    return int(not good or result["seconds_to_next_step"]["median"] > MOST_SECONDS)


def build_digits(folder: Path) -> Path:
    """Return a new folder with the digits as shards."""
    data = folder / "digits"
    command = module_command("launch.cli", "data", "build", "digits", str(data))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return data


def kill_ranks(
    folder: Path,
    data: Path,
    kills: int,
    nproc: int,
    seed: int,
    settings: list[str],
    plan: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train a run without kills and one with kills, and compare them. Without a plan the kills are random."""
    common = [
        f"data.train={data}/train",
        f"data.validation={data}/validation",
        f"run.folder={folder}",
        *SMALL,
        *settings,
    ]
    undisturbed = train(folder, "undisturbed", common, nproc, [])
    plan = plan or plan_kills(folder / "undisturbed_points", kills, nproc, random.Random(seed))
    killed = train(folder, "killed", common, nproc, plan)
    return {
        "seed": seed,
        "nproc": nproc,
        "bitwise": compare(undisturbed, killed, Console(stderr=True)) == 0,
        **account(killed, folder / "killed_points", nproc, plan),
    }


def train(folder: Path, name: str, settings: list[str], nproc: int, plan: list[dict[str, Any]]) -> RunFolder:
    """Train a run in which ranks are killed as planned, and return its folder."""
    points = folder / f"{name}_points"
    points.mkdir()
    (points / "plan.json").write_text(json.dumps(plan))
    os.environ[FOLDER] = str(points)
    run = new_run("digits_demo", [*settings, f"run.name={name}"], nproc)
    arguments = [str(run.path), str(run.logs)]
    with RunLock(run.path, attempt=1) as lock:
        recovery = RunRecovery(run, lock)
        code = launch("killed_rank", arguments, nproc=nproc, logs=run.logs, recovery=recovery)
    if code:
        raise SystemExit(f"run {name} ended with code {code}")
    return run


def plan_kills(points: Path, kills: int, nproc: int, numbers: random.Random) -> list[dict[str, Any]]:
    """Return kills at random points of an undisturbed run, as many of each kind of point as of the others.

    No two kills are in the same or in neighboring steps. If all ranks died at once, none would be left to save.
    """
    kinds: dict[str, list[dict[str, Any]]] = {}
    for rank in range(nproc):
        for line in (points / f"points_{rank}.jsonl").read_text().splitlines():
            point = json.loads(line) | {"rank": rank}
            if point["step"] > 0:  # before the first step there is nothing to redo
                kinds.setdefault(point["point"], []).append(point)
    plan: list[dict[str, Any]] = []
    while kinds and len(plan) < kills:
        for name in numbers.sample(sorted(kinds), len(kinds)):
            taken = {kill["step"] + near for kill in plan for near in (-1, 0, 1)}
            free = [point for point in kinds[name] if point["step"] not in taken]
            if not free:
                del kinds[name]
            elif len(plan) < kills:
                plan.append(numbers.choice(free))
    return sorted(plan, key=lambda kill: kill["step"])


def account(run: RunFolder, points: Path, ranks: int, plan: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the kills have cost."""
    done = {i: path for i in range(len(plan)) if (path := points / f"killed_{i}.json").exists()}
    died = sorted((json.loads(path.read_text())["time"], plan[i]["rank"]) for i, path in done.items())
    finished = sorted(
        (record["time"], record["step"], int(path.stem.split("_")[1]))
        for path in points.glob("finished_*.jsonl")
        for record in map(json.loads, path.read_text().splitlines())
    )
    ledger = read_ledger(run.ledger)
    ready = [r for r in ledger if r["event"] == "ready"]
    restarts, seconds = [], []
    for again in ready[1:]:
        before = max(r["time"] for r in ready if r["time"] < again["time"])
        dead = [(time, rank) for time, rank in died if before < time < again["time"]]
        left = set(range(ranks)) - {rank for _, rank in dead}
        held = max((step for at, step, by in finished if at < again["time"] and by in left), default=0)
        told = [
            r for r in ledger if r["event"] in (SURVIVED, FELL_BACK) and before < r["time"] < again["time"]
        ]
        restarts.append(
            {
                "lost": sorted(rank for _, rank in dead),
                "from": again["step"],
                "redone": max(0, held - again["step"]) if left else 0,
                "source": told[-1].get("source", "checkpoint") if told else None,
            }
        )
        # There is none after the last step.
        seconds += [at - dead[0][0] for at, _, _ in finished if at > again["time"]][:1] if dead else []
    return {
        "kills": len(died),
        "kills_not_reached": len(plan) - len(died),
        "attempts": run.attempts(),
        "kinds": dict(sorted(Counter(plan[i]["point"] for i in done).items())),
        "steps_redone": sum(one["redone"] for one in restarts),
        "most_redone": max((one["redone"] for one in restarts if len(one["lost"]) < 2), default=0),
        "most_allowed": most_redone(run.read_config()) + (_AHEAD if count_gpus() else 0),
        "restarts": restarts,
        "seconds_to_next_step": {
            "median": round(statistics.median(seconds), 2),
            "most": round(max(seconds), 2),
        }
        if seconds
        else {},
    }


def most_redone(config: Config) -> int:
    """Return how many steps the loss of one rank may cost."""
    if config.parallel.zero_stage == 0:
        return 0
    return config.checkpoint.replicate_every or 2 * config.checkpoint.every_steps


if __name__ == "__main__":
    sys.exit(main())
