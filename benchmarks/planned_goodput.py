"""Does `all4one plan` predict the goodput of a run whose ranks are killed at random times?

    python benchmarks/planned_goodput.py [--mtbf 40] [--steps 1000] [--nproc 2] [--seed S] [--json FILE]

For ZeRO stage 0, where a rank that is left saves, and stage 1, where the ranks go back to the last checkpoint:

1. A calibration run is killed a few times and trains to its end. Its records tell the times of steps, saves, starts
   and restarts.
2. A longer run is trained. A rank of it dies by SIGKILL after waits that are exponential with the given MTBF. Its
   goodput is what `all4one status` tells.
3. A second calibration run is trained, because other programs may slow this machine down meanwhile.
4. `all4one plan --from-run` plans the longer run from the times of each calibration run and the MTBF. The mean of both
   plans counts.

The plan knows neither the kills nor the records of the longer run. The number of kills is random, so the measured
goodput spreads around the expected one. A further plan, with the mean time between the kills that came, leaves out
this luck. Exits with 1 if a planned goodput differs from the measured one by more than 10 %.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from lost_ranks import SMALL

from launch.local.rank_processes import module_command
from launch.status.run_status import status
from trainer.runs.run_folder import RunFolder

MOST_APART = 0.1
STOPPED = "times without a new step"
"""What the launcher prints if it starts the ranks no more."""
CALIBRATION_KILLS, CALIBRATION_SECONDS = 5, 10.0
"""Kills of a calibration run, and the time between them."""
STAGES = (0, 1)
SETTINGS = (
    "eval.every_epochs=0",
    "checkpoint.every_steps=10",
    "checkpoint.replicate_every=0",
    "metrics.tensorboard=false",
)
"""No evaluations, which are rare and long here. The interval costs a visible number of steps at ZeRO stage 1, where
neighbors keep no copies."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--mtbf", type=float, default=40.0, help="seconds between kills (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=1000, help="of the planned run (default: %(default)s)")
    parser.add_argument("--calibration-steps", type=int, default=150, help="(default: %(default)s)")
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--stages", type=int, nargs="*", default=STAGES, help="ZeRO stages")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    print(f"seed: {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "digits"
        all4one("data", "build", "digits", str(data))
        common = [f"data.train={data}/train", f"data.validation={data}/validation", f"run.folder={folder}"]
        cases = [
            _case(Path(folder), [*common, *SMALL, *SETTINGS, f"parallel.zero_stage={stage}"], stage, args)
            for stage in args.stages
        ]
    for case in cases:
        print(
            f"ZeRO {case['zero_stage']}: planned {case['planned']:.4f} "
            f"({', '.join(format(plan['goodput'], '.4f') for plan in case['plans'])}), measured "
            f"{case['measured']:.4f} with {case['kills']} kills (planned {case['planned_kills']:.1f}), "
            f"planned/measured {case['ratio']:.3f}, with the kills that came "
            f"{case['ratio_with_the_kills_that_came']:.3f}, load {case['load']:.1f}"
        )
    result = {"seed": args.seed, "mtbf": args.mtbf, "steps": args.steps, "nproc": args.nproc, "cases": cases}
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(abs(case["ratio"] - 1) > MOST_APART for case in cases))


