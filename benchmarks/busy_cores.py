"""What one busy program costs a run on the CPU.

    python benchmarks/busy_cores.py [--steps 40] [--rounds 2] [--json FILE]

Trains digits_demo for a few steps, alternately alone and beside a program that keeps one core busy. Each is done with
the default number of threads and with a thread for each core. Figures are medians of images/s, relative to a run alone
with a thread for each core. Exits with 1 if the default is below 0.4 beside the busy program, or below 0.97 alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from data_pipelines.cores import usable_cores
from launch.local.rank_processes import module_command
from trainer.runs.records import read_ledger, read_speeds

LEAST_BESIDE, LEAST_ALONE = 0.4, 0.97
BUSY = "while True: pass"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cores = usable_cores()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "digits"
        subprocess.run(
            module_command("launch.cli", "data", "build", "digits", str(data)),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for number in range(args.rounds):
            for threads in (0, cores):
                for beside in (False, True):
                    kind = "a thread for each core" if threads else "default"
                    name = f"{kind}, {'beside' if beside else 'alone'}"
                    run = Path(folder) / f"{number}_{threads}_{beside}"
                    steps = args.steps if not (threads and beside) else 3  # it takes half a minute for a step
                    found.setdefault(name, []).append(speed(run, data, steps, threads, beside=beside))
    basis = statistics.median(found["a thread for each core, alone"])
    ratios = {name: statistics.median(speeds) / basis for name, speeds in found.items()}
    for name, ratio in ratios.items():
        print(f"{name}: {statistics.median(found[name]):.1f} images/s, {ratio:.3f}")
    if args.json:
        args.json.write_text(
            json.dumps({"cores": cores, "images_per_second": found, "ratios": ratios}, indent=1)
        )
    missed = ratios["default, beside"] < LEAST_BESIDE or ratios["default, alone"] < LEAST_ALONE
    return int(missed)


def speed(run: Path, data: Path, steps: int, threads: int, *, beside: bool) -> float:
    """Return the median images/s of a run's steps after the first."""
    busy = subprocess.Popen([sys.executable, "-c", BUSY]) if beside else None
    try:
        subprocess.run(
            module_command(
                "launch.cli",
                "train",
                "digits_demo",
                f"data.train={data}/train",
                "data.validation=null",
                f"train.max_steps={steps}",
                f"run.folder={run.parent}",
                f"run.name={run.name}",
                "optim.warmup_epochs=0",
                "metrics.log_every=1",
                "metrics.tensorboard=false",
                f"parallel.torch_threads={threads}",
            ),
            check=True,
            stdout=subprocess.DEVNULL,
        )
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()
    taken = next(
        record["torch_threads"] for record in read_ledger(run / "ledger.jsonl") if record["event"] == "ready"
    )
    speeds = [speed for _, speed in read_speeds(run / "metrics.jsonl")[1:] if speed is not None]
    print(f"{run.name}: {taken} threads, {statistics.median(speeds):.1f} images/s", flush=True)
    return statistics.median(speeds)


if __name__ == "__main__":
    sys.exit(main())
