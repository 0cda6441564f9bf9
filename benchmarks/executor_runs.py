"""Does it matter for what is learned which executor makes the views? The same short CIFAR-10 run with each.

    python benchmarks/executor_runs.py [--data FOLDER] [--epochs 1] [--seeds 3] [--json FILE] [KEY=VALUE ...]

FOLDER holds `cifar10/train.tar` and `cifar10/test.tar`; without it ALL4ONE_TEST_DATA is looked at. Trains the recipe
`cifar10_short` for some epochs with `opencv` and `dali`, with each seed, and prints kNN top-1 of the trained backbone.
Exits with 1 where the executors' means differ by more than the larger of their ranges over the seeds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cifar10_short import find_cifar10, shards

from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

EXECUTORS = ("opencv", "dali")


def knn(folder: Path, settings: list[str], executor: str, seed: int, epochs: int) -> float:
    """Top-1 in percent of the online backbone after a run."""
    name = f"{executor}-{seed}"
    command = [
        sys.executable,
        "-m",
        "launch.cli",
        "train",
        "cifar10_short",
        f"run.folder={folder}",
        f"run.name={name}",
        f"run.seed={seed}",
        f"data.executor={executor}",
        f"train.epochs={epochs}",
        f"eval.every_epochs={epochs}",
        "optim.warmup_epochs=0.2",
        "metrics.tensorboard=false",
        *settings,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    records = [r for r in read_records(RunFolder(folder / name).metrics) if r["kind"] == "eval"]
    return float(100 * records[-1]["knn_online"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("ALL4ONE_TEST_DATA", "../shared/data"))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    args = parser.parse_args()
    source = find_cifar10(parser, args.data)
    found: dict[str, list[float]] = {executor: [] for executor in EXECUTORS}
    with tempfile.TemporaryDirectory() as name:
        settings = [*shards(source, Path(name)), *args.overrides]
        for seed in range(args.seeds):
            for executor in EXECUTORS:
                found[executor].append(knn(Path(name), settings, executor, seed, args.epochs))
                print(f"seed {seed}, {executor}: kNN {found[executor][-1]:.2f} %", flush=True)
    means = {executor: statistics.mean(values) for executor, values in found.items()}
    spread = max(max(values) - min(values) for values in found.values())
    apart = abs(means["opencv"] - means["dali"])
    for executor, values in found.items():
        print(f"{executor:<8} mean {means[executor]:.2f} %, from {min(values):.2f} to {max(values):.2f}")
    print(f"means differ by {apart:.2f} points, one executor's runs by up to {spread:.2f}")
    if args.json:
        args.json.write_text(json.dumps({"epochs": args.epochs, "knn": found}, indent=1) + "\n")
    return int(apart > spread)


if __name__ == "__main__":
    sys.exit(main())