def _case(folder: Path, settings: list[str], stage: int, args: argparse.Namespace) -> dict[str, Any]:
    """Calibrate, measure and plan one ZeRO stage."""
    numbers = random.Random(args.seed + stage)
    short, length = (f"train.max_steps={count}" for count in (args.calibration_steps, args.steps))
    even = [CALIBRATION_SECONDS] * CALIBRATION_KILLS
    waits = [numbers.expovariate(1 / args.mtbf) for _ in range(args.steps)]
    before, _ = _train(folder, f"before_{stage}", [*settings, short], args.nproc, even, numbers)
    run, kills = _train(folder, f"measured_{stage}", [*settings, length], args.nproc, waits, numbers)
    after, _ = _train(folder, f"after_{stage}", [*settings, short], args.nproc, even, numbers)
    found = status(RunFolder(run), None, None).goodput
    assert found.fraction is not None
    calibrations = (before, after)
    plans = [_plan([*settings, length], one, args.mtbf, args.nproc) for one in calibrations]
    planned = statistics.fmean(plan["goodput"] for plan in plans)
    came = found.elapsed_seconds / max(1, kills)
    with_luck = [_plan([*settings, length], one, came, args.nproc)["goodput"] for one in calibrations]
    return {
        "zero_stage": stage,
        "planned": planned,
        "plans": plans,
        "planned_kills": statistics.fmean(plan["expected"]["failures"] for plan in plans),
        "measured": found.fraction,
        "measured_seconds": found.device_seconds,
        "kills": kills,
        "ratio": planned / found.fraction,
        "planned_with_the_kills_that_came": statistics.fmean(with_luck),
        "ratio_with_the_kills_that_came": statistics.fmean(with_luck) / found.fraction,
        "load": os.getloadavg()[0],
    }


def _plan(settings: list[str], calibration: Path, mtbf: float, nproc: int) -> dict[str, Any]:
    """Return the plan of a run with the times of a calibration run."""
    cluster = ("slurm.recovery=in_place", "slurm.time=1d", f"slurm.tasks_per_node={nproc}")
    options = ("--nodes", "1", "--mtbf", f"{mtbf:.6f}s", "--rank-failures", "1", "--write-time", "0s")
    words = ("plan", "digits_demo", *settings, *cluster, *options, "--from-run", str(calibration), "--json")
    found: dict[str, Any] = json.loads(all4one(*words))
    return {name: found[name] for name in ("goodput", "goodput_interval", "expected", "assumptions")}


def _train(
    folder: Path, name: str, settings: list[str], nproc: int, waits: list[float], numbers: random.Random
) -> tuple[Path, int]:
    """Train a run whose ranks are killed after waits, one at a time. Returns its folder and the number of kills."""
    log = folder / f"{name}.log"
    process = _start(log, "train", "digits_demo", *settings, f"run.name={name}", "--nproc", str(nproc))
    ledger = folder / name / "ledger.jsonl"
    while process.poll() is None and not ledger.exists():
        time.sleep(0.05)
    kills, due, left = 0, time.monotonic(), iter(waits)
    while True:
        for wait in left:
            # A failure that would come while there is no rank comes as soon as there is one.
            due = max(due + wait, time.monotonic())
            if not _wait_until(due, process):
                break
            kills += _kill_a_rank(process, nproc, numbers)
        if process.wait() == 0:
            return folder / name, kills
        if STOPPED not in log.read_text():
            print(log.read_text()[-3000:], file=sys.stderr)
            raise SystemExit(f"run {name} ended with code {process.returncode}")
        log.unlink()
        # The plan, too, lets the user resume a run that stops.
        process = _start(log, "resume", str(folder / name))
        due = time.monotonic()


def _start(log: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(module_command("launch.cli", *arguments), stdout=output, stderr=output)


def _wait_until(due: float, process: "subprocess.Popen[bytes]") -> bool:
    """Wait for a moment. Returns whether the run still trains then."""
    while time.monotonic() < due and process.poll() is None:
        time.sleep(min(0.05, max(0.0, due - time.monotonic())))
    return process.poll() is None


def _kill_a_rank(process: "subprocess.Popen[bytes]", nproc: int, numbers: random.Random) -> bool:
    """Kill a rank at random. While ranks start, wait for them. Returns whether there was one."""
    victim = numbers.randrange(nproc)
    while process.poll() is None:
        ranks = sorted(psutil.Process(process.pid).children(), key=lambda child: child.pid)
        if len(ranks) == nproc:
            ranks[victim].kill()
            return True
        time.sleep(0.02)
    return False


def all4one(*arguments: str) -> str:
    command = module_command("launch.cli", *arguments)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
